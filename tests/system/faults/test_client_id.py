"""The node's session at the broker: others cannot take it, and a former one loses nothing."""

import stat
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from edged.daemon.client_id import FILE_NAME
from edged.transport.events import Connected
from tests.system.broker.daemons import daemon
from tests.system.broker.wire_ends import Peer, connected, settings
from tests.system.faults.proxy import proxy
from tests.system.faults.site import configure, crowd, serving, wait_for_state

FORMER = "edged-kitchen"
FILTERS = ("edged/kitchen/request/+", "homeassistant/status")
DELAY_S = 0.3
TAKEN_IN = "kept for a client identifier of before is taken in"


def leave_session(broker: Broker, client_id: str) -> None:
    """Subscribe as a node does, and leave; the broker keeps the session."""
    with connected(settings(broker, client_id), *FILTERS):
        pass


def has_session(broker: Broker, client_id: str) -> bool:
    with connected(settings(broker, client_id)) as peer:
        return any(isinstance(one, Connected) and one.is_session_present for one in peer.seen)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_after_an_upgrade_the_former_session_is_taken_in_once_and_ended(
    mosquitto: Broker, bundle: Path, tmp_path: Path, protocol: str
) -> None:
    leave_session(mosquitto, FORMER)
    with proxy(mosquitto.port) as network, crowd(mosquitto) as clients:
        clients.ask(30)
        network.slow(delay_s=DELAY_S)
        config = configure(tmp_path, bundle, network.port, is_first=True)
        text = config.read_text().replace('"keepalive"', f'"protocol": "{protocol}", "keepalive"')
        config.write_text(text)
        with daemon(tmp_path, "--config", str(config)) as process:
            process.until("STATUS=serving")
            # The former session needs three delays more to end its subscription: these are in both.
            clients.ask(4)
            clients.settle()
            network.slow()
            while TAKEN_IN not in process.log:
                clients.ask(4)
                clients.settle()
            assert clients.codes <= {"ok", "queue_full"}
            assert clients.num_unmarked == 0
            found = wait_for_state(tmp_path, lambda told: told["duplicates"] >= 4)
            assert found["connects"] == 1
            assert process.stop() == 0
        assert not has_session(mosquitto, FORMER)
        (own,) = (tmp_path / FILE_NAME).read_text().splitlines()
        assert own.startswith(f"{FORMER}-")
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
        # The next start has the same identifier, and the requests that came in between.
        clients.ask(5)
        with serving(tmp_path, bundle, mosquitto.port) as process:
            clients.settle()
            assert process.stop() == 0
        assert (tmp_path / FILE_NAME).read_text() == f"{own}\n"


def test_who_takes_the_guessable_identifier_disturbs_nobody(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, bundle, mosquitto.port) as process, crowd(mosquitto) as clients:
        for _ in range(10):
            clients.ask(2)
            Peer(settings(mosquitto, FORMER, session_expiry_s=0), *FILTERS).stop()
        clients.settle()
        assert clients.codes == {"ok"}
        assert clients.num_executed_again == clients.num_copies == 0
        assert wait_for_state(tmp_path, lambda told: told["served"] == 20)["connects"] == 1
        assert process.stop() == 0


def test_a_session_that_is_taken_again_and_again_is_told_from_a_network_fault(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, bundle, mosquitto.port) as process:
        own = (tmp_path / FILE_NAME).read_text().strip()
        rival = Peer(settings(mosquitto, own))
        try:
            found = wait_for_state(tmp_path, lambda told: told["broker_problem"] == "closed_soon")
            assert found["closed_soon"] == 1
            assert "a second edged for this node?" in found["broker_error"]
        finally:
            rival.stop()
        wait_for_state(tmp_path, lambda told: told["broker_problem"] is None)
        mosquitto.stop()
        wait_for_state(tmp_path, lambda told: told["broker_problem"] == "unreachable")
        assert own not in process.log
        assert process.stop() == 0
        mosquitto.start()
