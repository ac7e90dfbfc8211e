"""``python -m benchmarks.wire``: a short measurement on a real broker, and its table."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.wire import client as wire_client
from benchmarks.wire import command, processes
from benchmarks.wire.__main__ import main
from benchmarks.wire.baseline import BareClient
from benchmarks.wire.client import ANSWERS, Asker, connect
from benchmarks.wire.measure import WireLoad, measure_wire
from benchmarks.wire.processes import ECHO_TOPIC, WireError
from edged.commands import local_broker
from edged.commands.bench.figures import busy_warning
from edged.commands.local_broker import free_port, mosquitto, running
from edged.config.broker_url import BrokerAddress
from edged.errors import UsageError
from edged.transport.settings import BrokerSettings
from tests.system.broker.conftest import require_mosquitto

SMALL = WireLoad(rounds=2, round_trips=20, burst=40, streams=5, records=5)


def silent(_line: str) -> None:
    """Print nothing."""


def test_a_node_without_a_model_is_compared_with_an_echo(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_mosquitto()
    monkeypatch.setattr(command, "WireLoad", lambda: SMALL)
    file = tmp_path / "wire.json"
    assert main(["--json", str(file)]) == 0
    document = json.loads(file.read_text("utf-8"))
    ours, bare = document["wire"]["node"], document["wire"]["echo"]
    assert 0 < bare["p50"] < ours["p50"] <= ours["p99"]
    assert 0 < ours["rate_per_s"] < bare["rate_per_s"]
    assert 0 < document["first_fragment_ms"]["p50"] < 1000
    shown = capsys.readouterr().out
    assert f"{ours['p50']:.2f} ms" in shown
    assert f"{document['record_ms']['p99']:.2f} ms" in shown
    assert f"{ours['p50'] / bare['p50']:.2f} x" in shown


def test_a_given_broker_is_used(tmp_path: Path) -> None:
    require_mosquitto()
    with running(mosquitto(tmp_path, users={"me": "secret"})) as broker:
        url = f"mqtt://me:secret@127.0.0.1:{broker.port}"
        document = measure_wire(url, SMALL, "command", silent)
    assert document["broker"] == "given"
    assert "secret" not in json.dumps(document)


def test_a_busy_machine_is_reported() -> None:
    assert list(busy_warning({"load_before": 0.1})) == []
    assert "repeat it when it is idle" in next(busy_warning({"load_before": 2.0}))


def test_a_missing_mosquitto_and_a_wrong_url_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_broker, "MOSQUITTO", None)
    with pytest.raises(WireError, match="apt install mosquitto"):
        measure_wire(None, SMALL, "command", silent)
    with pytest.raises(UsageError, match="--broker: it must start with mqtt://"):
        measure_wire("http://x", SMALL, "command", silent)


def test_an_unreachable_broker_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "START_LIMIT_S", 1.0)
    url = f"mqtt://127.0.0.1:{free_port()}"
    with pytest.raises(WireError, match="the node does not connect"):
        measure_wire(url, SMALL, "command", silent)
    with pytest.raises(WireError, match="the echo does not connect"), processes.echo(url):
        pass


def test_the_echo_returns_messages_until_the_broker_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_mosquitto()
    ready = threading.Event()
    monkeypatch.setattr(wire_client, "print", lambda *_, **__: ready.set(), raising=False)
    with running(mosquitto(tmp_path)) as broker, ThreadPoolExecutor() as pool:
        client = connect(broker.url, "asker", ANSWERS)
        echo = pool.submit(wire_client.echo, broker.url, ECHO_TOPIC)
        assert ready.wait(20)
        asker = Asker(client, ECHO_TOPIC)
        assert len(list(asker.round_trips_s(3))) == 3
        assert asker.rate_per_s(20, window=4) > 0
        broker.stop()
        with pytest.raises(ConnectionError, match="the broker closed the connection"):
            client.receive()
        echo.result(timeout=20)


def test_a_silent_broker_times_out(tmp_path: Path) -> None:
    require_mosquitto()
    with running(mosquitto(tmp_path)) as broker:
        terms = BrokerSettings(
            BrokerAddress(broker.host, broker.port), "asker", handshake_timeout_s=0.1
        )
        client = BareClient(terms, ANSWERS)
        with pytest.raises(TimeoutError, match="nothing came from the broker in time"):
            client.receive()
        client.close()
