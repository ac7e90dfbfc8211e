"""edged's ``WireProperties`` and ``Delivery`` to and from what paho has for them."""

from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties, VariableByteIntegers

from edged.messages import Delivery, WireProperties

_NAMES = {
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "content_type": "ContentType",
    "payload_format": "PayloadFormatIndicator",
    "message_expiry_s": "MessageExpiryInterval",
    "user_properties": "UserProperty",
}


class _Packed(Properties):
    """The properties of one PUBLISH as bytes; building paho's own takes ten times as long."""

    packed: bytes

    def __init__(self, packed: bytes) -> None:
        object.__setattr__(self, "packed", packed)  # paho's own takes no other names than MQTT's

    def pack(self) -> bytes:
        """Return what stands in the packet, its length first."""
        return self.packed


def to_paho(properties: WireProperties) -> Properties:
    """Build the properties of a PUBLISH packet; what is None or empty is left out."""
    parts = [b"\x26" + _text(name) + _text(value) for name, value in properties.user_properties]
    if properties.payload_format is not None:
        parts.append(bytes((0x01, properties.payload_format)))
    if properties.message_expiry_s is not None:
        parts.append(b"\x02" + properties.message_expiry_s.to_bytes(4, "big"))
    if properties.content_type is not None:
        parts.append(b"\x03" + _text(properties.content_type))
    if properties.response_topic is not None:
        parts.append(b"\x08" + _text(properties.response_topic))
    if properties.correlation_data is not None:
        parts.append(b"\x09" + _binary(properties.correlation_data))
    packed = b"".join(parts)
    return _Packed(VariableByteIntegers.encode(len(packed)) + packed)  # type: ignore[no-untyped-call] # paho has no types here


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _binary(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def to_delivery(message: mqtt.MQTTMessage, epoch: int) -> Delivery:
    """Read a message that arrived on the connection ``epoch``.

    Raises:
        UnicodeDecodeError: Its topic is not UTF-8.
    """
    return Delivery(
        topic=message.topic,
        payload=bytes(message.payload),
        retain=bool(message.retain),
        qos=message.qos,
        is_redelivery=bool(message.dup),
        properties=from_paho(message.properties),
        packet_id=message.mid,
        connection_epoch=epoch,
    )


def from_paho(properties: Properties | None) -> WireProperties:
    """Read the properties of a PUBLISH; over MQTT 3.1.1 there are none."""
    found: dict[str, Any] = {
        name: getattr(properties, paho_name)
        for name, paho_name in _NAMES.items()
        if hasattr(properties, paho_name)
    }
    if "user_properties" in found:
        found["user_properties"] = tuple(found["user_properties"])
    return WireProperties(**found)
