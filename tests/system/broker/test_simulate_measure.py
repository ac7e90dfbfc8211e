"""``python -m benchmarks.simulate --measure`` on a real daemon with the toy model."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.simulate import __main__ as command
from benchmarks.simulate.trace import Ask, write_trace
from edged.commands.local_broker import Broker
from tests.system.broker.configured import configured
from tests.system.broker.daemons import daemon
from tests.system.broker.peer import peer
from tests.tiny_model import write_tiny_bundle


@pytest.fixture
def cost_file(mosquitto: Broker, tmp_path: Path) -> Iterator[Path]:
    """A serving node and its measured cost file."""
    bundle = write_tiny_bundle(tmp_path / "bundle")
    state = tmp_path / "state"
    state.mkdir()
    arguments = configured(
        tmp_path, bundle, mosquitto, state={"folder": str(state), "interval": "1s"}
    )
    with daemon(tmp_path, *arguments) as node:
        node.until("STATUS=serving")
        yield state / "cost.json"
        assert node.stop() == 0


def simulate(broker: Broker | str, trace: Path, cost_file: Path, *more: str) -> int:
    url = broker if isinstance(broker, str) else broker.url
    words = ["--trace", str(trace), "--cost", str(cost_file), "--broker", url, *more]
    return command.main(["--measure", *words])


def test_a_workload_is_played_and_compared_with_its_simulation(
    mosquitto: Broker, cost_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = [
        Ask(n * 0.05, f"c{n % 3}", "interactive" if n % 5 == 0 else "normal", 100, 16, 16, 20.0)
        for n in range(40)
    ]
    impossible = Ask(1.0, "c1", "normal", 100, 60, 60, 0.001)
    trace, figures = tmp_path / "trace", tmp_path / "figures.json"
    trace.write_text(write_trace([*asks, impossible]))
    assert simulate(mosquitto, trace, cost_file, "--node", "kitchen", "--json", str(figures)) == 0
    runs = json.loads(figures.read_text())
    assert runs["measured"]["asked"] == runs["simulated"]["asked"] == 41
    assert runs["measured"]["late"] == 0
    assert runs["measured"]["on_time"] + runs["measured"]["refused"] == 41
    assert runs["measured"]["on_time"] >= 30
    printed = capsys.readouterr().out
    assert "on-time goodput: measured " in printed
    assert "the node's predictions were off by " in printed


def test_a_workload_is_played_by_an_account(
    mosquitto: Broker, cost_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, figures = tmp_path / "trace", tmp_path / "figures.json"
    trace.write_text(write_trace([Ask(0.0), Ask(0.1)]))
    words = ["--node", "kitchen", "--json", str(figures)]
    topics = ("edged/kitchen/client/me/response/#",)
    with peer(mosquitto.port, "5", *topics) as witness:
        url = mosquitto.url.replace("//", "//me:secret@")
        assert simulate(url, trace, cost_file, *words) == 0
        assert witness.message().topic.startswith(f"{topics[0][:-2]}/generate/simulate-")
    assert json.loads(figures.read_text())["measured"]["asked"] == 2
    assert "measured" in capsys.readouterr().out


def test_a_missing_node_is_reported(
    mosquitto: Broker,
    cost_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.simulate.live.WAIT_S", 0.5)
    trace = tmp_path / "trace"
    trace.write_text(write_trace([Ask(0.0)]))
    assert simulate(mosquitto, trace, cost_file, "--node", "cellar") == 69
    assert "no node cellar at mqtt://" in capsys.readouterr().err
