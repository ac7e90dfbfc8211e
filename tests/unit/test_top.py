"""The text output of ``edged top``."""

import pytest

from edged.commands.top import HISTORY, TopView, sparkline

MIB = 1024**2
STATE = {
    "state": "ready",
    "uptime_s": 7500,
    "queue": 2,
    "running": 1,
    "slots": 4,
    "rss_bytes": 200 * MIB,
    "planned_bytes": 300 * MIB,
    "budget_bytes": 400 * MIB,
    "budget_enforced": True,
    "pressure": "calm",
    "ledger": {"weights": 150 * MIB, "kv": 90 * MIB, "sessions": 0},
    "decode_tok_s": 40.5,
    "temperature_c": None,
    "prediction_error_p50": 0.04,
    "served": 12,
    "refused_by_code": {"timeout": 1, "queue_full": 2},
}


def test_a_look_tells_load_memory_speed_and_refusals() -> None:
    view = TopView("kitchen")
    view.add(STATE)
    text = "\n".join(view.lines())
    assert "kitchen: ready, up 2 h 5 min, 1 of 4 slots running, 2 waiting" in text
    assert f"[{'#' * 20}{'.' * 20}] 200 of 400 MiB, enforced by the kernel; pressure: calm" in text
    assert "300 MiB: weights 150, kv 90" in text
    assert "40.5 tok/s" in text
    assert "temperature                  -" in text
    assert "predicted within 4% (median), - (p95)" in text
    assert "12 served" in text
    assert "refused: queue_full 2, timeout 1" in text


def test_a_node_that_tells_little_is_no_error() -> None:
    for state in ({}, {"uptime_s": 61, "budget_bytes": 0}):
        view = TopView("n")
        view.add(state)
        assert "0 of 0 MiB, enforced by edged only" in "\n".join(view.lines())
    assert next(iter(TopView("n").lines())) == "n: -, up -, 0 of - slots running, 0 waiting"


@pytest.mark.parametrize("value", ["x", 1e999, 10**400, float("nan"), [1], {"a": "b"}, "\x1b[2J"])
@pytest.mark.parametrize("name", sorted(STATE))
def test_a_member_of_another_kind_is_left_out(name: str, value: object) -> None:
    """Where the broker has no accounts, anybody may publish there."""
    view = TopView("n")
    view.add(STATE)
    view.add(STATE | {name: value})
    if isinstance(value, str) and name in ("state", "pressure"):
        assert value in "\n".join(view.lines())
        return
    without = TopView("n")
    without.add(STATE)
    without.add({other: one for other, one in STATE.items() if other != name})
    assert list(view.lines()) == list(without.lines())


def test_no_bar_is_longer_than_its_place() -> None:
    view = TopView("n")
    view.add({"budget_bytes": -1, "rss_bytes": 10**14, "planned_bytes": 1})
    assert all(len(line) < 120 for line in view.lines())


def test_the_latest_states_are_a_sparkline() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert (sparkline([5, 5]), sparkline([])) == ("▁▁", "")
    view = TopView("n")
    for number in range(HISTORY + 9):
        view.add({"queue": number})
    (line,) = [line for line in view.lines() if line.startswith("waiting")]
    assert len(line.split()[-1]) == HISTORY
