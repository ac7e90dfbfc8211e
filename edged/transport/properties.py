"""edged's ``WireProperties`` and ``Delivery`` to and from what paho has for them."""

from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edged.messages import Delivery, WireProperties

_NAMES = {
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "content_type": "ContentType",
    "payload_format": "PayloadFormatIndicator",
    "message_expiry_s": "MessageExpiryInterval",
    "user_properties": "UserProperty",
}


def to_paho(properties: WireProperties) -> Properties:
    """Build the properties of a PUBLISH packet; what is None or empty is left out."""
    converted = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call] # paho has no types here
    for name, paho_name in _NAMES.items():
        value = getattr(properties, name)
        if value is not None and value != ():
            setattr(converted, paho_name, list(value) if isinstance(value, tuple) else value)
    return converted


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
        properties=_from_paho(message.properties),
        packet_id=message.mid,
        connection_epoch=epoch,
    )


def _from_paho(properties: Properties | None) -> WireProperties:
    # There are none over MQTT 3.1.1.
    found: dict[str, Any] = {
        name: getattr(properties, paho_name)
        for name, paho_name in _NAMES.items()
        if hasattr(properties, paho_name)
    }
    if "user_properties" in found:
        found["user_properties"] = tuple(found["user_properties"])
    return WireProperties(**found)
