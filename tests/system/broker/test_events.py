"""The events on ``edged/<node>/event``, published by the daemon on a real broker."""

import re
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

from edged.commands.local_broker import Broker, mosquitto, running
from edged.daemon.operator_events import BURST
from edged.protocol import event as catalogue
from tests.paths import ROOT
from tests.system.broker.configured import configured
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, peer
from tests.system.slow_model import LONGEST

REQUEST = "edged/kitchen/request/generate"
EVENTS = "edged/kitchen/event"
REPLIES = "edged/kitchen/response/#"
STREAMS = "edged/kitchen/stream/#"
PROTOCOL = ROOT / "docs" / "protocol.md"
MEMBERS = {kind.kind: {f.name for f in fields(kind)} for kind in catalogue.Event.__subclasses__()}
SECRET = "the cellar key"  # noqa: S105 - a prompt, not a password


def next_event(client: Peer, kind: str) -> dict[str, Any]:
    """Return the next event of a kind; those before it must be documented, too."""
    while True:
        message = client.message()
        if message.topic != EVENTS:
            continue
        assert (message.qos, message.retain) == (1, False)
        assert SECRET.encode() not in message.payload
        told = client.parsed(message)
        assert set(told) == MEMBERS[told["event"]] | {"v", "node", "event"}
        if told["event"] == kind:
            return told


def test_refusals_and_drops_are_published_without_prompts(
    broker: Broker, bundle: Path, tmp_path: Path
) -> None:
    with (
        peer(broker.port, broker.protocol, EVENTS) as client,
        daemon(tmp_path, *serve_arguments(bundle, broker.url)) as process,
    ):
        started = next_event(client, "started")
        assert started["model"].startswith("tiny-")
        assert started["unfinished"] == 0
        client.publish(REQUEST, {"prompt": SECRET, "max_tokens": 0})
        assert next_event(client, "refused")["code"] == "bad_request"
        client.publish(REQUEST, {"prompt": SECRET, "response_topic": "home/lock/set"})
        dropped = next_event(client, "dropped")
        assert dropped["reason"] == "forbidden_topic"
        assert "lock" not in dropped["detail"]
        client.publish(REQUEST, {"prompt": "x" * 15_000})
        assert next_event(client, "refused")["code"] == "prompt_too_long"
        assert process.stop() == 0
        assert next_event(client, "stopping")["signal"] == "SIGTERM"
        assert "cellar" not in process.log


def test_events_of_a_flood_are_rate_limited(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    number = 60
    with (
        peer(mosquitto.port, "5", EVENTS, REPLIES) as client,
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
    ):
        process.until("STATUS=serving")
        for _ in range(number):
            client.publish(REQUEST, {"prompt": 7})
        told: list[dict[str, Any]] = []
        num_replies = 0
        while not told or told[-1]["event"] != "suppressed":
            message = client.message()
            if message.topic == EVENTS:
                told.append(client.parsed(message))
                continue
            num_replies += 1
            if num_replies == number:  # a stop publishes the events held back
                process.stop()
        refused = [event for event in told if event["event"] == "refused"]
        assert BURST <= len(refused) < number / 2  # one more every 6 s
        assert told[-1]["count"] == number - len(refused)
        assert told[-1]["by_event"] == {"refused": number - len(refused)}
        assert process.log.count("refused: code=") == len(refused)
        assert num_replies == number


def test_a_lost_session_is_an_event(bundle: Path, tmp_path: Path) -> None:
    require_mosquitto()
    with (
        running(mosquitto(tmp_path)) as broker,
        daemon(tmp_path, *serve_arguments(bundle, broker.url)) as process,
    ):
        process.until("STATUS=serving")
        broker.stop()
        process.until("STATUS=waiting")
        broker.start()
        with peer(broker.port, "5", EVENTS) as client:
            assert next_event(client, "broker_session_lost") == {
                "v": 1,
                "node": "kitchen",
                "event": "broker_session_lost",
            }


def test_a_crash_and_a_request_that_crashes_twice_are_events(
    mosquitto: Broker, slow_bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, slow_bundle, mosquitto, state={"folder": str(tmp_path)})
    with peer(mosquitto.port, "5", EVENTS, STREAMS) as client:
        for life in range(3):
            with daemon(tmp_path, *arguments) as process:
                assert next_event(client, "started")["unfinished"] == int(life > 0)
                if life == 0:
                    client.publish(REQUEST, LONGEST | {"id": "p", "stream": True})
                if life < 2:
                    while client.message().topic == EVENTS:
                        pass
                    process.stop(signal.SIGKILL)
                else:
                    assert next_event(client, "crashed_before")["attempts"] == 2


def test_an_undeliverable_reply_is_an_event(bundle: Path, tmp_path: Path) -> None:
    require_mosquitto()
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite edged/kitchen/#\ntopic readwrite homeassistant/#\n")
    with (
        running(mosquitto(tmp_path, extra=[f"acl_file {rules}"])) as broker,
        peer(broker.port, "5", EVENTS) as client,
        daemon(tmp_path, *serve_arguments(bundle, broker.url)) as process,
    ):
        process.until("STATUS=serving")
        client.publish(REQUEST, {"prompt": "x", "max_tokens": 1, "response_topic": "reply/me"})
        assert "Not authorized" in next_event(client, "undelivered")["detail"]


def test_the_protocol_documents_every_event_with_its_members() -> None:
    text = PROTOCOL.read_text()
    section = text[text.index("## Events") :]
    section = section[: section.index("\n## ")]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE)
    documented = {kind: set(re.findall(r"`(\w+)`", members)) for kind, members in rows}
    assert documented == MEMBERS
