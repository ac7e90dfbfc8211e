"""The exchanges of ``docs/exchanges.md``, played against the daemon on a broker.

The page alone defines what is sent and what must come back. Texts, times and counts depend on the
model and the machine; everything else is compared.
"""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.commands.local_broker import running
from tests.paths import ROOT
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import Peer, peer

PAGE = (ROOT / "docs" / "exchanges.md").read_text("utf-8")
ELSEWHERE = {
    # Exchanges that need more than a request, and the tests that play them.
    "A choice, and one that max_tokens cuts": "a model that knows the answer; hostile/test_answers",
    "A cancel of what runs; its answer so far follows": "a long answer; cases of conformance",
    "A correction": "a specialist; test_corrections",
    "A specialist decides, is unsure, and is not there": "one; model/test_specialists_page",
    "A node comes and goes; both are retained": "an end; test_daemon",
    "A member of a group joins when its probe has come back": "a start; test_group",
    "Home Assistant has started, and is told what there is; this is retained": "test_homeassistant",
    "identity_required": "a node that answers accounts only; test_accounts",
    "timeout": "a slow model; cases of conformance",
    "queue_full": "a full queue; cases of conformance",
    "cancelled": "a busy engine; cases of conformance",
    "crashed_before": "a crash; test_daemon",
    "internal": "a failing engine; unit/test_node",
    "memory_pressure": "too little memory; unit/test_node",
    "Retained": "a broker that kept a message; unit/test_protocol",
    "Expired": "a broker that delivers what expired; unit/test_protocol",
    "Events": "what causes each; test_events",
}
SENT, RECEIVED = "→", "←"
# Numbers that depend on the model or the machine, at any depth.
MEASURED = {
    *("usage", "timing", "prompt_tokens", "max_model_len", "retry_after_ms"),
    *("choice", "probabilities"),
}


@dataclass(frozen=True)
class Message:
    """One message of the page, or one that arrived."""

    arrow: str
    topic: str
    properties: tuple[str, ...]
    payload: str


def read_messages(block: str) -> list[Message]:
    """Read the messages of one exchange."""
    messages = []
    for part in re.split(rf"^(?=[{SENT}{RECEIVED}] )", block, flags=re.MULTILINE)[1:]:
        head, *lines = part.strip().split("\n")
        texts = [line.strip() for line in lines]
        properties = texts.pop(0)[1:-1].split(", ") if len(texts) > 1 else []
        messages.append(Message(head[0], head[2:], tuple(properties), texts[0]))
    return messages


EXCHANGES = {
    (name or "Events").strip("`"): read_messages(block)
    for name, block in re.findall(
        r"(?:^([^\n]+):\n\n|^Those that stand above[^\n]*\n\n)```text\n(.*?)```",
        PAGE,
        re.MULTILINE | re.DOTALL,
    )
}
PLAYED = [name for name in EXCHANGES if name not in ELSEWHERE]


def written_out(payload: str) -> bytes:
    """Restore the characters that the page leaves out; a word is a token of the tiny model."""
    found = re.search("… ([0-9,]+) (characters|tokens) …", payload)
    if found is not None:
        text = "x" * int(found[1].replace(",", ""))
        payload = payload.replace(found[0], text)
    return payload.encode()


