"""The daemon as a process with a tiny model on a real broker: the protocol over the wire."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.commands.local_broker import Broker, free_port
from tests.requirements import require
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, new_id, peer
from tests.system.faults.hasty import DEADLY

REQUEST = "edged/kitchen/request/generate"
CANCEL = "edged/kitchen/request/cancel"
REPLIES = "edged/kitchen/response/#"
STREAMS = "edged/kitchen/stream/#"
SLOW = {"prompt": "x", "max_tokens": 200, "timeout_ms": 60_000}
DYING = ("-m", "tests.system.faults.hasty", DEADLY)


@pytest.fixture(scope="module")
def served(
    module_broker: Broker, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """A broker with a daemon, shared by the tests that leave it unchanged."""
    folder = tmp_path_factory.mktemp("served")
    with daemon(folder, *serve_arguments(bundle, module_broker.url)) as process:
        process.until("STATUS=serving")
        yield module_broker
        assert process.stop() == 0


@pytest.fixture(scope="module")
def client(served: Broker) -> Iterator[Peer]:
    """One client for all tests on ``served``; each test uses its own ids."""
    with peer(served.port, served.protocol, REPLIES, STREAMS) as connected:
        yield connected


def test_a_request_is_answered_with_its_id_usage_and_timing(client: Peer) -> None:
    name = new_id()
    client.publish(REQUEST, {"id": name, "prompt": "hello", "max_tokens": 5})
    reply = client.reply_to(name)
    assert (reply["status"], reply["node"]) == ("ok", "kitchen")
    assert reply["usage"]["completion_tokens"] <= 5
    assert reply["timing"]["total_ms"] >= reply["timing"]["ttft_ms"]
    assert reply["model"].startswith("tiny-")


def test_plain_text_is_a_prompt(client: Peer) -> None:
    client.publish(REQUEST, b"hello")
    assert client.reply_to(None)["status"] == "ok"


@pytest.mark.parametrize(
    ("payload", "code", "named"),
    [
        (b'{"id":"a1","prompt":', "bad_request", "payload"),
        (b"[1, 2]", "bad_request", "payload"),
        ({"prompt": 7}, "bad_request", "prompt"),
        ({"prompt": ""}, "bad_request", "prompt"),
        ({"prompt": "x", "temperature": "hot"}, "bad_request", "temperature"),
        ({"prompt": "x", "format": {"type": "xml"}}, "bad_request", "format.type"),
        ({"prompt": "x", "session": "a b"}, "bad_request", "session"),
        ({"prompt": "x" * 15_000}, "prompt_too_long", "max_model_len"),
        ({"prompt": "x" * 60 * 1024}, "payload_too_large", "16384"),
        (
            {"prompt": "x", "format": {"type": "json_schema", "schema": {"type": "z"}}},
            "bad_request",
            "format.schema",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_input_is_refused_with_its_key_and_the_node_keeps_serving(
    client: Peer, payload: object, code: str, named: str
) -> None:
    name, following = new_id(), new_id()
    client.publish(REQUEST, payload | {"id": name} if isinstance(payload, dict) else payload)
    error = client.reply_to(name, None)["error"]
    assert error["code"] == code
    assert named in error["message"]
    assert error["retryable"] is False
    client.publish(REQUEST, {"id": following, "prompt": "x", "max_tokens": 1})
    assert client.reply_to(following)["status"] == "ok"


def test_the_reply_goes_to_the_response_topic_with_the_correlation_data(client: Peer) -> None:
    name = new_id()
    topic = f"edged/kitchen/response/generate/{name}"
    request = {"id": name, "prompt": "x", "max_tokens": 2}
    if client.is_v5:
        client.publish(REQUEST, request, ResponseTopic=topic, CorrelationData=b"\x00\xff")
    else:
        client.publish(REQUEST, request | {"response_topic": topic})
    while (message := client.message()).topic != topic:
        assert client.parsed(message)["id"] != name
    assert client.parsed(message)["status"] == "ok"
    if client.is_v5:
        properties: Any = message.properties
        assert properties.CorrelationData == b"\x00\xff"
        assert properties.ContentType == "application/json"
        assert properties.UserProperty == [("status", "200")]
        assert 1 <= properties.MessageExpiryInterval <= 30


def test_a_stream_arrives_in_order_and_joins_to_the_complete_reply(client: Peer) -> None:
    name = new_id()
    client.publish(REQUEST, {"id": name, "prompt": "hello", "max_tokens": 40, "stream": True})
    fragments: list[dict[str, Any]] = []
    replies: list[dict[str, Any]] = []
    while not replies or not fragments or not fragments[-1]["done"]:
        received = client.reply_to(name)
        (replies if "status" in received else fragments).append(received)
    assert [fragment["seq"] for fragment in fragments] == list(range(len(fragments)))
    assert "".join(fragment["delta"] for fragment in fragments) == replies[0]["data"]["text"]


def test_a_format_constrains_the_answer(client: Peer) -> None:
    request = {"id": new_id(), "prompt": "Is it on?"}
    choice = {"type": "choice", "choices": ["yes", "no"]}
    client.publish(REQUEST, request | {"format": choice})
    assert client.reply_to(request["id"])["data"]["text"] in ("yes", "no")
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}},
        "required": ["on"],
        "additionalProperties": False,
    }
    request["id"] = new_id()
    client.publish(REQUEST, request | {"format": {"type": "json_schema", "schema": schema}})
    data = client.reply_to(request["id"])["data"]
    assert data["json"] in ({"on": True}, {"on": False})
    assert json.loads(data["text"]) == data["json"]


def test_the_node_publishes_info_state_and_availability(
    broker: Broker, bundle: Path, tmp_path: Path
) -> None:
    topics = [f"edged/kitchen/{name}" for name in ("availability", "info", "state")]
    with (
        daemon(tmp_path, *serve_arguments(bundle, broker.url)) as process,
        peer(broker.port, broker.protocol, *topics) as client,
    ):
        received: dict[str, bytes] = {}
        while len(received) < len(topics):
            message = client.message()
            received[message.topic] = bytes(message.payload)
        assert received[topics[0]] == b"online"
        info, state = (json.loads(received[topic]) for topic in topics[1:])
        assert info["v"] == 1
        assert info["operations"] == ["generate", "cancel", "correct"]
        assert info["model"]["name"] == "tiny"
        assert state["state"] == "ready"
        assert state["rss_bytes"] < state["budget_bytes"]
        assert process.stop() == 0
        seen: list[bytes] = []
        while b"offline" not in seen:
            seen.append(bytes(client.message().payload))
        assert any(b'"stopping"' in payload for payload in seen)


def test_cancel_over_the_wire(client: Peer) -> None:
    nobody, first, second = new_id(), new_id(), new_id()
    client.publish(CANCEL, {"id": nobody})
    assert client.reply_to(nobody)["data"] == {"found": False}
    client.publish(REQUEST, SLOW | {"id": first})
    client.publish(REQUEST, SLOW | {"id": second})
    client.publish(CANCEL, {"id": second})
    replies = [client.reply_to(first, second) for _ in range(3)]
    ended = {reply["id"] for reply in replies if "found" not in reply["data"]}
    assert ended == {first, second}


def test_a_repeated_id_is_executed_once(client: Peer) -> None:
    name = new_id()
    request = {"id": name, "prompt": "x", "max_tokens": 3, "timeout_ms": 30_000}
    client.publish(REQUEST, request)
    first = client.reply_to(name)
    client.publish(REQUEST, request)
    second = client.reply_to(name)
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["data"] == second["data"]


def test_a_restarted_daemon_answers_what_it_had_not_answered_when_killed(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """Nothing is lost: neither running nor queued requests, nor those sent while it was down."""
    arguments = serve_arguments(bundle, mosquitto.url)
    with peer(mosquitto.port, "5", REPLIES) as client:
        with daemon(tmp_path, *arguments) as process:
            process.until("STATUS=serving")
            process.process.send_signal(signal.SIGSTOP)
            for i in range(4):
                client.publish(REQUEST, {"id": f"r{i}", "prompt": "x", "max_tokens": 2})
            process.stop(signal.SIGKILL)
        client.publish(REQUEST, {"id": "r4", "prompt": "x", "max_tokens": 2})
        with daemon(tmp_path, *arguments) as process:
            replies = [client.reply() for _ in range(5)]
            assert sorted(reply["id"] for reply in replies) == [f"r{i}" for i in range(5)]
            assert {reply["status"] for reply in replies} == {"ok"}
            assert process.stop() == 0


def test_a_request_that_crashes_the_process_twice_is_refused_and_the_next_is_answered(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """It crashes two processes; the third one does not try again."""
    config = tmp_path / "edged.yaml"
    config.write_text(
        f"node: kitchen\nmodel: {{path: {bundle}}}\nstate: {{folder: {tmp_path}}}\n"
        f"broker: {{host: 127.0.0.1, port: {mosquitto.port}}}\n"
    )
    with peer(mosquitto.port, "5", REPLIES) as client:
        for life in range(2):
            with daemon(tmp_path, "--config", str(config), program=DYING) as process:
                if life == 0:
                    process.until("STATUS=serving")
                    client.publish(REQUEST, SLOW | {"id": "poison"})
                assert process.wait() == -signal.SIGKILL
        client.publish(REQUEST, {"id": "good", "prompt": "x", "max_tokens": 2})
        with daemon(tmp_path, "--config", str(config)) as process:
            replies = {reply["id"]: reply for reply in (client.reply(), client.reply())}
            assert process.stop() == 0
        assert replies["poison"]["error"]["code"] == "crashed_before"
        assert replies["good"]["status"] == "ok"


def test_the_daemon_waits_for_its_broker(mosquitto: Broker, bundle: Path, tmp_path: Path) -> None:
    mosquitto.stop()
    with daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process:
        process.until("READY=1")
        status = process.until("STATUS=waiting")
        assert mosquitto.url in status
        mosquitto.start()
        process.until("STATUS=serving")
        assert process.stop() == 0


def test_the_daemon_survives_broker_restarts(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process:
        process.until("STATUS=serving")
        for number in range(3):
            mosquitto.restart()
            process.until("STATUS=serving")
            with peer(mosquitto.port, "5", REPLIES) as client:
                client.publish(REQUEST, {"id": f"r{number}", "prompt": "x", "max_tokens": 2})
                # A reply that was unconfirmed when the broker stopped may be delivered again first.
                assert client.reply_to(f"r{number}")["status"] == "ok"
        assert process.stop() == 0


def test_a_stop_without_a_broker_does_not_hang(bundle: Path, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    with daemon(tmp_path, *serve_arguments(bundle, url)) as process:
        process.until("STATUS=waiting")
        assert process.stop(signal.SIGINT) == 0


def test_no_prompt_is_ever_logged(mosquitto: Broker, bundle: Path, tmp_path: Path) -> None:
    secret = "the cellar key lies under the third stone"  # noqa: S105 - a prompt, not a password
    arguments = [*serve_arguments(bundle, mosquitto.url), "--log-level", "debug"]
    with (
        daemon(tmp_path, *arguments) as process,
        peer(mosquitto.port, "5", REPLIES) as client,
    ):
        process.until("STATUS=serving")
        client.publish(REQUEST, {"id": "p", "prompt": secret, "max_tokens": 2})
        client.publish(REQUEST, {"id": "q", "prompt": secret, "max_tokens": 0})
        client.publish(REQUEST, {"id": "r", "messages": [{"role": secret, "content": secret}]})
        for _ in range(3):
            client.reply()
        process.stop()
        assert "stopping" in process.log
        assert "cellar" not in process.log


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "{bundle}", "--node", "UPPER"], "node"),
        (["--model", "{bundle}", "--broker", "http://x"], "--broker"),
        (["--config", "{typo}"], "broker.hots"),
        (["--config", "{binary}"], "not text in UTF-8"),
        (["--config", "{tight}"], "budget.memory"),
        (["--config", "{greedy}"], "budget.min_available"),
    ],
    ids=["node", "broker", "typo", "binary", "budget", "more-than-the-device-has"],
)
def test_a_permanent_configuration_error_exits_with_78_and_names_the_cause(
    tmp_path: Path, bundle: Path, arguments: list[str], named: str
) -> None:
    places = {"bundle": str(bundle)}
    for name, text in {
        "typo": "broker: {hots: x}\n",
        "tight": "budget: {memory: 32M}\n",
        "greedy": "budget: {min_available: 1000G}\n",
        "binary": "node: \udcff\n",
    }.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"model: {{path: {bundle}}}\n{text}", errors="surrogateescape")
        places[name] = str(file)
    with daemon(tmp_path, *(argument.format(**places) for argument in arguments)) as process:
        assert process.wait() == 78
        assert named in process.log
        assert "Traceback" not in process.log


def test_mosquitto_clients_can_ask_and_receive(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    require(shutil.which("mosquitto_rr"), "mosquitto_rr is not installed (mosquitto-clients)")
    with daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process:
        process.until("STATUS=serving")
        place = ["-h", "127.0.0.1", "-p", str(mosquitto.port), "-q", "1", "-t", REQUEST]
        for version in (["-V", "5"], ["-V", "311"]):
            asked = ["mosquitto_rr", *version, "-e", "edged/kitchen/response/generate"]
            answer = subprocess.run(
                [*asked, *place, "-m", "hello", "-W", "20"], capture_output=True, check=True
            )
            assert json.loads(answer.stdout)["status"] == "ok"
