"""What ``docs/protocol.md`` promises, tested by a client written from it alone."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker import outsider
from tests.system.broker.conftest import start_broker
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.outsider import Outsider
from tests.tiny_model import write_tiny_bundle

REPLY, CANCELLED = "edged/kitchen/response/generate", "edged/kitchen/response/cancel"
MINE, STREAM = "edged/kitchen/response/generate/me", "edged/kitchen/stream/s1"


@pytest.fixture(scope="module", params=["mosquitto-3.1.1", "iotcore-3.1.1"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    yield from start_broker(str(request.param), tmp_path_factory.mktemp("broker"))


@pytest.fixture(scope="module")
def client(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outsider]:
    folder = tmp_path_factory.mktemp("outsider")
    bundle = write_tiny_bundle(folder / "bundle")
    with daemon(folder, *serve_arguments(bundle, broker.url)) as process:
        process.until("STATUS=serving")
        started = Outsider(broker.host, broker.port, REPLY, CANCELLED, MINE, STREAM)
        yield started
        started.close()


def test_it_knows_nothing_of_edged() -> None:
    tree = ast.parse(Path(outsider.__file__).read_text())
    froms = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    plain = {n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names}
    assert froms | plain <= {"json", "socket", "struct", "typing", "collections.abc"}


def test_plain_text_is_a_prompt_answered_at_the_default_topic(client: Outsider) -> None:
    client.ask("kitchen", "generate", "Is the boiler ok?")
    reply = client.next_on(REPLY)
    assert (reply["v"], reply["node"], reply["status"]) == (1, "kitchen", "ok")
    assert reply["data"]["finish_reason"] in {"stop", "length"}


def test_a_choice_is_answered_at_the_requested_topic(client: Outsider) -> None:
    choice = {"type": "choice", "choices": ["open", "closed"]}
    request = {"id": "a1", "prompt": "Is it open?", "format": choice, "response_topic": MINE}
    client.ask("kitchen", "generate", json.dumps(request))
    reply = client.next_on(MINE)
    assert reply["id"] == "a1"
    assert reply["data"]["text"] in {"open", "closed"}


def test_an_error_names_the_key_and_whether_to_retry(client: Outsider) -> None:
    client.ask("kitchen", "generate", '{"id": "a2", "prompt": "x", "temperature": "hot"}')
    error = client.next_on(REPLY)["error"]
    assert (error["code"], error["status"], error["retryable"]) == ("bad_request", 400, False)
    assert error["message"].startswith("temperature: ")


def test_the_fragments_of_a_stream_join_to_the_reply(client: Outsider) -> None:
    client.ask("kitchen", "generate", '{"id": "s1", "prompt": "Count", "stream": true}')
    fragments, reply = [], None
    for topic, payload in client.messages():
        if topic == STREAM:
            fragments.append(json.loads(payload))
        elif topic == REPLY:
            reply = json.loads(payload)
        if reply is not None and fragments and fragments[-1]["done"]:
            break
    assert [fragment["seq"] for fragment in fragments] == list(range(len(fragments)))
    assert reply is not None
    assert "".join(fragment["delta"] for fragment in fragments) == reply["data"]["text"]


def test_a_cancel_of_an_unknown_request_is_answered_and_a_session_continues(
    client: Outsider,
) -> None:
    client.ask("kitchen", "cancel", '{"id": "nobody"}')
    assert client.next_on(CANCELLED)["data"] == {"found": False}
    for turns in (1, 2):
        request = {"session": "mine", "prompt": "And then?", "max_tokens": 4}
        client.ask("kitchen", "generate", json.dumps(request))
        assert client.next_on(REPLY)["session"] == {"id": "mine", "turns": turns, "forgotten": 0}


def test_a_repeated_request_gets_the_same_answer(client: Outsider) -> None:
    request = json.dumps({"id": "again", "prompt": "Is it on?", "max_tokens": 4})
    replies = []
    for _ in range(2):
        client.ask("kitchen", "generate", request)
        replies.append(client.next_on(REPLY))
    assert [reply["duplicate"] for reply in replies] == [False, True]
    assert replies[0]["data"] == replies[1]["data"]
