"""A daemon that cannot start yet: it waits, reports why, and starts when the cause is gone."""

import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import Peer, peer
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
REPLIES = "edged/kitchen/response/#"
EVENTS = "edged/kitchen/event"
AVAILABILITY = "edged/kitchen/availability"
NOBODY = "mqtt://127.0.0.1:1"
WAITING = "STATUS=waiting: "
CURVE = "ec_paramgen_curve:prime256v1"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def next_waiting(client: Peer) -> str:
    """Return the reason in the next ``waiting`` event."""
    while True:
        message = client.message()
        told = client.parsed(message)
        if told["event"] == "waiting":
            assert (message.qos, message.retain) == (1, False)
            assert set(told) == {"v", "node", "event", "detail"}
            return str(told["detail"])


def test_a_model_that_arrives_late_is_loaded_and_queued_requests_are_answered(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    """The event uses a separate connection: the node's session keeps its requests."""
    arguments = serve_arguments(bundle, mosquitto.url)
    with daemon(tmp_path, *arguments) as process:
        process.until("STATUS=serving")
        assert process.stop() == 0
    away = bundle.rename(tmp_path / "away")
    with (
        peer(mosquitto.port, "5", REPLIES) as client,
        peer(mosquitto.port, "5", EVENTS) as operator,
        daemon(tmp_path, *arguments) as process,
    ):
        assert str(bundle) in process.until(WAITING)
        assert str(bundle) in next_waiting(operator)
        client.publish(REQUEST, {"id": "early", "prompt": "x", "max_tokens": 2})
        with peer(mosquitto.port, "5", AVAILABILITY) as watcher:
            assert watcher.message().payload == b"offline"
        process.until(WAITING)
        away.rename(bundle)
        process.until("READY=1")
        assert client.reply_to("early")["status"] == "ok"
        assert process.log.count("the start waits") == 1
        assert process.stop() == 0


def test_a_change_of_the_reason_is_an_event(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    data = bundle / "model.onnx.data"
    away = data.rename(tmp_path / "away")
    with (
        peer(mosquitto.port, "5", EVENTS) as operator,
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
    ):
        assert "missing" in next_waiting(operator)
        (tmp_path / "half").write_bytes(away.read_bytes()[:-1])
        (tmp_path / "half").rename(data)  # as if it were being copied
        assert "the manifest says" in next_waiting(operator)
        away.rename(data)
        process.until("READY=1")
        assert process.log.count("the start waits") == 2
        assert process.stop() == 0


@pytest.mark.parametrize("what", ["configuration", "password", "authority", "damage", "model"])
def test_a_missing_or_damaged_file_is_waited_for(tmp_path: Path, bundle: Path, what: str) -> None:
    password, authority = tmp_path / "password", tmp_path / "ca.pem"
    password.write_text("secret\n")
    subject = [
        "-subj",
        "/CN=authority",
        "-keyout",
        str(tmp_path / "key.pem"),
        "-out",
        str(authority),
    ]
    make = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", CURVE, *subject]
    subprocess.run(make, check=True, capture_output=True)
    config = tmp_path / "edged.yaml"
    tls = f", tls: true, ca_file: {authority}" if what == "authority" else ""
    config.write_text(
        f"model: {{path: {bundle}}}\nnode: kitchen\nbroker: {{host: 127.0.0.1, port: 1,"
        f" username: edged, password_file: {password}{tls}}}\n"
    )
    place = {
        "configuration": config,
        "password": password,
        "authority": authority,
        "damage": bundle / "model.onnx.data",
        "model": bundle,
    }[what]
    whole = tmp_path / "whole"
    place.rename(whole)
    if what == "damage":
        content = bytearray(whole.read_bytes())
        content[len(content) // 2] ^= 1
        place.write_bytes(content)
    with daemon(tmp_path, "--config", str(config)) as process:
        assert place.name in process.until(WAITING)
        process.until("EXTEND_TIMEOUT_USEC=")
        whole.rename(place)
        process.until("READY=1")
        assert process.stop() == 0
        assert "secret" not in process.log
        assert "Traceback" not in process.log


def test_a_stop_while_waiting_exits_with_0(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with daemon(tmp_path, *serve_arguments(tmp_path / "gone", NOBODY)) as process:
            process.until(WAITING)
            assert process.stop(number) == 0


def test_while_waiting_a_good_configuration_is_applied_and_a_bad_one_is_not(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    arguments = configured(tmp_path, tmp_path / "gone", mosquitto)
    with daemon(tmp_path, *arguments) as process:
        process.until(WAITING)
        config = tmp_path / "edged.yaml"
        good = config.read_text()
        config.write_text("nonsense: 1\n")
        process.process.send_signal(signal.SIGHUP)
        process.until(WAITING)
        assert "not taken up: nonsense: unknown key" in process.log
        config.write_text(good.replace("gone", "bundle"))
        process.process.send_signal(signal.SIGHUP)
        process.until("STATUS=serving")
        assert process.stop() == 0


def test_a_full_disk_does_not_delay_the_start(
    bundle: Path, tmp_path: Path, small_disk: Path
) -> None:
    with contextlib.suppress(OSError), (small_disk / "hog").open("wb", buffering=0) as hog:
        while True:
            hog.write(bytes(4096))
    config = tmp_path / "edged.yaml"
    config.write_text(
        f"model: {{path: {bundle}}}\nnode: kitchen\nbroker: {{host: 127.0.0.1, port: 1}}\n"
        f"state: {{folder: {small_disk / 'state'}, file: {small_disk / 'state.json'}}}\n"
    )
    with daemon(tmp_path, "--config", str(config)) as process:
        process.until("READY=1")
        process.until("STATUS=waiting for a broker")
        assert process.stop() == 0
