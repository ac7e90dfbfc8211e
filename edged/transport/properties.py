"""Messages as MQTT carries them to and from edged's ``WireProperties`` and ``Delivery``.

Rule: what arrives is read once, from the front: a byte costs the same wherever it stands. paho's
own reading copies all that follows for each property, and 12,000 empty ones take it seconds.
"""

from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import Properties, VariableByteIntegers

from edged.protocol import MAX_USER_PROPERTIES, Delivery, WireProperties

_SUBSCRIPTION_IDENTIFIER, _USER_PROPERTY = 0x0B, 0x26
"""The two that may stand more than once."""
_MAX_LENGTH_BYTES = 4


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


class Received(mqtt.MQTTMessage):
    """A message of MQTT 5, with its properties as edged reads them."""

    __slots__ = ("wire",)

    def __init__(self, packet_id: int, topic: bytes, wire: WireProperties) -> None:
        super().__init__(packet_id, topic)
        self.wire = wire


def read_publish(header: int, packet: bytes) -> Received:
    """Read a PUBLISH of MQTT 5.

    Args:
        header: Its first byte.
        packet: All after its length.

    Raises:
        MalformedPacket: It is none, or of a QoS that edged does not ask for.
    """
    reader = _Reader(packet, 0, len(packet))
    topic = reader.binary()
    qos = header >> 1 & 3
    if qos > 1:
        raise MalformedPacket(f"a message of QoS {qos}")
    packet_id = reader.number(2) if qos else 0
    wire = reader.properties()
    message = Received(packet_id, topic, wire)
    message.dup, message.qos, message.retain = bool(header & 8), qos, bool(header & 1)
    message.payload = packet[reader.at :]
    return message


def read_properties(packet: bytes) -> WireProperties:
    """Read the properties of a PUBLISH, their length first; what follows is not looked at.

    Of the user properties one more is kept than a request may have, so that it can be refused.

    Raises:
        MalformedPacket: They break a rule of MQTT 5 (§2.2.2, §3.3.2.3).
    """
    return _Reader(packet, 0, len(packet)).properties()


class _Reader:
    """A place in a packet that moves forward as values are read.

    Raises:
        MalformedPacket: By each method, when what it reads breaks a rule.
    """

    def __init__(self, packet: bytes, at: int, end: int) -> None:
        self._packet = packet
        self.at = at
        self._end = end

    def skip(self, size: int) -> int:
        """Step over so many bytes and return where they begin.

        Raises:
            MalformedPacket: There are not so many.
        """
        start, self.at = self.at, self.at + size
        if self.at > self._end:
            raise MalformedPacket("a value is longer than what holds it")
        return start

    def take(self, size: int) -> bytes:
        return self._packet[self.skip(size) : self.at]

    def byte(self) -> int:
        return self._packet[self.skip(1)]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def length(self) -> int:
        """Read a Variable Byte Integer.

        Raises:
            MalformedPacket: It has no end.
        """
        value = 0
        for place in range(_MAX_LENGTH_BYTES):
            byte = self.byte()
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
            raise MalformedPacket("a text is not UTF-8") from error
        if "\0" in text:
            raise MalformedPacket("a text has U+0000")
        return text

    def skip_user_properties(self) -> None:
        """Step over one user property and those that follow it: 13,000 of them fit into a packet.

        Their message is refused anyway, so whether they are UTF-8 is not looked at.

        Raises:
            MalformedPacket: The last one is longer than the section.
        """
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
        """Read a section of properties, its length first."""
        size = self.length()
        start = self.skip(size)
        return _Reader(self._packet, start, self.at).section()

    def section(self) -> WireProperties:
        """Read properties to the end.

        Raises:
            MalformedPacket: One of them is not of a PUBLISH, or stands twice.
        """
        found: dict[str, Any] = {}
        pairs: list[tuple[str, str]] = []
        while self.at < self._end:
            kind = self.byte()
            if kind == _USER_PROPERTY and len(pairs) > MAX_USER_PROPERTIES:
                self.skip_user_properties()
            elif kind == _USER_PROPERTY:
                pairs.append((self.text(), self.text()))
            elif kind == _SUBSCRIPTION_IDENTIFIER:
                _above_zero(self.length())
            elif kind not in _PROPERTIES:
                raise MalformedPacket(f"a property {kind} that a PUBLISH has not")
            else:
                name, read = _PROPERTIES[kind]
                if name in found:
                    raise MalformedPacket(f"two of the property {kind}")
                found[name] = read(self)
        found.pop(_TOPIC_ALIAS, None)
        return WireProperties(user_properties=tuple(pairs), **found)


def _above_zero(value: int) -> int:
    if value == 0:
        raise MalformedPacket("a number that must not be 0")
    return value


_TOPIC_ALIAS = "topic_alias"
_PROPERTIES: dict[int, tuple[str, Callable[[_Reader], Any]]] = {
    # Mosquitto 2.0 passes on any value, and a message that ended the connection would come again.
    0x01: ("payload_format", _Reader.byte),
    0x02: ("message_expiry_s", lambda reader: reader.number(4)),
    0x03: ("content_type", _Reader.text),
    0x08: ("response_topic", _Reader.text),
    0x09: ("correlation_data", _Reader.binary),
    0x23: (_TOPIC_ALIAS, lambda reader: _above_zero(reader.number(2))),
}


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
        properties=properties_of(message),
        packet_id=message.mid,
        connection_epoch=epoch,
    )


def properties_of(message: mqtt.MQTTMessage) -> WireProperties:
    """Return the properties of a message; over MQTT 3.1.1 there are none."""
    return message.wire if isinstance(message, Received) else WireProperties()
