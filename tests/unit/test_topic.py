"""Topic rules: everything a broker may refuse, and the topics a node makes itself."""

import json
import sys

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.commands.broker_options import BrokerOptions
from edged.config.broker_url import BrokerAddress
from edged.config.load import load_config
from edged.daemon.homeassistant import Announcement, status_topic
from edged.errors import ConfigError
from edged.protocol.topic import (
    MAX_LEVELS,
    MAX_TOPIC_BYTES,
    refuse_prefix,
    refuse_topic,
)
from edged.protocol.wire import MAX_USER_BYTES, Topics

LONGEST_ID = "i" * 64
LONGEST_NODE = "n" * 32


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", "it is empty"),
        ("$SYS/x", "it starts with $"),
        ("reply/+", "it has a wildcard"),
        ("reply/#", "it has a wildcard"),
        ("/".join("a" * (MAX_LEVELS + 1)), "it has more than 16 levels"),
        ("a" * (MAX_TOPIC_BYTES + 1), "it is longer than 256 bytes"),
        ("é" * (MAX_TOPIC_BYTES // 2 + 1), "it is longer than 256 bytes"),
    ],
)
def test_a_topic_is_refused_with_the_reason(topic: str, reason: str) -> None:
    assert refuse_topic(topic) == reason


@pytest.mark.parametrize("topic", ["a", "/", "a//b", " ", "küche 1", "\ufeffx", "日本/😀"])
def test_what_brokers_take_is_allowed(topic: str) -> None:
    assert refuse_topic(topic) is None


def test_the_longest_and_the_deepest_topic_are_allowed() -> None:
    assert refuse_topic("é" * (MAX_TOPIC_BYTES // 2)) is None
    assert refuse_topic("/".join("a" * MAX_LEVELS)) is None


def is_forbidden(code: int) -> bool:
    is_control = code < 0x20 or 0x7F <= code <= 0x9F
    is_surrogate = 0xD800 <= code <= 0xDFFF
    return is_control or is_surrogate or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE


def test_every_control_character_surrogate_and_noncharacter_is_refused_and_nothing_else() -> None:
    codes = set(range(sys.maxunicode + 1)) - set(map(ord, "+#/"))
    forbidden = set(filter(is_forbidden, codes))
    assert [hex(code) for code in forbidden if refuse_topic(f"a{chr(code)}") is None] == []
    # Of those that are allowed, as many at once as any topic has room for.
    allowed = "".join(map(chr, sorted(codes - forbidden)))
    topics = [f"a{allowed[at : at + 60]}" for at in range(0, len(allowed), 60)]
    assert [(topic, why) for topic in topics if (why := refuse_topic(topic)) is not None] == []


PREFIXES = st.text(max_size=70).filter(lambda prefix: refuse_prefix(prefix) is None)


@given(PREFIXES)
def test_every_topic_of_a_node_is_allowed_whatever_its_prefix(prefix: str) -> None:
    topics = Topics(prefix, LONGEST_NODE, group="g" * 32)
    announced = Announcement(topics, "/".join(["h" * 7] * 8), "ha" * 32, "model", can_ask=True)
    own = [topics.availability, topics.info, topics.state, topics.event, topics.stream(LONGEST_ID)]
    client = topics.client("u" * MAX_USER_BYTES)
    own += [client.request("generate"), client.stream(LONGEST_ID)]
    replies = [topics.response("generate"), client.response("generate"), announced.reply_topic]
    others = [
        announced.topic,
        status_topic(announced.prefix),
        f"{topics.group_root}/probe/{LONGEST_NODE}",
    ]
    assert [refuse_topic(topic) for topic in (*own, *replies, *others)] == [None] * 13


TOPIC_KEYS = [
    "prefix",
    "homeassistant.prefix",
    "homeassistant.user",
    "request.reply_prefixes",
    "node",
    "group.name",
]


@pytest.mark.parametrize("bad", ["\x85", "\ufdd0", "\uffff", "\U0001ffff", "\ud800", "\x7f", "\n"])
@pytest.mark.parametrize("key", [*TOPIC_KEYS, "broker.username", "broker.client_id"])
def test_a_configured_text_that_no_broker_takes_is_refused_with_its_key(key: str, bad: str) -> None:
    section, _, name = key.rpartition(".")
    text = json.dumps({section: {name: f"a{bad}b"}} if section else {name: f"a{bad}b"})
    with pytest.raises(ConfigError) as caught:
        load_config(text, "edged.yaml", overrides={"model.path": "m"})
    # YAML itself takes no lone surrogate and few of the others, wherever they stand.
    assert str(caught.value).startswith((f"{key}: expected ", "edged.yaml: not YAML"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prefix", "a/" * 8 + "a"),
        ("prefix", "é" * 33),
        ("homeassistant.prefix", "a/" * 8 + "a"),
        ("request.reply_prefixes", "a/" * 16),
        ("request.reply_prefixes", "a" * 256),
        ("request.reply_prefixes", "$share/"),
        ("request.reply_prefixes", ""),
        ("homeassistant.user", "a/b"),
        ("homeassistant.user", "u" * 65),
    ],
)
def test_a_configured_topic_that_leaves_no_room_is_refused_with_its_key(
    key: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: expected "):
        load_config("", "edged.yaml", overrides={"model.path": "m", key: value})


@pytest.mark.parametrize("name", ["a/b", "a+", "a\x85", "u" * 65, ""])
def test_a_user_name_that_is_no_level_of_a_topic_is_left_out_of_ones_reply_topic(name: str) -> None:
    def reply_topic(username: str) -> str:
        address = BrokerAddress("localhost", 1883, username=username)
        return BrokerOptions(address, "kitchen").reply_topic("1")

    assert reply_topic(name) == "edged/kitchen/response/generate/1"
    assert reply_topic("ha") == "edged/kitchen/client/ha/response/generate/1"


@pytest.mark.parametrize("prefix", ["it's", 'say "it\'s"', "back\\slash", "}} {{", "küche 😀"])
def test_home_assistant_asks_with_the_reply_topic_whatever_the_prefix(prefix: str) -> None:
    announced = Announcement(
        Topics(prefix, "kitchen"), "homeassistant", "ha", "model", can_ask=True
    )
    template = json.loads(announced.message().payload)["cmps"]["ask"]["command_template"]
    asked = json.loads(jinja2.Environment(autoescape=True).from_string(template).render(value="x"))
    assert (asked["prompt"], asked["response_topic"]) == ("x", announced.reply_topic)
