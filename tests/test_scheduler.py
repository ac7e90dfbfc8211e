"""The queue: bounded, in order of class and deadline, and nothing leaves it in silence."""

from typing import Any

import pytest

from edged.admission import Admitted, Speed
from edged.errors import ErrorCode
from edged.request import CancelRequest, Priority, Rejected, ReplyAddress
from edged.scheduler import PROMOTE_AFTER_S, Entry, EntryState, Scheduler
from tests.make_request import TOPIC, make_request

SPEED = Speed(prefill_tok_s=100.0, decode_tok_s=10.0, overhead_s=0.5)
"""With 50 prompt tokens: 1 s to the first token; with 20 more: 3 s in all."""


def entry(
    key: int,
    *,
    deadline_s: float = 60.0,
    queued_s: float = 0.0,
    **request: Any,  # noqa: ANN401 - as make_request takes them
) -> Entry[str]:
    made = make_request(deadline_s=deadline_s, **request)
    return Entry(key, Admitted(made, 50, 20, 3.3), (1, 2), f"delivery {key}", queued_s)


def filled(*entries: Entry[str], max_waiting: int = 8) -> Scheduler[str]:
    scheduler: Scheduler[str] = Scheduler(max_waiting)
    for item in entries:
        assert scheduler.add(item, SPEED, item.queued_s) is None
    return scheduler


def order(scheduler: Scheduler[str], now_s: float = 0.0) -> list[int]:
    keys = []
    while (popped := scheduler.pop(now_s)) is not None:
        keys.append(popped.key)
        scheduler.finish()
    return keys


def test_the_earliest_deadline_goes_first_and_ties_go_by_arrival() -> None:
    scheduler = filled(
        entry(1, deadline_s=60),
        entry(2, deadline_s=50),
        entry(3, deadline_s=60),
        entry(4, deadline_s=50),
    )
    assert order(scheduler) == [2, 4, 1, 3]


def test_a_class_goes_before_a_deadline() -> None:
    scheduler = filled(
        entry(1, deadline_s=9, priority=Priority.BACKGROUND),
        entry(2, deadline_s=20, priority=Priority.NORMAL),
        entry(3, deadline_s=60, priority=Priority.INTERACTIVE),
    )
    assert order(scheduler) == [3, 2, 1]


def test_waiting_raises_the_class_so_that_nothing_starves() -> None:
    old = entry(1, priority=Priority.BACKGROUND, deadline_s=59)
    young = entry(2, priority=Priority.INTERACTIVE, queued_s=2 * PROMOTE_AFTER_S)
    middle = entry(3, priority=Priority.NORMAL, queued_s=2 * PROMOTE_AFTER_S)
    assert order(filled(old, young, middle), now_s=2 * PROMOTE_AFTER_S) == [1, 2, 3]
    old.state = young.state = middle.state = EntryState.WAITING
    assert order(filled(old, young, middle), now_s=2 * PROMOTE_AFTER_S - 0.1) == [2, 1, 3]


def test_a_clock_reading_before_the_arrival_changes_no_class() -> None:
    assert entry(1, queued_s=100.0).rank(0.0)[0] == Priority.NORMAL


def test_the_newest_is_refused_when_the_queue_is_full() -> None:
    first = entry(1)
    scheduler = filled(first, max_waiting=1)
    newest = entry(2, priority=Priority.INTERACTIVE)
    refusal = scheduler.add(newest, SPEED, 0.0)
    assert isinstance(refusal, Rejected)
    assert (refusal.code, refusal.message) == (ErrorCode.QUEUE_FULL, "1 requests waiting")
    assert refusal.retry_after_s == 0.1
    assert newest.state is EntryState.FINISHED
    assert order(scheduler) == [1]


def test_a_full_queue_tells_when_the_running_one_will_be_done() -> None:
    scheduler = filled(entry(1), entry(2), max_waiting=2)
    scheduler.pop(10.0)
    scheduler.add(entry(3), SPEED, 10.0)
    refusal = scheduler.add(entry(4), SPEED, 11.0)
    assert refusal is not None
    assert refusal.retry_after_s == pytest.approx(2.0)


def test_an_entry_goes_from_waiting_over_running_to_finished() -> None:
    item = entry(1)
    scheduler = filled(item)
    assert (item.state, len(scheduler)) == (EntryState.WAITING, 1)
    assert scheduler.pop(5.0) is item
    assert scheduler.running is item
    assert (item.state, item.started_s, len(scheduler)) == (EntryState.RUNNING, 5.0, 0)
    assert scheduler.finish() is item
    assert item.state is EntryState.FINISHED
    assert scheduler.running is None


def test_only_one_entry_runs_and_only_what_runs_can_finish() -> None:
    scheduler = filled(entry(1), entry(2))
    with pytest.raises(RuntimeError, match="nothing is running"):
        scheduler.finish()
    scheduler.pop(0.0)
    with pytest.raises(RuntimeError, match="finish"):
        scheduler.pop(0.0)


