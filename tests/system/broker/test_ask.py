"""``edged ask`` with real brokers and a node without a model: its output, its exit status."""

import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edged.commands import ask as command
from edged.commands.local_broker import Broker, free_port, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.errors import ErrorCode, ExitCode
from edged.protocol.request import Answer, FinishReason, Rejected
from edged.protocol.wire import Encoded, WireProperties
from edged.transport.events import Published
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.wire_ends import WAIT_S, FakeNode, connected, settings


def ask(broker: Broker | str, *words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    url = broker if isinstance(broker, str) else broker.url
    return command.main(parser.parse_args(["--broker", url, "--node", "kitchen", *words]))


def test_an_answer_is_printed_over_every_broker_and_version(
    broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(broker) as node:
        assert ask(broker, "Is it — ünïcode?") == ExitCode.OK
        request = node.requests[0]
    assert capsys.readouterr() == ("Is it — ünïcode?\n", "")
    assert request.reply_to.topic.startswith("edged/kitchen/response/generate/ask-")
    expected = (request.reply_to.request_id or "").encode() if broker.protocol == "5" else None
    assert request.reply_to.correlation_data == expected


def test_a_node_that_answers_accounts_only_says_so_and_answers_the_one_in_the_url(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto, is_identity_required=True) as node:
        assert ask(mosquitto, "hi") == ExitCode.DATA_ERROR
        assert "identity_required" in capsys.readouterr().err
        url = mosquitto.url.replace("//", "//me:secret@")
        assert ask(url, "--stream", "hi there") == ExitCode.OK
        (request,) = node.requests
    assert capsys.readouterr().out == "hi there\n"
    assert request.reply_to.topic.startswith("edged/kitchen/client/me/response/generate/ask-")


def test_without_an_account_the_replies_to_others_are_not_taken(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto) as node, connected(settings(mosquitto, "another")) as other:
        asking = threading.Thread(target=ask, args=(mosquitto, "wait"))
        asking.start()
        assert node.is_asked.wait(WAIT_S)
        asked_id = node.requests[0].reply_to.request_id or ""
        for operation, payload in (("generate", "another's"), ("cancel", asked_id)):
            topic = node.topics.request(operation)
            other.transport.publish(Encoded(topic, payload.encode(), WireProperties()))
        asking.join(WAIT_S)
    assert capsys.readouterr().out == "so far\n"


def test_options_reach_the_node(mosquitto: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--system", "Be brief.", "--max-tokens", "7", "--temperature", "0.5", "--timeout", "9"]
    with FakeNode(mosquitto) as node:
        assert ask(mosquitto, *words, "hi") == ExitCode.OK
        request = node.requests[0]
    assert [(message.role, message.content) for message in request.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
    ]
    assert (request.max_tokens, request.sampling.temperature) == (7, 0.5)
    assert request.deadline_s - request.received_s == 9.0
    assert capsys.readouterr().out == "hi\n"


def test_a_specialist_is_asked_and_says_when_it_is_unsure(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto) as node:
        node.answers["it drips"] = Answer("leak", FinishReason.STOP)
        node.answers["it is odd"] = Answer("noise", FinishReason.UNSURE)
        assert ask(mosquitto, "--specialist", "washer", "it drips") == ExitCode.OK
        assert capsys.readouterr() == ("leak\n", "")
        assert ask(mosquitto, "--specialist", "washer", "it is odd") == ExitCode.OK
        said = capsys.readouterr()
        assert said.out == "noise\n"
        assert "the specialist is unsure" in said.err
        assert [request.specialist for request in node.requests] == ["washer", "washer"]


def test_stream_prints_fragments_then_the_rest_and_json_prints_the_complete_reply(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto):
        assert ask(mosquitto, "--stream", "one two three") == ExitCode.OK
        assert capsys.readouterr().out == "one two three\n"
        assert ask(mosquitto, "--json", "one two") == ExitCode.OK
        assert json.loads(capsys.readouterr().out)["data"]["text"] == "one two"
        assert ask(mosquitto, "--json", "--stream", "one two") == ExitCode.OK
        text, _, document = capsys.readouterr().out.partition("\n")
        assert text == "one two"
        assert json.loads(document)["data"]["text"] == "one two"


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        (ErrorCode.PROMPT_TOO_LONG, ExitCode.DATA_ERROR, "; change the request"),
        (ErrorCode.QUEUE_FULL, ExitCode.TEMPORARY_FAILURE, "; try again in 2.5 s"),
        (ErrorCode.LOADING, ExitCode.TEMPORARY_FAILURE, "; try again in 2.5 s"),
    ],
)
def test_a_refusal_prints_its_code_and_the_exit_status_shows_who_must_act(
    mosquitto: Broker,
    capsys: pytest.CaptureFixture[str],
    code: ErrorCode,
    status: ExitCode,
    advice: str,
) -> None:
    with FakeNode(mosquitto) as node:
        node.refusals["no"] = Rejected(code, "because", retry_after_s=2.5)
        assert ask(mosquitto, "no") == status
    assert capsys.readouterr() == ("", f"edged ask: {code}: because{advice}\n")


def test_a_bad_request_exits_with_data_error(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto):
        assert ask(mosquitto, "--temperature", "9", "hi") == ExitCode.DATA_ERROR
        assert "bad_request: temperature: must be a number from 0 to 2" in capsys.readouterr().err
        assert ask(mosquitto, "--json", " ") == ExitCode.DATA_ERROR
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_request"


def test_a_missing_broker_is_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    assert ask(url, "hi") == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err.startswith(f"edged ask: no reply: nothing listens at {url};")


def test_an_unknown_node_is_reported_at_once_over_mqtt_5(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(mosquitto, "hi") == ExitCode.UNAVAILABLE
    expected = "edged ask: no reply: no node listens on edged/kitchen/request/generate\n"
    assert capsys.readouterr().err == expected


def test_an_offline_node_is_reported_at_once(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto):
        pass
    assert ask(mosquitto, "hi") == ExitCode.UNAVAILABLE
    expected = "edged ask: no reply: node kitchen is offline; start it and ask again\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("availability", "reason"),
    [
        (None, "no node kitchen has ever announced itself at mqtt://127.0.0.1:"),
        (b"online", "nothing from node kitchen within 0.1 s"),
    ],
)
def test_a_timeout_is_explained_by_the_availability(
    mosquitto: Broker,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    availability: bytes | None,
    reason: str,
) -> None:
    monkeypatch.setattr("edged.commands.ask.MARGIN_S", 2.0)
    with connected(settings(mosquitto, "mute"), "edged/kitchen/request/+") as mute:
        if availability is not None:
            topic = "edged/kitchen/availability"
            mute.transport.publish(Encoded(topic, availability, WireProperties()), retain=True)
            mute.expect(Published)
        assert ask(mosquitto, "--timeout", "0.1", "hi") == ExitCode.UNAVAILABLE
    assert f"no reply: {reason}" in capsys.readouterr().err


def test_after_a_broker_restart_the_request_is_sent_again_with_the_same_id(
    mosquitto: Broker,
) -> None:
    with FakeNode(mosquitto) as node:
        command = [sys.executable, "-m", "edged.cli", "ask", "--broker", mosquitto.url]
        process = subprocess.Popen(
            [*command, "--node", "kitchen", "wait"], stderr=subprocess.PIPE, text=True
        )
        assert node.is_asked.wait(WAIT_S)
        node.is_asked.clear()
        mosquitto.restart()
        assert node.is_asked.wait(WAIT_S)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_S)
        ids = {request.reply_to.request_id for request in node.requests}
        assert len(ids) == 1


