"""The arithmetic of deadlines: what fits, and what would break somebody's promise."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from edged.scheduling.schedulability import Line, Promise
from tests.examples import num_examples

promises = st.lists(
    st.builds(Promise, st.integers(1, 60).map(float), st.integers(1, 20).map(float)), max_size=8
)


def is_kept(now_s: float, work: list[Promise]) -> bool:
    """Run everything in order of deadlines, and look whether all end in time."""
    for promise in sorted(work):
        now_s += promise.work_s
        if now_s > promise.deadline_s:
            return False
    return True


def test_an_empty_timetable_has_all_the_time() -> None:
    table = Line(10.0)
    assert (table.total_s, table.slack_s(), table.ahead_s(99.0)) == (0.0, math.inf, 0.0)
    assert table.room_s(15.0, reserve=0.5) == 5.0


def test_room_is_what_neither_deadline_is_late_by() -> None:
    table = Line(0.0, [Promise(10.0, 4.0), Promise(20.0, 10.0)], head_s=2.0)
    assert table.total_s == 16.0
    assert [table.ahead_s(at_s) for at_s in (9.0, 10.0, 25.0)] == [2.0, 6.0, 16.0]
    assert table.room_s(8.0) == 4.0  # before both: 10 - 6 and 20 - 16
    assert table.room_s(9.0) == 4.0
    assert table.room_s(12.0) == 4.0
    assert table.room_s(30.0) == 14.0
    assert table.room_s(30.0, reserve=0.5) == -1.0
    assert table.slack_s() == 4.0
    assert table.slack_s(0.5) == -6.0


@settings(deadline=None, max_examples=num_examples(1500))
@given(promises, st.integers(1, 60).map(float), st.integers(1, 40).map(float))
def test_room_is_exactly_what_keeps_all_promises(
    work: list[Promise], deadline_s: float, work_s: float
) -> None:
    table = Line(0.0, work)
    keeps = is_kept(0.0, [*work, Promise(deadline_s, work_s)])
    if is_kept(0.0, work):
        assert (work_s <= table.room_s(deadline_s)) == keeps
        assert (work_s <= table.slack_s()) == is_kept(work_s, work)
    else:
        assert not keeps
