"""Dialogues that the daemon holds, over the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import Peer, peer

REQUEST = "edged/kitchen/request/generate"
MINE, YOURS = (f"edged/kitchen/response/generate/{name}" for name in ("me", "you"))


@pytest.fixture(scope="module")
def client(
    module_broker: Broker, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("served")
    with (
        daemon(folder, *configured(folder, bundle, module_broker)) as process,
        peer(module_broker.port, module_broker.protocol, MINE, YOURS) as connected,
    ):
        process.until("STATUS=serving")
        yield connected
        assert process.stop() == 0


def test_a_session_continues_from_the_cached_prefix(client: Peer) -> None:
    base = {"session": "s1", "max_tokens": 4, "response_topic": MINE}
    client.publish(REQUEST, base | {"id": "q1", "prompt": "My name is Ann."})
    first = client.reply_to("q1")
    client.publish(REQUEST, base | {"id": "q2", "prompt": "What is my name?"})
    second = client.reply_to("q2")
    assert first["session"] == {"id": "s1", "turns": 1, "forgotten": 0}
    assert second["session"] == {"id": "s1", "turns": 2, "forgotten": 0}
    usage = second["usage"]
    assert usage["prompt_tokens"] > first["usage"]["prompt_tokens"]
    assert usage["cached_tokens"] >= first["usage"]["prompt_tokens"]


def test_a_session_answers_like_the_same_messages_sent_at_once(client: Peer) -> None:
    base = {"max_tokens": 4, "response_topic": MINE, "system": "Be brief."}
    client.publish(REQUEST, base | {"id": "a1", "prompt": "One?", "session": "s2"})
    first = client.reply_to("a1")["data"]["text"]
    client.publish(REQUEST, {"id": "a2", "prompt": "Two?", "session": "s2", "max_tokens": 4} | base)
    continued = client.reply_to("a2")
    turns = [("user", "One?"), ("assistant", first or " "), ("user", "Two?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    client.publish(REQUEST, base | {"id": "a3", "messages": messages})
    whole = client.reply_to("a3")
    assert continued["data"]["text"] == whole["data"]["text"]
    assert continued["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_a_repeated_request_is_one_turn(client: Peer) -> None:
    request = {"id": "t1", "prompt": "x", "session": "s3", "max_tokens": 2, "response_topic": MINE}
    for is_duplicate in (False, True):
        client.publish(REQUEST, request)
        reply = client.reply_to("t1")
        assert (reply["duplicate"], reply["session"]["turns"]) == (is_duplicate, 1)
    client.publish(REQUEST, request | {"id": "t2"})
    assert client.reply_to("t2")["session"]["turns"] == 2


def test_a_session_is_not_shared_with_another_reply_topic(client: Peer) -> None:
    request = {"prompt": "x", "session": "s4", "max_tokens": 2}
    client.publish(REQUEST, request | {"id": "mine", "response_topic": MINE})
    mine = client.reply_to("mine")
    client.publish(REQUEST, request | {"id": "yours", "response_topic": YOURS})
    yours = client.reply_to("yours")
    assert (mine["session"]["turns"], yours["session"]["turns"]) == (1, 1)
    assert yours["usage"]["prompt_tokens"] == mine["usage"]["prompt_tokens"]


def test_an_error_leaves_the_session_unchanged(client: Peer) -> None:
    base = {"session": "s5", "max_tokens": 2, "response_topic": MINE}
    client.publish(REQUEST, base | {"id": "e1", "prompt": "x"})
    assert client.reply_to("e1")["session"]["turns"] == 1
    # No processor says two hundred tokens in a millisecond; two are said by some.
    late = {"id": "e2", "prompt": "x", "max_tokens": 200, "timeout_ms": 1}
    client.publish(REQUEST, base | late)
    refused = client.reply_to("e2")
    assert (refused["error"]["code"], "session" in refused) == ("timeout", False)
    client.publish(REQUEST, base | {"id": "e3", "prompt": "x"})
    assert client.reply_to("e3")["session"]["turns"] == 2


def test_a_long_session_forgets_its_oldest_turns_and_reports_it(client: Peer) -> None:
    forgotten = []
    for i in range(12):
        request = {"id": f"l{i}", "prompt": "word " * 8, "session": "s6", "max_tokens": 4}
        client.publish(REQUEST, request | {"response_topic": MINE})
        reply = client.reply_to(f"l{i}")
        assert reply["status"] == "ok"
        forgotten.append(reply["session"]["forgotten"])
    assert any(number > 1 for number in forgotten)  # half of the context at a time
    assert 0 < len([number for number in forgotten if number]) < 6


def test_without_sessions_a_session_is_refused(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, bundle, mosquitto, sessions={"count": 0})
    with daemon(tmp_path, *arguments) as process, peer(mosquitto.port, "5", MINE) as client:
        process.until("STATUS=serving")
        client.publish(REQUEST, {"prompt": "x", "session": "s", "response_topic": MINE})
        error = client.reply()["error"]
        assert error["code"] == "bad_request"
        assert "holds no sessions" in error["message"]