def test_ctrl_c_cancels_the_request_and_prints_the_partial_answer(
    mosquitto: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeNode(mosquitto) as node:

        def interrupt() -> None:
            assert node.is_asked.wait(WAIT_S)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert ask(mosquitto, "wait") == 130
        thread.join()
    expected = ("so far\n", "edged ask: the answer was cut short (cancelled)\n")
    assert capsys.readouterr() == expected


def test_a_port_without_an_mqtt_broker_times_out(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.commands.ask.CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        assert ask(url, "hi") == ExitCode.UNAVAILABLE
    assert capsys.readouterr().err == f"edged ask: no reply: {url} does not answer\n"


def test_a_request_that_the_broker_refuses_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    rules = tmp_path / "acl"
    rules.write_text("topic read #\n")
    with running(configure_mosquitto(tmp_path, extra=[f"acl_file {rules}"])) as broker:
        assert ask(broker, "hi") == ExitCode.UNAVAILABLE
    expected = "the broker did not accept the question: refused by the broker: Not authorized\n"
    assert capsys.readouterr().err == f"edged ask: no reply: {expected}"


def test_credentials_come_from_the_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_mosquitto()
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    with running(configure_mosquitto(tmp_path, users={"ha": "right"})) as broker:
        assert ask(broker, "hi") == ExitCode.UNAVAILABLE
        assert "user name and" in capsys.readouterr().err
        ask(broker, "--username", "ha", "--password-file", str(secret), "hi")
        assert "no node listens" in capsys.readouterr().err
