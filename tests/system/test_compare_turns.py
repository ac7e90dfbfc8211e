"""Turns: every engine runs each of them in order, and a failing one is reported and left out."""

from itertools import count

import pytest

from benchmarks.compare.comparison import Comparison
from benchmarks.compare.process import EngineLostError
from edged.commands.bench.turns import Turn
from tests.system.compare_engines import fake_start, setup

ENGINES = ("edged", "llama.cpp", "openvino")


def make_field(
    calls: list[tuple[str, str]], fails_at: dict[str, str] | None = None
) -> tuple[Comparison, list[str]]:
    notes: list[str] = []
    setups = [setup(name) for name in ENGINES]
    return Comparison(setups, notes.append, fake_start(calls, fails_at)), notes


def turn(do: str = "memory") -> Turn:
    return Turn("a turn", do, {}, lambda answer: {"rss_bytes": answer["rss_bytes"]})


def test_engines_alternate() -> None:
    calls: list[tuple[str, str]] = []
    comparison, _ = make_field(calls)
    comparison.take(turn())
    comparison.take(turn())
    assert [name for name, _ in calls] == [*ENGINES, *ENGINES]
    assert comparison.engines["openvino"].samples == {"rss_bytes": [300, 300]}


@pytest.mark.parametrize("moment", ["start", "memory"])
def test_a_failing_engine_is_reported_and_the_others_continue(moment: str) -> None:
    calls: list[tuple[str, str]] = []
    comparison, notes = make_field(calls, {"llama.cpp": moment})
    comparison.take(turn())
    comparison.take(turn())
    assert list(comparison.left_out) == ["llama.cpp"]
    assert "llama.cpp" not in comparison.engines
    for name in ("edged", "openvino"):
        assert comparison.engines[name].samples == {"rss_bytes": [300, 300]}
    assert any("llama.cpp is left out" in note for note in notes)


@pytest.mark.parametrize("moment", ["start", "memory"])
def test_a_failure_of_edged_ends_the_comparison(moment: str) -> None:
    def start_and_take() -> None:
        comparison, _ = make_field([], {"edged": moment})
        comparison.take(turn())

    with pytest.raises(EngineLostError, match=r"ended|not installed"):
        start_and_take()


def test_cpu_time_of_other_programs_is_counted_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn: 3 CPU seconds in all, 1 of the engine's own, half a one of a waiting one."""
    used = {"edged": 0.0, "llama.cpp": 0.0}
    machine, clock = count(0, 3), count(0, 2)
    comparison = Comparison([setup(name) for name in used], lambda _: None, fake_start([]))
    for name, engine in comparison.engines.items():
        own = count(0.0, 1.0 if name == "edged" else 0.5)
        monkeypatch.setattr(engine.process, "cpu_s", lambda own=own: next(own))
    monkeypatch.setattr("benchmarks.compare.comparison.busy_s", lambda: next(machine))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    comparison.take(turn())
    # edged's turn: 2 s, 1 of its own, 0.5 of the other; then the other's turn: edged uses 1.
    assert comparison.interference.shares(num_cpus=4) == {
        "idle_cpu_share": 1.5 / 4,
        "disturbance_share": 1.5 / 8,
    }


def test_a_fresh_load_is_sampled_and_a_failing_one_is_left_out() -> None:
    calls: list[tuple[str, str]] = []
    comparison, _ = make_field(calls, {"openvino": "memory"})
    comparison.end_run()
    assert comparison.engines["edged"].samples["load_s"] == [0.5]
    assert comparison.engines["edged"].samples["loaded_private_dirty_bytes"] == [100]
    assert list(comparison.left_out) == ["openvino"]