def split_at_requests(messages: list[Message]) -> list[list[Message]]:
    """Split an exchange into requests, each with its responses."""
    starts = [index for index, message in enumerate(messages) if message.arrow == SENT]
    return [messages[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def publish(client: Peer, message: Message) -> None:
    """Send a message of the page as MQTT 5."""
    given = dict(item.split(": ", 1) for item in message.properties if ": " in item)
    properties: dict[str, object] = {
        name.replace(" ", ""): value for name, value in given.items() if name != "Message Expiry"
    }
    if "CorrelationData" in properties:
        properties["CorrelationData"] = given["Correlation Data"].encode()
    if "Message Expiry" in given:
        properties["MessageExpiryInterval"] = int(given["Message Expiry"])
    client.publish(message.topic, written_out(message.payload), **properties)


def arrived(message: mqtt.MQTTMessage) -> Message:
    """Describe a message as the page does."""
    wire: Any = message.properties
    properties = []
    if hasattr(wire, "CorrelationData"):
        properties.append(f"Correlation Data: {wire.CorrelationData.decode()}")
    if hasattr(wire, "MessageExpiryInterval"):
        properties.append(f"Message Expiry: {wire.MessageExpiryInterval}")
    properties += [f"{name}: {value}" for name, value in getattr(wire, "UserProperty", [])]
    return Message(RECEIVED, message.topic, tuple(properties), message.payload.decode())


def without_measures(value: object, key: str = "") -> object:
    """Replace texts of the model and measured values by their types."""
    if key == "json" and isinstance(value, dict):
        return {name: type(member).__name__ for name, member in value.items()}
    if isinstance(value, dict):
        return {name: without_measures(member, name) for name, member in value.items()}
    if key in {"text", "model", "delta", "finish_reason"} | MEASURED or isinstance(value, float):
        return type(value).__name__
    if key in {"message", "detail"}:
        return re.sub(r"\d+", "N", str(value))
    return value


def comparable(messages: list[Message]) -> list[tuple[str, tuple[str, ...], object]]:
    """Sort messages into an order that does not depend on the broker."""
    told = []
    for message in messages:
        if is_fragment(message):
            continue
        # The broker counts it down.
        properties = [re.sub(r"Expiry: \d+", "Expiry", item) for item in message.properties]
        members = json.loads(message.payload)
        if "usage" in members:
            members["usage"], members["timing"] = set(members["usage"]), set(members["timing"])
        told.append((message.topic, tuple(properties), without_measures(members)))
    return sorted(told, key=lambda entry: entry[0])


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Peer]:
    """A client that sends the requests of the page and receives all responses."""
    require_mosquitto()
    folder = tmp_path_factory.mktemp("exchanges")
    configure = functools.partial(configured, group={"name": "heating"}, request={"max_tokens": 8})
    own = ("response/#", "stream/#", "client/+/response/#", "client/+/stream/#", "event")
    topics = [*(f"edged/kitchen/{topic}" for topic in own), "reply/#"]
    with (
        running(configure_mosquitto(folder)) as broker,
        peer(broker.port, "5", *topics) as connected,
        daemon(folder, *configure(folder, bundle, broker)) as process,
    ):
        process.until("STATUS=serving")
        while connected.reply().get("event") != "group_joined":
            pass
        yield connected


def is_fragment(message: Message) -> bool:
    return "/stream/" in message.topic


def receive(client: Peer, count: int) -> list[Message]:
    """Wait for this many messages, not counting fragments of a stream."""
    messages: list[Message] = []
    while sum(not is_fragment(message) for message in messages) < count:
        messages.append(arrived(client.message()))
    return messages


@pytest.mark.parametrize("name", PLAYED)
def test_the_daemon_answers_as_documented(client: Peer, name: str) -> None:
    got: list[Message] = []
    for sent, *answers in split_at_requests(EXCHANGES[name]):
        publish(client, sent)
        got += receive(client, sum(not is_fragment(message) for message in answers))
    expected = [message for message in EXCHANGES[name] if message.arrow == RECEIVED]
    # How a stream is split into fragments depends on the model.
    assert any(map(is_fragment, got)) == any(map(is_fragment, expected))
    for message in filter(is_fragment, [*got, *expected]):
        assert set(json.loads(message.payload)) == {"id", "seq", "delta", "done"}
    assert comparable(got) == comparable(expected)


def test_no_undocumented_message_arrives(client: Peer) -> None:
    """Any message still in flight from the exchanges above would arrive before this answer."""
    publish(client, EXCHANGES["Plain text"][0])
    assert arrived(client.message()).topic == "edged/kitchen/response/generate"


def test_each_exchange_is_played_by_a_test() -> None:
    assert ELSEWHERE.keys() <= EXCHANGES.keys()
    assert len(PLAYED) >= 13