def test_an_empty_queue_gives_nothing() -> None:
    scheduler = filled()
    assert scheduler.pop(0.0) is None
    assert scheduler.expire(0.0, SPEED) == []
    assert scheduler.next_deadline_s(SPEED) is None


def test_what_cannot_give_a_first_token_in_time_expires() -> None:
    early, late = entry(1, deadline_s=10), entry(2, deadline_s=20)
    scheduler = filled(early, late)
    assert scheduler.next_deadline_s(SPEED) == 9.0
    assert scheduler.expire(8.9, SPEED) == []
    assert scheduler.expire(9.0, SPEED) == [early]
    assert early.state is EntryState.FINISHED
    assert scheduler.next_deadline_s(SPEED) == 19.0
    assert order(scheduler) == [2]


def test_pop_leaves_what_is_late_for_expire() -> None:
    late = entry(1, deadline_s=10)
    scheduler = filled(late, entry(2))
    assert order(scheduler, now_s=10.0) == [2]
    assert scheduler.expire(10.0, SPEED) == [late]


def cancel(topic: str = "edged/n/response/cancel", **target: object) -> CancelRequest:
    return CancelRequest(ReplyAddress(topic), **target)  # type: ignore[arg-type]  # one of two


def test_cancel_removes_what_waits_and_marks_what_runs() -> None:
    running, waiting, other = (entry(i, request_id=n) for i, n in enumerate(["a", "a", "b"]))
    scheduler = filled(running, waiting, other)
    scheduler.pop(0.0)
    assert scheduler.cancel(cancel(target_id="a")) == [waiting, running]
    assert (running.state, running.is_cancelled) == (EntryState.RUNNING, True)
    assert (waiting.state, waiting.is_cancelled) == (EntryState.FINISHED, True)
    assert (len(scheduler), other.is_cancelled) == (1, False)
    assert scheduler.cancel(cancel(target_id="zzz")) == []


def test_cancel_by_correlation_data() -> None:
    first, second = entry(1, correlation_data=b"x"), entry(2, request_id="x")
    scheduler = filled(first, second)
    assert scheduler.cancel(cancel(target_correlation_data=b"x")) == [first]
    assert scheduler.cancel(cancel(target_correlation_data=b"x")) == []


def test_an_entry_without_id_is_no_target_of_a_cancel_without_id() -> None:
    scheduler = filled(entry(1))
    assert scheduler.cancel(cancel()) == []


@pytest.mark.parametrize(
    ("cancel_topic", "taken"),
    [
        ("edged/n/response/cancel/ha", [1]),
        ("edged/n/response/generate/ha", [1]),
        ("reply/panel", [2]),
        ("edged/n/response/cancel", [3]),
        ("reply/somebody", [1, 2, 3]),
    ],
)
def test_the_same_id_of_another_requester_is_left_alone(
    cancel_topic: str, taken: list[int]
) -> None:
    scheduler = filled(
        entry(1, request_id="a", topic=f"{TOPIC}/ha"),
        entry(2, request_id="a", topic="reply/panel"),
        entry(3, request_id="a", topic=TOPIC),
    )
    matches = scheduler.cancel(cancel(cancel_topic, target_id="a"))
    assert [item.key for item in matches] == taken


def test_clear_hands_back_everything_that_waits() -> None:
    scheduler = filled(entry(1), entry(2), entry(3))
    running = scheduler.pop(0.0)
    assert [item.key for item in scheduler.clear()] == [2, 3]
    assert (len(scheduler), scheduler.running) == (0, running)


def test_the_backlog_is_what_runs_and_what_goes_before() -> None:
    scheduler = filled(
        entry(1, deadline_s=30),
        entry(2, deadline_s=40),
        entry(3, deadline_s=50, priority=Priority.INTERACTIVE),
        entry(4, deadline_s=20, priority=Priority.BACKGROUND),
    )

    def backlog_s(priority: Priority, deadline_s: float, now_s: float = 0.0) -> float:
        return scheduler.backlog_s(SPEED, now_s, priority, deadline_s)

    assert backlog_s(Priority.INTERACTIVE, 49) == 0.0
    assert backlog_s(Priority.INTERACTIVE, 50) == 3.0
    assert backlog_s(Priority.NORMAL, 35) == 6.0
    assert backlog_s(Priority.BACKGROUND, 60) == 12.0
    scheduler.pop(0.0)
    assert backlog_s(Priority.INTERACTIVE, 50) == 3.0
    assert backlog_s(Priority.INTERACTIVE, 50, now_s=1.0) == 2.0
    assert backlog_s(Priority.INTERACTIVE, 50, now_s=9.0) == 0.0


def test_a_running_entry_is_a_backlog_to_its_deadline_at_most() -> None:
    item = entry(1, deadline_s=12.0)
    filled(item).pop(10.0)
    assert item.remaining_s(SPEED, 10.5) == 1.5
