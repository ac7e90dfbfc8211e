"""All messages of a real daemon, validated against the schemas; no member is undeclared."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from edged.commands.local_broker import Broker
from scripts.specification.files import schemas
from tests.schemas import problems, strict
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, peer
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
FORMAT = {"type": "json_schema", "schema": {"const": [1]}}
CHOICE = {"type": "choice", "choices": ["open", "open only if nobody is home"]}
# Each is answered or refused in a different way.
QUESTIONS: list[dict[str, Any]] = [
    {"id": "answer", "prompt": "hello", "max_tokens": 5},
    {"id": "stream", "prompt": "hello", "max_tokens": 40, "stream": True},
    {"id": "json", "prompt": "hello", "format": FORMAT},
    {"id": "choice", "prompt": "hello", "format": CHOICE},
    {"id": "cut", "prompt": "hello", "format": CHOICE, "max_tokens": 1},
    {"id": "scored", "prompt": "hello", "format": {**CHOICE, "probabilities": True}},
    {"id": "asked", "prompt": "hello", "questions": {"a": {"choices": ["a", "b"], "ask": "?"}}},
    {"id": "turn", "prompt": "hello", "max_tokens": 3, "session": "s"},
    {"id": "late", "prompt": "hello", "timeout_ms": 1},
    {"id": "long", "prompt": "x" * 15_000},
    {"id": "wrong", "prompt": 7},
]


def collect(client: Peer, seen: dict[str, list[dict[str, Any]]]) -> None:
    """Receive one message and file it by its topic."""
    message = client.message()
    kind = message.topic.split("/")[2]
    if kind != "availability":
        seen[kind].append(json.loads(message.payload))


def test_every_message_of_the_daemon_satisfies_its_schema(
    mosquitto: Broker, tmp_path: Path
) -> None:
    seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with (
        peer(mosquitto.port, "5", "edged/kitchen/#") as client,
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
    ):
        process.until("STATUS=serving")
        for question in QUESTIONS:
            client.publish(REQUEST, question)
        client.publish(REQUEST, {"prompt": "hello", "response_topic": "lock/set"})
        client.publish("edged/kitchen/request/cancel", {"id": "nobody"})
        while len(seen["response"]) < len(QUESTIONS) + 1:
            collect(client, seen)
        process.stop()
        while not any(event["event"] == "stopping" for event in seen["event"]):
            collect(client, seen)
    kinds = {"response": "reply", "stream": "fragment", "info": "info", "state": "state"}
    seen.pop("request")  # our own
    for topic, name in (kinds | {"event": "event"}).items():
        assert seen[topic], topic
        for message in seen[topic]:
            assert problems(message, strict(schemas()[name])) == [], message
    sent = {key for reply in seen["response"] for key in reply}
    assert sent == set(schemas()["reply"]["properties"])
