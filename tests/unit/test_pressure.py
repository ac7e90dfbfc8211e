"""The ladder: one thing after the other is given up, and nothing flaps."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.node.pressure import (
    DOWN_AFTER_S,
    RESTART_AFTER_S,
    UP_AFTER_S,
    PressureLadder,
    PressureLevel,
)
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from tests.examples import num_examples

BUDGET = MemoryBudget(1000, 100)
HIGH, BROKEN, BETWEEN, LOW = (MemorySnapshot(rss, 5000) for rss in (960, 1001, 920, 800))
SHORT = MemorySnapshot(800, 99)


def climb(
    ladder: PressureLadder, memory: MemorySnapshot, seconds: float, start_s: float
) -> PressureLevel:
    at_s = start_s
    while at_s <= start_s + seconds:
        ladder.step(memory, at_s)
        at_s += 1.0
    return ladder.level


def test_each_rung_gets_time_to_help_before_the_next_one() -> None:
    ladder = PressureLadder(BUDGET)
    assert ladder.step(LOW, 0.0) is PressureLevel.CALM
    assert ladder.step(HIGH, 1.0) is PressureLevel.SHED_PREFIX
    assert ladder.step(HIGH, 1.0 + UP_AFTER_S - 0.1) is PressureLevel.SHED_PREFIX
    assert ladder.step(HIGH, 1.0 + UP_AFTER_S) is PressureLevel.SHED_SESSIONS
    assert ladder.step(HIGH, 1.0 + 2 * UP_AFTER_S) is PressureLevel.SHRINK_SLOTS
    assert ladder.step(HIGH, 1.0 + 3 * UP_AFTER_S) is PressureLevel.REFUSE
    assert (
        climb(ladder, HIGH, 1000.0, 10.0) is PressureLevel.REFUSE
    )  # inside the budget: no restart


def test_a_device_that_is_short_is_pressure_too() -> None:
    ladder = PressureLadder(BUDGET)
    assert ladder.step(SHORT, 0.0) is PressureLevel.SHED_PREFIX
    assert ladder.step(MemorySnapshot(800, 124), 50.0) is PressureLevel.SHED_PREFIX  # not roomy yet


def test_a_device_that_waits_for_memory_is_under_pressure() -> None:
    ladder = PressureLadder(BUDGET)
    assert ladder.step(MemorySnapshot(800, 5000, 0.19), 0.0) is PressureLevel.CALM
    assert ladder.step(MemorySnapshot(800, 5000, 0.21), 1.0) is PressureLevel.SHED_PREFIX
    assert climb(ladder, MemorySnapshot(800, 5000, 0.06), 50.0, 2.0) is PressureLevel.SHED_PREFIX
    assert climb(ladder, MemorySnapshot(800, 5000, 0.05), DOWN_AFTER_S, 60.0) is PressureLevel.CALM


def test_a_budget_that_stays_broken_ends_in_a_restart() -> None:
    ladder = PressureLadder(BUDGET)
    assert climb(ladder, BROKEN, RESTART_AFTER_S - 1, 0.0) is PressureLevel.REFUSE
    assert climb(ladder, BROKEN, 2.0, RESTART_AFTER_S) is PressureLevel.RESTART


def test_a_budget_that_is_kept_in_between_does_not() -> None:
    ladder = PressureLadder(BUDGET)
    climb(ladder, BROKEN, RESTART_AFTER_S - 2, 0.0)
    ladder.step(HIGH, RESTART_AFTER_S - 1)
    assert climb(ladder, BROKEN, RESTART_AFTER_S - 1, RESTART_AFTER_S) is PressureLevel.REFUSE


def test_the_way_down_is_slow_and_one_rung_at_a_time() -> None:
    ladder = PressureLadder(BUDGET)
    assert climb(ladder, HIGH, 6.0, 0.0) is PressureLevel.REFUSE
    assert climb(ladder, BETWEEN, 100.0, 7.0) is PressureLevel.REFUSE  # neither high nor well
    assert climb(ladder, LOW, DOWN_AFTER_S - 1, 200.0) is PressureLevel.REFUSE
    assert ladder.step(LOW, 200.0 + DOWN_AFTER_S) is PressureLevel.SHRINK_SLOTS
    assert ladder.step(LOW, 201.0 + DOWN_AFTER_S) is PressureLevel.SHRINK_SLOTS
    assert climb(ladder, LOW, 4 * DOWN_AFTER_S, 202.0 + DOWN_AFTER_S) is PressureLevel.CALM


@settings(deadline=None, max_examples=num_examples(600))
@given(
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 300), st.floats(0.1, 20)), max_size=80)
)
def test_it_never_skips_a_rung_nor_flaps(seen: list[tuple[int, int, float]]) -> None:
    ladder, now_s, changes = PressureLadder(BUDGET), 0.0, [(0.0, PressureLevel.CALM)]
    for rss, available, seconds in seen:
        now_s += seconds
        rung = ladder.step(MemorySnapshot(rss, available), now_s)
        if rung is not changes[-1][1]:
            changes.append((now_s, rung))
    for (before_s, before), (after_s, after) in pairwise(changes):
        assert abs(after - before) == 1
        if after < before:
            assert after_s - before_s >= DOWN_AFTER_S
