"""The arithmetic of deadlines: what fits, and what would break somebody's deadline."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.scheduling.schedulability import Commitment, EdfSchedule, Reserve
from tests.examples import num_examples

commitments = st.lists(
    st.builds(Commitment, st.integers(1, 60).map(float), st.integers(1, 20).map(float)), max_size=8
)


def is_feasible(now_s: float, work: list[Commitment]) -> bool:
    """Run everything in order of deadlines, and look whether all end in time."""
    for commitment in sorted(work):
        now_s += commitment.work_s
        if now_s > commitment.deadline_s:
            return False
    return True


def test_an_empty_schedule_has_all_the_time() -> None:
    schedule = EdfSchedule(10.0)
    assert (schedule.total_s, schedule.slack_s(), schedule.demand_s(99.0)) == (0.0, math.inf, 0.0)
    assert schedule.capacity_s(15.0) == 5.0
    assert schedule.capacity_s(15.0, Reserve(0.5)) == 2.5


def test_capacity_is_what_makes_no_deadline_be_missed() -> None:
    schedule = EdfSchedule(0.0, [Commitment(10.0, 4.0), Commitment(20.0, 10.0)], blocking_s=2.0)
    assert schedule.total_s == 16.0
    assert [schedule.demand_s(at_s) for at_s in (9.0, 10.0, 25.0)] == [2.0, 6.0, 16.0]
    assert schedule.capacity_s(8.0) == 4.0  # before both: 10 - 6 and 20 - 16
    assert schedule.capacity_s(9.0) == 4.0
    assert schedule.capacity_s(12.0) == 4.0
    assert schedule.capacity_s(30.0) == 14.0
    assert schedule.capacity_s(30.0, Reserve(0.5)) == -1.0
    assert schedule.slack_s() == 4.0
    assert schedule.slack_s(Reserve(0.5)) == -6.0


@settings(deadline=None, max_examples=num_examples(1500))
@given(commitments, st.integers(1, 60).map(float), st.integers(1, 40).map(float))
def test_capacity_is_exactly_what_meets_all_deadlines(
    work: list[Commitment], deadline_s: float, work_s: float
) -> None:
    schedule = EdfSchedule(0.0, work)
    is_met = is_feasible(0.0, [*work, Commitment(deadline_s, work_s)])
    if is_feasible(0.0, work):
        assert (work_s <= schedule.capacity_s(deadline_s)) == is_met
        assert (work_s <= schedule.slack_s()) == is_feasible(work_s, work)
    else:
        assert not is_met
