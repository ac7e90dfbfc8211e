"""The properties of a PUBLISH: parsed in linear time, with the same values as paho."""

import struct
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

from edged.protocol.wire import MAX_USER_PROPERTIES, Delivery, WireProperties
from edged.transport.properties import read_publish, to_paho


def string(data: bytes) -> bytes:
    return struct.pack("!H", len(data)) + data


# paho refuses U+FEFF, which MQTT 5 allows (§1.5.4); it has a test of its own.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=9)
PAHO_NAMES = {
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "content_type": "ContentType",
    "payload_format": "PayloadFormatIndicator",
    "message_expiry_s": "MessageExpiryInterval",
    "user_properties": "UserProperty",
}
PARTS = {
    0x01: st.integers(0, 1).map(lambda value: bytes([value])),
    0x02: st.binary(min_size=4, max_size=4),
    0x03: TEXTS.map(lambda text: string(text.encode())),
    0x08: TEXTS.map(lambda text: string(text.encode())),
    0x09: st.binary(max_size=9).map(string),
    0x23: st.integers(1, 65535).map(lambda value: struct.pack("!H", value)),
}
REPEATED = {
    0x0B: st.integers(1, 2**28 - 1).map(VariableByteIntegers.encode),
    0x26: st.tuples(TEXTS, TEXTS).map(lambda pair: b"".join(string(t.encode()) for t in pair)),
}


def section(*parts: bytes) -> bytes:
    """What stands in a packet: the length, then the properties."""
    joined = b"".join(parts)
    length: bytes = VariableByteIntegers.encode(len(joined))  # type: ignore[no-untyped-call]
    return length + joined


@st.composite
def parts(draw: st.DrawFn) -> list[bytes]:
    """Properties of every kind that a PUBLISH has, in any order."""
    once = draw(st.lists(st.sampled_from(sorted(PARTS)), unique=True))
    often = draw(st.lists(st.sampled_from(sorted(REPEATED)), max_size=6))
    made = [bytes([kind]) + draw((PARTS | REPEATED)[kind]) for kind in [*once, *often]]
    return draw(st.permutations(made))


def read(header: int, packet: bytes) -> Delivery:
    return read_publish(header, packet, has_properties=True)


def read_properties(packet: bytes) -> WireProperties:
    """Read a section of properties, as it stands in a message of QoS 0 to the topic ``t``."""
    return read(0x30, string(b"t") + packet).properties


def read_by_paho(packet: bytes) -> dict[str, Any]:
    read = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    read.unpack(packet)  # type: ignore[no-untyped-call]
    return {ours: getattr(read, name) for ours, name in PAHO_NAMES.items() if hasattr(read, name)}


class Counted(bytes):
    """Bytes that count how many of them are looked at."""

    touched = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:  # noqa: ANN401 - as it comes
        found = super().__getitem__(key)
        self.touched += len(found) if isinstance(found, bytes) else 1
        return found


def num_touched(packet: bytes) -> int:
    counted = Counted(string(b"t") + packet)
    read(0x30, counted)
    return counted.touched


@given(parts())
def test_what_paho_reads_from_a_section_is_read(made: list[bytes]) -> None:
    packet = section(*made) + b"the payload"
    expected = read_by_paho(packet)
    expected["user_properties"] = tuple(expected.get("user_properties", ()))
    assert read_properties(packet) == WireProperties(**expected)


@given(parts())
def test_a_section_that_ends_early_is_malformed(made: list[bytes]) -> None:
    packet = section(*made)
    for end in range(len(packet)):
        with pytest.raises(MalformedPacket):
            read_properties(packet[:end])


@given(parts())
def test_a_property_that_reaches_past_its_section_is_malformed(made: list[bytes]) -> None:
    """The length says less than there is, and the bytes behind it are the payload's."""
    whole = b"".join(made)
    ends = {len(b"".join(made[:number])) for number in range(len(made) + 1)}
    for end in set(range(len(whole))) - ends:
        with pytest.raises(MalformedPacket):
            read_properties(section(whole[:end]) + whole[end:] + bytes(9))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "response_topic": TEXTS,
            "correlation_data": st.binary(max_size=9),
            "content_type": TEXTS,
            "payload_format": st.integers(0, 1),
            "message_expiry_s": st.integers(0, 2**32 - 1),
            "user_properties": st.lists(st.tuples(TEXTS, TEXTS), max_size=4).map(tuple),
        },
    )
)
def test_what_is_written_is_read_back(members: dict[str, Any]) -> None:
    properties = WireProperties(**members)
    packed = to_paho(properties).pack()  # type: ignore[no-untyped-call]
    assert read_properties(packed) == properties


