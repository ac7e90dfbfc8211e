"""A changed configuration, reloaded by a running daemon on a real broker."""

import signal
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from edged.daemon.confinement import PORTS_ABI, landlock_abi
from tests.requirements import require
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import peer
from tests.tiny_model import write_tiny_bundle

REQUEST = "edged/kitchen/request/generate"
REPLIES = "edged/kitchen/response/#"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def configuration(folder: Path, bundle: Path, broker: Broker, *, max_tokens: int) -> Path:
    path = folder / "edged.yaml"
    path.write_text(
        f"node: kitchen\nmodel: {{path: {bundle}}}\nbroker: {{port: {broker.port}}}\n"
        f"request: {{max_tokens: {max_tokens}}}\n",
        "utf-8",
    )
    return path


def test_a_reload_applies_the_file_keeps_the_process_id_and_loses_nothing(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    path = configuration(tmp_path, bundle, mosquitto, max_tokens=3)
    with (
        daemon(tmp_path, "--config", str(path)) as process,
        peer(mosquitto.port, "5", REPLIES) as client,
    ):
        process.until("STATUS=serving")
        configuration(tmp_path, bundle, mosquitto, max_tokens=5)
        client.publish(REQUEST, {"id": "running", "prompt": "x", "max_tokens": 150})
        client.publish(REQUEST, {"id": "waiting", "prompt": "x"})
        process.process.send_signal(signal.SIGHUP)
        process.until("RELOADING=1")
        replies = {reply["id"]: reply for reply in (client.reply(), client.reply())}
        process.until("STATUS=serving")
        client.publish(REQUEST, {"id": "after", "prompt": "x"})
        replies["after"] = client.reply()
        assert replies.keys() == {"running", "waiting", "after"}
        assert all(reply["status"] == "ok" for reply in replies.values())
        assert replies["after"]["usage"]["completion_tokens"] == 5
        assert process.stop() == 0


def test_a_bad_file_is_reported_and_the_old_configuration_kept(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    path = configuration(tmp_path, bundle, mosquitto, max_tokens=3)
    with (
        daemon(tmp_path, "--config", str(path)) as process,
        peer(mosquitto.port, "5", REPLIES) as client,
    ):
        process.until("STATUS=serving")
        path.write_text(f"model: {{path: gone}}\nbroker: {{port: {mosquitto.port}}}\n", "utf-8")
        process.process.send_signal(signal.SIGHUP)
        said = process.until("STATUS=serving with the old configuration")
        assert "gone" in said
        client.publish(REQUEST, {"id": "after", "prompt": "x"})
        assert client.reply()["usage"]["completion_tokens"] == 3
        assert process.stop() == 0


def test_another_port_of_the_broker_takes_a_new_process(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    require(landlock_abi() >= PORTS_ABI, "a kernel with Landlock for ports (Linux 6.7)")
    path = configuration(tmp_path, bundle, mosquitto, max_tokens=3)
    with daemon(tmp_path, "--config", str(path)) as process:
        process.until("STATUS=serving")
        text = path.read_text("utf-8")
        path.write_text(text.replace(f"port: {mosquitto.port}", "port: 1"), "utf-8")
        process.process.send_signal(signal.SIGHUP)
        said = process.until("STATUS=serving with the old configuration: broker.port: ")
        assert f"may connect to TCP port {mosquitto.port} only" in said
        assert process.stop() == 0
