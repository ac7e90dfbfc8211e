"""A bad network between the daemon and its broker: nothing is lost, and it recovers quickly."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.commands.local_broker import Broker
from tests.system.faults.proxy import DOWN, UP, Proxy, proxy
from tests.system.faults.site import crowd, serving, wait_for_state

RECOVERY_S = 45.0
"""Also under load; the pause between two tries is a few seconds after a short outage."""
DOWN_S = 5.0


def cut_in_a_request(network: Proxy) -> None:
    network.cut_after(150, DOWN)


def cut_in_a_reply(network: Proxy) -> None:
    network.cut_after(150, UP)


BREAKS: list[Callable[[Proxy], None]] = [Proxy.reset, cut_in_a_request, cut_in_a_reply]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_a_broken_connection_loses_nothing_and_recovers_quickly(
    mosquitto: Broker, bundle: Path, tmp_path: Path, break_it: Callable[[Proxy], None]
) -> None:
    with (
        proxy(mosquitto.port) as network,
        serving(tmp_path, bundle, network.port) as process,
        crowd(mosquitto) as clients,
    ):
        clients.ask(8)
        break_it(network)
        broken_s = time.monotonic()
        clients.ask(8)
        process.until("STATUS=serving")
        assert time.monotonic() - broken_s < RECOVERY_S
        clients.ask(8)
        clients.settle()
        assert clients.num_unmarked == 0
        assert wait_for_state(tmp_path, lambda told: told["connects"] == 2)
        assert process.stop() == 0


@pytest.mark.parametrize(
    "weather",
    [{"chunk_bytes": 1}, {"delay_s": 2.0}, {"bytes_per_s": 20_000}],
    ids=["one-byte-pieces", "latency", "20-kB-a-second"],
)
def test_a_slow_network_only_costs_time(
    mosquitto: Broker, bundle: Path, tmp_path: Path, weather: dict[str, float]
) -> None:
    with (
        proxy(mosquitto.port) as network,
        serving(tmp_path, bundle, network.port) as process,
        crowd(mosquitto) as clients,
    ):
        network.slow(**weather)  # type: ignore[arg-type]
        clients.ask(8)
        clients.settle()
        assert clients.codes == {"ok"}
        assert clients.num_executed_again == clients.num_copies == 0
        assert network.num_connections == 1
        assert process.stop() == 0


def test_the_node_reconnects_as_soon_as_the_network_is_back(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with (
        proxy(mosquitto.port) as network,
        serving(tmp_path, bundle, network.port) as process,
        crowd(mosquitto) as clients,
    ):
        network.refuse()
        clients.ask(4)
        assert "the connection broke" in process.until("STATUS=waiting")
        down_s = time.monotonic()
        while time.monotonic() - down_s < DOWN_S:
            assert "nothing listens" in process.until("STATUS=waiting")
        wait_for_state(tmp_path, lambda told: "nothing listens" in str(told["broker_error"]))
        network.heal()
        healed_s = time.monotonic()
        process.until("STATUS=serving")
        assert time.monotonic() - healed_s < RECOVERY_S
        clients.settle()
        assert clients.codes == {"ok"}
        assert process.stop() == 0


def test_a_silent_broker_is_detected_by_the_keep_alive_and_reconnected(
    mosquitto: Broker, bundle: Path, tmp_path: Path
) -> None:
    with (
        proxy(mosquitto.port) as network,
        serving(tmp_path, bundle, network.port) as process,
        crowd(mosquitto) as clients,
    ):
        clients.ask(2)
        clients.settle()
        network.black_hole()
        silent_s = time.monotonic()
        clients.ask(4)
        assert "the broker went silent" in process.until("STATUS=waiting")
        assert time.monotonic() - silent_s < RECOVERY_S
        network.heal()
        healed_s = time.monotonic()
        process.until("STATUS=serving")
        assert time.monotonic() - healed_s < RECOVERY_S
        clients.settle()
        assert clients.num_unmarked == 0
        assert process.stop() == 0