@pytest.mark.parametrize("properties", [b"\x26" + bytes(4), b"\x26" + string(b"ab") + string(b"c")])
@pytest.mark.parametrize("num", [10, 100, 1000])
def test_ten_times_the_properties_are_looked_at_ten_times_as_much(
    properties: bytes, num: int
) -> None:
    few, many = num_touched(section(properties * num)), num_touched(section(properties * num * 10))
    assert few > 0
    assert many <= 10 * few
    assert many <= 2 * len(properties) * num * 10 + 9


@pytest.mark.parametrize("num", [0, 63, 64, 65, 66, 12_000])
def test_of_many_user_properties_one_more_is_kept_than_a_request_may_have(num: int) -> None:
    pairs = [b"\x26" + string(b"k") + string(b"v")] * num
    middle = num // 2
    topic, data = b"\x08" + string(b"reply/me"), b"\x09" + string(b"c")
    read = read_properties(section(*pairs[:middle], topic, *pairs[middle:], data))
    assert read.response_topic == "reply/me"
    assert read.correlation_data == b"c"
    assert read.user_properties == (("k", "v"),) * min(num, MAX_USER_PROPERTIES + 1)


MANY = b"\x26" + bytes(4)


@pytest.mark.parametrize("value", [2, 255])
def test_a_payload_format_that_brokers_pass_on_does_not_end_the_connection(value: int) -> None:
    assert read_properties(bytes((2, 0x01, value))).payload_format == value


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (b"\x11" + bytes(4), "property 17"),  # a Session Expiry Interval
        (b"\xff\x01" + bytes(4), "property 255"),
        (b"\x0b\x00", "must not be 0"),
        (b"\x0b\x80\x80\x80\x80\x01", "four bytes"),
        (b"\x23\x00\x00", "must not be 0"),
        (b"\x03\x00\x01\xff", "UTF-8"),
        (b"\x08\x00\x03\xed\xa0\x80", "UTF-8"),
        (b"\x03\x00\x01\x00", "U\\+0000"),
        (b"\x26\x00\x01\x00\x00\x00", "U\\+0000"),
        (b"\x01\x01\x01\x01", "property 1 occurs twice"),
        (b"\x09\x00\x00\x09\x00\x00", "property 9 occurs twice"),
        (MANY * 66 + b"\x26\x00\x05ab", "beyond its section"),
        (MANY * 66 + b"\x26\x00\x00\x00\x05ab", "beyond its section"),
        (MANY * 66 + b"\x26", "beyond its section"),
    ],
)
def test_what_a_publish_must_not_have_is_malformed(wrong: bytes, named: str) -> None:
    with pytest.raises(MalformedPacket, match=named):
        read_properties(section(wrong))
    with pytest.raises(MalformedPacket):  # nor by the bytes of a payload behind it
        read_properties(section(wrong) + b"\x00" * 9)


def test_a_zero_width_no_break_space_is_a_character_like_others() -> None:
    """paho ends the connection for it, and the broker delivers the message again."""
    text = "\ufeff\ufffe\u0085"
    packet = section(b"\x26" + string(text.encode()) * 2, b"\x03" + string(text.encode()))
    assert read_properties(packet) == WireProperties(
        content_type=text, user_properties=((text, text),)
    )


def test_a_whole_publish_is_read() -> None:
    packet = string(b"a/b") + b"\x00\x07" + section(b"\x08" + string(b"r")) + b"hello"
    message = read(0x3B, packet)
    assert (message.topic, message.packet_id, message.payload) == ("a/b", 7, b"hello")
    assert (message.qos, message.is_redelivery, message.retain) == (1, True, True)
    assert message.properties == WireProperties(response_topic="r")
    once = read(0x30, string(b"a") + b"\x00")
    assert (once.qos, once.is_redelivery, once.retain, once.packet_id, once.payload) == (
        0,
        False,
        False,
        0,
        b"",
    )


def test_a_publish_of_mqtt_3_1_1_has_no_properties() -> None:
    message = read_publish(0x32, string(b"a/b") + b"\x00\x07" + b"hello", has_properties=False)
    assert message == Delivery("a/b", b"hello", qos=1, packet_id=7)


def test_of_a_topic_that_is_not_utf_8_only_the_packet_id_is_of_use() -> None:
    message = read(0x32, string(b"a/\xff") + b"\x00\x07\x00")
    assert (message.topic, message.packet_id) == ("", 7)


@pytest.mark.parametrize("header", [0x34, 0x36])
def test_a_publish_of_a_qos_that_nobody_asked_for_is_malformed(header: int) -> None:
    with pytest.raises(MalformedPacket, match="QoS"):
        read(header, string(b"a") + b"\x00\x01\x00")


def test_a_publish_that_ends_early_is_malformed() -> None:
    packet = string(b"a/b") + b"\x00\x07" + section(b"\x08" + string(b"r"))
    for end in range(len(packet)):
        with pytest.raises(MalformedPacket):
            read(0x32, packet[:end])
