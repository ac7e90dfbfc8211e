"""MQTT 5 properties and PUBLISH packets to and from ``WireProperties`` and ``Delivery``.

Rule: a packet is read once, front to back, so that its cost is linear in its size. paho's parser
copies the rest of the packet for each property: 12,000 empty ones take it seconds.
"""

from collections.abc import Callable
from typing import Any

from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import Properties, VariableByteIntegers

from edged.protocol.wire import MAX_USER_PROPERTIES, Delivery, Encoded, WireProperties

# The two properties that may occur more than once.
_SUBSCRIPTION_IDENTIFIER, _USER_PROPERTY = 0x0B, 0x26
_MAX_LENGTH_BYTES = 4


class _Packed(Properties):
    """The encoded properties of one PUBLISH; building paho's own object takes ten times as long."""

    packed: bytes

    def __init__(self, packed: bytes) -> None:
        object.__setattr__(self, "packed", packed)  # paho allows only the names of MQTT properties

    def pack(self) -> bytes:
        return self.packed


def to_paho(properties: WireProperties) -> Properties:
    """Encode the properties of a PUBLISH packet, without those that are None or empty."""
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


def publish_bytes(message: Encoded, properties: Properties | None) -> int:
    """Return the size of a PUBLISH packet (§3.3) of QoS 1, with the longest header it may have."""
    header_bytes, packet_id_bytes = 5, 2
    packed_bytes = 0 if properties is None else len(properties.pack())  # type: ignore[no-untyped-call] # paho has no types here
    content_bytes = len(_text(message.topic)) + packed_bytes + len(message.payload)
    return header_bytes + packet_id_bytes + content_bytes


def _text(value: str) -> bytes:
    return _binary(value.encode())


def _binary(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def read_publish(
    header: int, packet: bytes, epoch: int = 0, client_id: str = "", *, has_properties: bool
) -> Delivery:
    """Parse a PUBLISH (§3.3).

    A topic that is not UTF-8 becomes the empty one, which no message has.

    Args:
        header: First byte of the fixed header.
        packet: Everything after the remaining length.
        epoch: Number of its connection.
        client_id: Of its connection.
        has_properties: It is of MQTT 5, not 3.1.1.

    Raises:
        MalformedPacket: It breaks a rule of MQTT 5, or has QoS 2, which edged never asks for.
    """
    reader = _Reader(packet, 0, len(packet))
    topic = reader.binary()
    qos = header >> 1 & 3
    if qos > 1:
        raise MalformedPacket(f"a message of QoS {qos}")
    packet_id = reader.number(2) if qos else 0
    properties = WireProperties()
    if has_properties:
        size = reader.length()
        properties = _Reader(packet, reader.skip(size), reader.at).properties()
    return Delivery(
        topic=_utf_8_or_empty(topic),
        payload=packet[reader.at :],
        retain=bool(header & 1),
        qos=qos,
        is_redelivery=bool(header & 8),
        properties=properties,
        packet_id=packet_id,
        connection_epoch=epoch,
        client_id=client_id,
    )


def _utf_8_or_empty(topic: bytes) -> str:
    text = topic.decode(errors="ignore")
    return text if len(text.encode()) == len(topic) else ""


class _Reader:
    """A cursor in a packet; every method raises ``MalformedPacket`` at a broken rule."""

    def __init__(self, packet: bytes, at: int, end: int) -> None:
        self._packet = packet
        self.at = at
        self._end = end

    def skip(self, size: int) -> int:  # returns where the skipped bytes start
        start, self.at = self.at, self.at + size
        if self.at > self._end:
            raise MalformedPacket("a value extends beyond its section")
        return start

    def take(self, size: int) -> bytes:
        return self._packet[self.skip(size) : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def length(self) -> int:  # a Variable Byte Integer (§1.5.5)
        value = 0
        for place in range(_MAX_LENGTH_BYTES):
            byte = self.number(1)
            value |= (byte & 0x7F) << 7 * place
            if not byte & 0x80:
                return value
        raise MalformedPacket("a length of more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.number(2))

    def text(self) -> str:
        try:
            text = self.binary().decode()
        except UnicodeDecodeError as error:
            raise MalformedPacket("a string is not UTF-8") from error
        if "\0" in text:
            raise MalformedPacket("a string contains U+0000")
        return text

    def skip_user_properties(self) -> None:
        # Up to 13,000 fit into a packet. Not decoded, since their message is refused anyway.
        packet, at, end = self._packet, self.at, self._end
        try:
            while True:
                at += 2 + (packet[at] << 8 | packet[at + 1])
                at += 2 + (packet[at] << 8 | packet[at + 1])
                if at >= end or packet[at] != _USER_PROPERTY:
                    break
                at += 1
        except IndexError:
            at = end + 1
        self.skip(at - self.at)

    def properties(self) -> WireProperties:
        found: dict[str, Any] = {}
        pairs: list[tuple[str, str]] = []
        while self.at < self._end:
            kind = self.number(1)
            if kind == _USER_PROPERTY and len(pairs) > MAX_USER_PROPERTIES:
                self.skip_user_properties()  # one too many is kept, so that the request is refused
            elif kind == _USER_PROPERTY:
                pairs.append((self.text(), self.text()))
            elif kind == _SUBSCRIPTION_IDENTIFIER:
                _positive(self.length())
            elif kind not in _PROPERTIES:
                raise MalformedPacket(f"property {kind} is not allowed in a PUBLISH")
            else:
                name, read = _PROPERTIES[kind]
                if name in found:
                    raise MalformedPacket(f"property {kind} occurs twice")
                found[name] = read(self)
        found.pop(_TOPIC_ALIAS, None)
        return WireProperties(user_properties=tuple(pairs), **found)


def _positive(value: int) -> int:
    if value == 0:
        raise MalformedPacket("a number that must not be 0")
    return value


_TOPIC_ALIAS = "topic_alias"
_PROPERTIES: dict[int, tuple[str, Callable[[_Reader], Any]]] = {
    # Mosquitto 2.0 passes on any value; a message that ends the connection would come back.
    0x01: ("payload_format", lambda reader: reader.number(1)),
    0x02: ("message_expiry_s", lambda reader: reader.number(4)),
    0x03: ("content_type", _Reader.text),
    0x08: ("response_topic", _Reader.text),
    0x09: ("correlation_data", _Reader.binary),
    0x23: (_TOPIC_ALIAS, lambda reader: _positive(reader.number(2))),
}
