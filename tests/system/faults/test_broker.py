"""A broker that stops: with persistence nothing is lost, without it losses are counted."""

import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker, running
from edged.commands.local_broker import mosquitto as configure_mosquitto
from edged.config.broker_url import BrokerAddress
from edged.protocol.wire import Encoded, WireProperties
from edged.transport.events import Connected, ConnectFailed, Disconnected
from edged.transport.settings import BrokerSettings
from tests.requirements import require
from tests.system.broker.conftest import require_mosquitto
from tests.system.broker.daemons import daemon
from tests.system.broker.wire_ends import Peer, connected, settings
from tests.system.faults.hasty import CALLBACKS, HASTY
from tests.system.faults.proxy import proxy
from tests.system.faults.site import REQUEST, configure, crowd, serving, wait_for_state

RESTARTS = 10
STALL_LIMIT_S = 45.0
"""Also under load; a message that the broker delays waits until the next connection."""


def test_ten_restarts_of_a_persistent_broker_lose_nothing(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with (
        serving(tmp_path, bundle, mosquitto.port, HASTY) as process,
        crowd(mosquitto) as clients,
    ):
        for _ in range(RESTARTS):
            clients.ask(6)
            mosquitto.restart()
            process.until("STATUS=serving")
        clients.settle()
        assert clients.num_unmarked == 0
        told = wait_for_state(tmp_path, lambda told: told["connects"] > RESTARTS)
        assert told["lost_sessions"] == 0
        assert process.stop() == 0


def test_a_broker_without_persistence_loses_its_queue_and_each_lost_session_is_counted(
    bundle: Path, tmp_path: Path
) -> None:
    """Requests that the node holds are answered; their acknowledgements are stale and not sent."""
    require_mosquitto()
    with (
        running(configure_mosquitto(tmp_path)) as broker,
        serving(tmp_path, bundle, broker.port, HASTY) as process,
    ):
        for number in range(RESTARTS):
            with crowd(broker, f"life-{number}-") as clients:
                process.process.send_signal(signal.SIGSTOP)
                clients.ask(4)
                broker.restart()
                process.process.send_signal(signal.SIGCONT)
                process.until("STATUS=serving")
        told = wait_for_state(tmp_path, lambda told: told["lost_sessions"] == RESTARTS)
        assert told["stale_acks"] <= 4 * RESTARTS
        with crowd(broker) as clients:
            clients.ask(4)
            clients.settle()
        assert process.stop() == 0


def test_requests_that_expired_while_the_node_was_down_get_no_reply_and_delay_nothing(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with crowd(mosquitto) as clients:
        with serving(tmp_path, bundle, mosquitto.port) as process:
            assert process.stop() == 0  # the broker keeps its session
        late = set()
        for _ in range(10):
            late.update(clients.ask(3, expiry_s=1))
            clients.ask(1)
        clients.asked -= late
        threading.Event().wait(2.0)  # a broker counts whole seconds
        with serving(tmp_path, bundle, mosquitto.port) as process:
            back_s = time.monotonic()
            clients.settle()
            clients.ask(1)
            clients.settle()
            assert time.monotonic() - back_s < STALL_LIMIT_S
            assert clients.codes == {"ok"}
            assert not late & clients.replies.keys()
            assert process.stop() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
def test_a_port_that_accepts_and_stays_silent_times_out_in_ten_seconds(*, is_tls: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Broker("silent", silent.getsockname()[1], [], "5")
        terms = settings(place, "node", is_tls=is_tls, handshake_timeout_s=0.2)
        in_the_field = BrokerSettings(BrokerAddress("host", 1), "node")
        assert in_the_field.handshake_timeout_s <= 10.0
        started_s = time.monotonic()
        peer = Peer(terms)
        reason = peer.expect(ConnectFailed).reason
        assert time.monotonic() - started_s < 10.0
        silence = "does not answer" if is_tls else "did not complete the MQTT handshake in time"
        assert silence in reason
        peer.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_expired_certificate_is_explained(tmp_path: Path) -> None:
    require_mosquitto()
    faketime = Path("/usr/bin/faketime")
    require(faketime.exists(), "faketime is not installed (apt-get install faketime)")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = ["openssl", "req", "-x509", "-nodes", "-days", "1", *curve, *name, *files]
    subprocess.run([str(faketime), "-f", "-10d", *command], check=True, capture_output=True)
    extra = [f"certfile {certificate}", f"keyfile {key}"]
    with running(configure_mosquitto(tmp_path, extra=extra)) as broker:
        terms = settings(broker, "node", is_tls=True, host="localhost", ca_file=certificate)
        peer = Peer(terms)
        assert "certificate has expired" in peer.expect(ConnectFailed).reason
        peer.stop()


def test_an_established_connection_that_breaks_reports_the_reason(
    mosquitto: Broker,
) -> None:
    with (
        proxy(mosquitto.port) as network,
        connected(
            settings(mosquitto, "node", port=network.port, keepalive_s=1, handshake_timeout_s=0.5)
        ) as node,
    ):
        network.half_open()
        assert node.expect(Disconnected).reason == "the broker went silent"
        failed = node.expect(ConnectFailed)
        assert failed.reason.endswith("did not complete the MQTT handshake in time")
        network.heal()
        assert node.expect(Connected).protocol_version == "5"


@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_exception_in_a_callback_exits_with_70(
    mosquitto: Broker, bundle: Path, tmp_path: Path, callback: str
) -> None:
    config = str(configure(tmp_path, bundle, mosquitto.port))
    program = ("-m", "tests.system.faults.hasty", f"broken-{callback}")
    with daemon(tmp_path, "--config", config, program=program) as process:
        process.until("READY=1")
        if callback in {"message", "disconnect"}:  # the others come with the connection
            process.until("STATUS=serving")
        if callback == "message":
            with connected(settings(mosquitto, "asker")) as asker:
                asker.transport.publish(Encoded(REQUEST, b"hello", WireProperties()))
        elif callback == "disconnect":
            mosquitto.stop()
        assert process.wait() == 70
        assert "the MQTT thread is dead" in process.log
