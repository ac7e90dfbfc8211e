"""The queue: bounded, urgent work first while deadlines are met, nothing leaves without a reply."""

from dataclasses import replace
from typing import Any

import pytest

from edged.errors import ErrorCode
from edged.protocol.request import (
    CancelRequest,
    Client,
    OnDeadline,
    Priority,
    Rejected,
    ReplyAddress,
)
from edged.scheduling.admission import Demand, Resources, admit
from edged.scheduling.fair_share import ShareTerms
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot
from edged.scheduling.queued_request import (
    MAX_PAUSES,
    PROMOTE_AFTER_S,
    QueuedRequest,
    RequestPhase,
)
from edged.scheduling.schedulability import NOTHING, Work
from edged.scheduling.scheduler import Scheduler
from tests.make_request import TOPIC, make_request

COST = CostEstimate(prefill_token_s=0.02, decode_token_s=0.1, chunk_tokens=4096, margin=1.0)
"""With 50 prompt tokens: 1 s to the first token; with 21 tokens: 3 s in all."""
BACKGROUND, NORMAL, INTERACTIVE = Priority.BACKGROUND, Priority.NORMAL, Priority.INTERACTIVE


def entry(
    key: int,
    *,
    deadline_s: float = 60.0,
    queued_s: float = 0.0,
    **request: Any,  # noqa: ANN401 - as make_request takes them
) -> QueuedRequest:
    request.setdefault("max_tokens", 21)
    made = make_request(deadline_s=deadline_s, **request)
    return QueuedRequest(key, made, queued_s, num_prompt_tokens=50, max_tokens=made.max_tokens)


def add(
    scheduler: Scheduler[QueuedRequest], item: QueuedRequest, cost: CostEstimate, now_s: float
) -> Rejected | None:
    """Let a prepared request into the queue, or return why not."""
    refusal = scheduler.enter(item, cost, now_s)
    if refusal is None:
        scheduler.admit(item, cost, now_s)
    return refusal


def filled(
    *entries: QueuedRequest, max_waiting: int = 8, num_slots: int = 1
) -> Scheduler[QueuedRequest]:
    scheduler: Scheduler[QueuedRequest] = Scheduler(max_waiting, num_slots)
    for item in entries:
        assert add(scheduler, item, COST, item.queued_s) is None
    return scheduler


def start_next(
    scheduler: Scheduler[QueuedRequest], now_s: float, cost: CostEstimate
) -> QueuedRequest | None:
    """Start the request that is to start now, as the node does."""
    chosen = scheduler.at(now_s, cost).to_start()
    if chosen is not None:
        scheduler.start(chosen)
    return chosen


def in_progress(scheduler: Scheduler[QueuedRequest]) -> list[QueuedRequest]:
    """The paused and the running requests."""
    return [*(item for item in scheduler.queued() if item.num_pauses), *scheduler.running]


def order(scheduler: Scheduler[QueuedRequest], now_s: float = 0.0) -> list[int]:
    keys = []
    while (popped := start_next(scheduler, now_s, COST)) is not None:
        keys.append(popped.key)
        scheduler.remove(popped)
    return keys


def test_the_earliest_deadline_goes_first_and_ties_go_by_arrival() -> None:
    scheduler = filled(
        entry(1, deadline_s=60),
        entry(2, deadline_s=50),
        entry(3, deadline_s=60),
        entry(4, deadline_s=50),
    )
    assert order(scheduler) == [2, 4, 1, 3]


def test_a_class_goes_before_a_deadline_while_the_deadline_can_be_kept() -> None:
    scheduler = filled(
        entry(1, deadline_s=12, priority=BACKGROUND),
        entry(2, deadline_s=20, priority=NORMAL),
        entry(3, deadline_s=60, priority=INTERACTIVE),
    )
    assert order(scheduler) == [3, 2, 1]


def test_a_deadline_goes_before_a_class_when_it_would_be_missed() -> None:
    tight = entry(1, deadline_s=5, priority=BACKGROUND)
    urgent = entry(2, deadline_s=60, priority=INTERACTIVE)
    assert order(filled(tight, urgent)) == [1, 2]
    roomy = entry(1, deadline_s=6, priority=BACKGROUND)
    urgent.phase = RequestPhase.WAITING
    assert order(filled(roomy, urgent)) == [2, 1]


def test_less_urgent_work_does_not_use_up_the_slack_of_a_person() -> None:
    """Both could go first; but a normal one must leave a fifth of the time over."""
    waits = entry(1, deadline_s=7.4, priority=BACKGROUND)
    assert order(filled(waits, entry(2, deadline_s=60, priority=NORMAL))) == [1, 2]
    waits = entry(1, deadline_s=7.6, priority=BACKGROUND)
    assert order(filled(waits, entry(2, deadline_s=60, priority=NORMAL))) == [2, 1]


def test_background_work_that_waited_counts_as_normal_and_never_as_interactive() -> None:
    def ranked(now_s: float) -> list[int]:
        old = entry(1, priority=BACKGROUND, deadline_s=100)
        young = entry(2, priority=NORMAL, deadline_s=200, queued_s=now_s)
        person = entry(3, priority=INTERACTIVE, deadline_s=300, queued_s=now_s)
        return order(filled(old, young, person), now_s)

    assert ranked(PROMOTE_AFTER_S - 0.1) == [3, 2, 1]
    assert ranked(PROMOTE_AFTER_S) == [3, 1, 2]
    assert ranked(5 * PROMOTE_AFTER_S) == [3, 1, 2]


def test_the_newest_is_refused_when_the_queue_is_full() -> None:
    scheduler = filled(entry(1), max_waiting=1)
    newest = entry(2, priority=INTERACTIVE)
    refusal = add(scheduler, newest, COST, 0.0)
    assert isinstance(refusal, Rejected)
    assert refusal.code is ErrorCode.QUEUE_FULL
    assert refusal.message == "the queue is full: 1 request waiting"
    assert refusal.retry_after_s == 0.1
    assert order(scheduler) == [1]


def test_a_full_queue_tells_when_the_running_one_will_be_done() -> None:
    scheduler = filled(entry(1), entry(2), max_waiting=2)
    running = start_next(scheduler, 10.0, COST)
    assert running is not None
    running.num_prefilled, running.num_generated = 50, 1
    running.num_prefilled, running.num_generated = 50, 11
    add(scheduler, entry(3), COST, 10.0)
    refusal = add(scheduler, entry(4), COST, 11.0)
    assert refusal is not None
    assert refusal.message == "the queue is full: 2 requests waiting"
    assert refusal.retry_after_s == pytest.approx(1.0)


def of(user: str, key: int, **more: Any) -> QueuedRequest:  # noqa: ANN401 - as entry takes them
    """Return a request of an account."""
    item = entry(key, **more)
    item.request = replace(item.request, reply_to=ReplyAddress("reply", user=user))
    return item


TERMS = ShareTerms({"flood": 1.0, "ha": 1.0, "panel": 1.0})
"""Accounts with a weight are known from their first request on."""


def shared(*entries: QueuedRequest, size: int = 8) -> Scheduler[QueuedRequest]:
    scheduler: Scheduler[QueuedRequest] = Scheduler(size, 1, TERMS)
    for item in entries:
        assert add(scheduler, item, COST, item.queued_s) is None
    return scheduler


def test_the_last_places_of_the_queue_are_for_others_while_they_are_active() -> None:
    scheduler = shared(*(of("flood", key) for key in range(1, 5)), size=4)  # it is alone

    def refused(user: str, key: int) -> str:
        refusal = add(scheduler, of(user, key), COST, 0.0)
        assert refusal is not None
        assert (refusal.code, refusal.retry_after_s) == (ErrorCode.QUEUE_FULL, 0.1)
        return refusal.message

    assert refused("flood", 5) == "the queue is full: 4 requests waiting"
    assert add(scheduler, of("ha", 6), COST, 0.0) is None  # a place beyond the bound
    assert refused("ha", 7) == refused("panel", 8) == "the queue is full: 5 requests waiting"
    for item in scheduler.queued()[:3]:
        scheduler.remove(item)
    full = "this client has its part of the queue: 1 of 4 places"
    assert refused("flood", 9) == full  # a third of the places
    assert add(scheduler, of("panel", 10), COST, 0.0) is None
    assert len(scheduler) == 3


def test_the_client_promised_least_has_any_place_and_one_beyond_the_bound() -> None:
    """It asks for little, and is to be served next: what waits of it will not wait for long."""
    flood = (of("flood", key, max_tokens=200, deadline_s=90) for key in range(1, 3))
    scheduler = shared(*flood, *(of("ha", key) for key in range(3, 6)), size=4)
    assert len(scheduler) == 5
    refusal = add(scheduler, of("ha", 6), COST, 0.0)
    assert refusal is not None
    assert refusal.message == "the queue is full: 5 requests waiting"


def test_what_is_still_prepared_leaves_the_last_places_to_others() -> None:
    """Who sends nothing but what is refused then was never promised anything, and so least."""
    scheduler = shared(of("ha", 1), of("panel", 2))
    entered = [scheduler.enter(of("flood", key), COST, 0.0) for key in range(3, 20)]
    assert [it is None for it in entered] == [True] * 4 + [False] * 13
    assert entered[-1] is not None
    assert entered[-1].message == "this client has its part of the queue: 4 of 8 places"
    assert scheduler.enter(of("ha", 20), COST, 0.0) is None
    assert scheduler.enter(of("panel", 21), COST, 0.0) is None


def test_the_client_served_least_goes_first_in_a_class() -> None:
    flood = [of("flood", key, deadline_s=50) for key in range(1, 4)]
    scheduler = shared(*flood, of("ha", 4, deadline_s=60), of("panel", 5, deadline_s=55))
    assert order(scheduler) == [1, 5, 4, 2, 3]


def test_a_class_does_not_count_for_who_was_served_much_more() -> None:
    """Three seconds each: once the other waits, four are more than 10 s ahead."""
    flood = [of("flood", key, priority=INTERACTIVE, deadline_s=50 + key) for key in range(1, 7)]
    scheduler = shared(*flood, of("ha", 7, priority=BACKGROUND, deadline_s=60))
    assert order(scheduler) == [1, 2, 3, 4, 7, 5, 6]


def test_a_person_ahead_of_a_client_that_waits_pauses_nothing() -> None:
    scheduler = shared(of("panel", 1), *(of("ha", key, priority=INTERACTIVE) for key in (2, 3, 4)))
    assert order_one(scheduler) == 2
    running_one = start_next(scheduler, 0.0, COST)
    assert running_one is not None
    assert running_one.key == 3


def over(scheduler: Scheduler[QueuedRequest], item: QueuedRequest, now_s: float) -> int | Rejected:
    """Return the tokens that a request may have in an admission test of its own."""
    assert scheduler.enter(item, COST, now_s) is None
    test = scheduler.admission_test(item, COST, now_s)
    scheduler.remove(item)
    resources = Resources(4096, COST, MemorySnapshot(0, 2**40), MemoryBudget(2**40))
    return admit(item.request, Demand(50, item.request.max_tokens), resources, test)


def test_beyond_its_share_a_client_is_promised_what_ends_within_lend_only() -> None:
    """Until 20 s its half is 2 + 9 s; three times 3 s are promised, and a fourth needs 12."""
    scheduler = shared(of("ha", 1))
    scheduler.remove(scheduler.queued()[0])
    flood = [of("flood", key, deadline_s=20, queued_s=1.0) for key in (2, 3, 4)]
    for item in (of("ha", 9), *flood):
        assert add(scheduler, item, COST, 0.0) is None
    refusal = over(scheduler, of("flood", 5, deadline_s=20, priority=INTERACTIVE), 0.0)
    assert isinstance(refusal, Rejected)
    assert refusal.code is ErrorCode.QUEUE_FULL
    assert refusal.message == (
        "this client has been promised its share of the next 20.0 s; retry after 2.0 s, or ask for"
        " fewer tokens"
    )
    assert refusal.retry_after_s == pytest.approx(2.0)
    assert refusal.detail == {"max_tokens": 11}
    shorter = of("flood", 6, deadline_s=20, priority=INTERACTIVE, on_deadline=OnDeadline.SHORTEN)
    assert over(scheduler, shorter, 0.0) == 11
    # With more time its half is more, and who was promised little is not limited by it.
    assert over(scheduler, of("flood", 7, deadline_s=30, priority=INTERACTIVE), 0.0) == 21
    assert over(scheduler, of("ha", 8, deadline_s=20, priority=INTERACTIVE), 0.0) == 21


def test_who_was_promised_least_is_not_limited_by_its_share() -> None:
    """Five seconds until 6 s: more than 2 s and half of the rest."""
    flood = [of("flood", key, deadline_s=60) for key in (1, 2)]
    scheduler = shared(*flood, of("ha", 3, deadline_s=60))
    assert over(scheduler, of("ha", 4, deadline_s=6, max_tokens=41), 0.0) == 41
    assert isinstance(over(scheduler, of("flood", 5, deadline_s=6, max_tokens=41), 0.0), Rejected)


def test_who_has_a_promise_leaves_time_for_who_was_promised_less() -> None:
    """What ha asks takes 3 s: until 2 s + 1.25 times that, 2 s may be promised to another."""
    scheduler = shared(of("flood", 1, deadline_s=40))
    first = of("ha", 2)
    assert over(scheduler, first, 0.0) == 21
    refusal = over(scheduler, of("flood", 3, deadline_s=5, priority=INTERACTIVE), 0.0)
    assert isinstance(refusal, Rejected)
    assert refusal.message.startswith(
        "what is free of the next 5.0 s is kept for clients promised less; retry after 1.0 s"
    )
    assert over(scheduler, of("flood", 4, deadline_s=5, max_tokens=11), 0.0) == 11


def test_a_request_without_spare_time_ranks_last_and_keeps_nothing_free_for_itself() -> None:
    """Half of ``queue.lend`` is the least, to make room in."""
    scheduler = shared(of("flood", 1, deadline_s=40))
    tight = over(scheduler, of("ha", 2, deadline_s=3.5, priority=INTERACTIVE), 0.0)
    assert isinstance(tight, Rejected)
    assert tight.message.startswith("what is free of the next 3.5 s is kept for clients promised")
    assert over(scheduler, of("flood", 3, deadline_s=5, priority=INTERACTIVE), 0.0) == 21


def test_an_idle_device_keeps_room_for_others_and_no_reserve_of_a_class() -> None:
    scheduler = shared()
    assert over(scheduler, of("ha", 1), 0.0) == 21
    assert over(scheduler, of("flood", 2, deadline_s=2.2, max_tokens=9), 0.0) == 9  # takes 1.8 s
    longer = over(scheduler, of("flood", 3, deadline_s=3.5, priority=INTERACTIVE), 0.0)
    assert isinstance(longer, Rejected)
    assert longer.detail == {"max_tokens": 11}


def test_without_promises_a_client_is_promised_one_beyond_its_share_if_it_leaves_room() -> None:
    """A third of the time is kept for ha; the share is a third, and 10 s are asked for."""
    ended = of("flood", 1, max_tokens=31), of("panel", 2, max_tokens=31)
    scheduler = shared(of("ha", 3), *ended)
    for item in ended:
        scheduler.remove(item)
    long: dict[str, Any] = {"max_tokens": 91, "priority": INTERACTIVE}
    assert over(scheduler, of("flood", 4, deadline_s=15.1, **long), 0.0) == 91
    refusal = over(scheduler, of("flood", 5, deadline_s=14.9, **long), 0.0)
    assert isinstance(refusal, Rejected)
    assert refusal.message.startswith("what is free of the next 14.9 s is kept for clients")
    assert add(scheduler, of("flood", 6), COST, 0.0) is None
    assert isinstance(over(scheduler, of("flood", 7, deadline_s=29.9, **long), 0.0), Rejected)


def test_nothing_is_lent_beside_a_promise_that_waits_for_who_was_served_less() -> None:
    """Three seconds run and two are asked for: until 9 s its half is 4.5 s, or 2 + 3.5 s."""
    flood = [of("flood", key, deadline_s=60) for key in (1, 2)]
    waiting_one = of("ha", 3, deadline_s=60)
    scheduler = shared(*flood, waiting_one)
    started_one = start_next(scheduler, 0.0, COST)
    assert started_one is flood[0]
    state = scheduler.at(0.0, COST)
    assert state.waiting_behind_s(started_one.payer) == {Client("ha"): pytest.approx(3.0)}
    short: dict[str, Any] = {"deadline_s": 9, "max_tokens": 11, "priority": INTERACTIVE}
    refusal = over(scheduler, of("flood", 4, **short), 0.0)
    assert isinstance(refusal, Rejected)
    assert refusal.message.startswith("this client has been promised its share of the next 9.0 s")
    scheduler.remove(waiting_one)
    assert over(scheduler, of("flood", 5, **short), 0.0) == 11


def test_a_name_that_is_new_is_one_client_from_its_second_request_on() -> None:
    scheduler = filled(*(entry(key, deadline_s=70 - key) for key in (1, 2, 3)))
    assert {item.payer for item in scheduler.queued()} == {Client(None, TOPIC)}
    assert order(scheduler) == [3, 2, 1]


def test_an_entry_goes_from_waiting_over_running_to_finished() -> None:
    item = entry(1)
    scheduler = filled(item)
    assert (item.phase, len(scheduler)) == (RequestPhase.WAITING, 1)
    assert start_next(scheduler, 5.0, COST) is item
    assert scheduler.running == [item]
    assert (item.phase, len(scheduler)) == (RequestPhase.STARTING, 0)
    assert in_progress(scheduler) == [item]
    scheduler.remove(item)
    assert item.phase is RequestPhase.FINISHED
    assert scheduler.running == []


def test_no_more_run_than_there_are_slots() -> None:
    scheduler = filled(entry(1), entry(2))
    assert start_next(scheduler, 0.0, COST) is not None
    assert start_next(scheduler, 0.0, COST) is None
    assert [item.key for item in scheduler.running] == [1]
    assert scheduler.running_request(1) is scheduler.running[0]
    assert scheduler.running_request(2) is None


def test_an_empty_queue_gives_nothing() -> None:
    scheduler = filled()
    assert start_next(scheduler, 0.0, COST) is None
    assert scheduler.expire(0.0, COST) == []
    assert scheduler.next_deadline_s(COST) is None
    assert in_progress(scheduler) == []
    assert scheduler.at(0.0, COST).to_pause() is None


def test_what_cannot_give_a_first_token_in_time_expires() -> None:
    early, late = entry(1, deadline_s=10), entry(2, deadline_s=20)
    scheduler = filled(early, late)
    assert scheduler.next_deadline_s(COST) == 9.0
    assert scheduler.expire(8.9, COST) == []
    assert scheduler.expire(9.0, COST) == [early]
    assert early.phase is RequestPhase.FINISHED
    assert scheduler.next_deadline_s(COST) == 19.0
    assert order(scheduler) == [2]


def test_a_start_leaves_what_is_late_for_expire() -> None:
    late = entry(1, deadline_s=10)
    scheduler = filled(late, entry(2))
    assert order(scheduler, now_s=10.0) == [2]
    assert scheduler.expire(10.0, COST) == [late]


def running(
    item: QueuedRequest, *waiting: QueuedRequest, num_generated: int = 0
) -> Scheduler[QueuedRequest]:
    """Return a scheduler in which ``item`` has so many tokens, and the others have just come."""
    scheduler = filled(item)
    start_next(scheduler, 0.0, COST)
    item.num_prefilled, item.num_generated = 50 if num_generated else 0, num_generated
    for other in waiting:
        assert add(scheduler, other, COST, 0.0) is None
    return scheduler


def test_a_person_interrupts_less_urgent_work_that_has_the_time() -> None:
    item = entry(1, priority=NORMAL)
    scheduler = running(item, entry(2, priority=INTERACTIVE), num_generated=5)
    assert scheduler.at(1.5, COST).to_pause() is item
    scheduler.pause(item, num_generated=6)
    assert (item.phase, item.num_generated, item.num_pauses) == (RequestPhase.WAITING, 6, 1)
    assert in_progress(scheduler) == [item]
    # What is left: the prompt and six tokens once more, and the other 15.
    assert item.full_work().alone_s(COST) == pytest.approx(0.02 * 56 + 14 * 0.1)
    assert order(scheduler, 2.0) == [2, 1]


def test_remaining_work_falls_with_the_engine_s_progress() -> None:
    item = entry(1)
    scheduler = filled(item)
    start_next(scheduler, 0.0, COST)
    assert item.remaining_s(COST, 0.0) == pytest.approx(3.0)
    item.num_prefilled, item.num_generated = 20, 0
    assert item.remaining_s(COST, 0.0) == pytest.approx(0.6 + 2.0)
    item.num_prefilled, item.num_generated = 50, 0
    assert item.remaining_s(COST, 0.0) == pytest.approx(2.0)
    item.num_prefilled, item.num_generated = 50, 1
    assert item.remaining_s(COST, 0.0) == pytest.approx(2.0)
    item.num_prefilled, item.num_generated = 50, 11
    assert item.remaining_s(COST, 0.0) == pytest.approx(1.0)
    scheduler.pause(item, 11)
    start_next(scheduler, 0.0, COST)
    assert item.remaining_s(COST, 0.0) == pytest.approx(0.02 * 61 + 9 * 0.1)
    item.num_prefilled, item.num_generated = 61, 11
    assert item.remaining_s(COST, 0.0) == pytest.approx(9 * 0.1)
    item.num_prefilled, item.num_generated = 61, 12
    assert item.remaining_s(COST, 0.0) == pytest.approx(9 * 0.1)
    item.is_cancelled = True  # it ends with the run that has begun
    assert item.remaining_s(COST, 0.0) == pytest.approx(0.1)
    item.num_prefilled, item.num_generated = 21, 11
    assert item.remaining_s(COST, 0.0) == pytest.approx(0.02 * 40)


@pytest.mark.parametrize(
    ("first", "second", "num_generated"),
    [
        ({"priority": NORMAL}, {"priority": NORMAL, "deadline_s": 30}, 1),  # no higher class
        ({"priority": NORMAL, "deadline_s": 5}, {"priority": INTERACTIVE}, 1),  # no slack
        ({"priority": NORMAL}, {"priority": INTERACTIVE}, 19),  # nearly done
    ],
)
def test_what_gains_nothing_or_misses_a_deadline_is_not_paused(
    first: dict[str, Any], second: dict[str, Any], num_generated: int
) -> None:
    scheduler = running(entry(1, **first), entry(2, **second), num_generated=num_generated)
    assert scheduler.at(0.0, COST).to_pause() is None


def test_an_answer_is_interrupted_twice_at_most() -> None:
    item = entry(1)
    scheduler = running(item, entry(9, priority=INTERACTIVE))
    for number in range(MAX_PAUSES):
        assert scheduler.at(0.0, COST).to_pause() is item, number
        scheduler.pause(item, 1)
        assert order_one(scheduler) == 9
        assert start_next(scheduler, 0.0, COST) is item
        add(scheduler, entry(9, priority=INTERACTIVE), COST, 0.0)
    assert scheduler.at(0.0, COST).to_pause() is None


def order_one(scheduler: Scheduler[QueuedRequest]) -> int:
    popped = start_next(scheduler, 0.0, COST)
    assert popped is not None
    scheduler.remove(popped)
    return popped.key


def test_a_request_is_paused_to_meet_a_deadline() -> None:
    """Admission counted on it: what has little time goes before what has much."""
    item = entry(1, deadline_s=60)
    scheduler = running(item, entry(2, deadline_s=3.5), num_generated=1)
    assert scheduler.at(0.0, COST).to_pause() is item


def test_the_admission_test_counts_an_interruption_only_where_there_could_be_one() -> None:
    scheduler = running(entry(1, deadline_s=20), entry(2, deadline_s=30), num_generated=1)

    def capacity_s(deadline_s: float) -> float:
        return (
            scheduler.at(1.0, COST)
            .admission_test(deadline_s)
            .best_schedule(deadline_s, NOTHING)
            .capacity_s(deadline_s)
        )

    # 2 s run on, 3 s wait.
    assert capacity_s(40.0) == pytest.approx(39.0 - 5.0)
    # Going before them waits for a token, and costs the running one its prompt and a token again.
    assert capacity_s(10.0) == pytest.approx(9.0 - 0.02)
    assert capacity_s(19.0) == pytest.approx(19.0 - 1.02 - 19 * 0.1 - 0.02)
    assert filled().at(0.0, COST).admission_test(30.0).schedules[0].total_s == 0.0


def cancel(topic: str = "edged/n/response/cancel", **target: object) -> CancelRequest:
    return CancelRequest(ReplyAddress(topic, **target))  # type: ignore[arg-type]  # one of two


def test_cancel_removes_what_waits_and_marks_what_runs() -> None:
    running, waiting, other = (entry(i, request_id=n) for i, n in enumerate(["a", "a", "b"]))
    scheduler = filled(running, waiting, other)
    start_next(scheduler, 0.0, COST)
    running.phase = RequestPhase.RUNNING
    assert scheduler.cancel(cancel(request_id="a")) == [waiting, running]
    assert (running.phase, running.is_cancelled) == (RequestPhase.RUNNING, True)
    assert (waiting.phase, waiting.is_cancelled) == (RequestPhase.FINISHED, True)
    assert (len(scheduler), other.is_cancelled) == (1, False)
    assert scheduler.cancel(cancel(request_id="zzz")) == []


def test_a_start_that_still_waits_for_the_disk_expires_and_is_cancelled() -> None:
    late, cancelled = entry(1, deadline_s=11.0), entry(2, request_id="a")
    scheduler = filled(late, cancelled, num_slots=2)
    assert started(scheduler) == [1, 2]
    assert scheduler.next_deadline_s(COST) == 10.0
    assert scheduler.expire(10.0, COST) == [late]
    assert scheduler.cancel(cancel(request_id="a")) == [cancelled]
    assert scheduler.running == []
    assert late.phase is cancelled.phase is RequestPhase.FINISHED


def test_cancel_by_correlation_data() -> None:
    first, second = entry(1, correlation_data=b"x"), entry(2, request_id="x")
    scheduler = filled(first, second)
    assert scheduler.cancel(cancel(correlation_data=b"x")) == [first]
    assert scheduler.cancel(cancel(correlation_data=b"x")) == []


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
    matches = scheduler.cancel(cancel(cancel_topic, request_id="a"))
    assert [item.key for item in matches] == taken


def test_a_request_can_be_printed_without_its_prompt() -> None:
    item = entry(7)
    assert str(item) == "request 7: arrived, 0 tokens prefilled, 0 of 21 generated, paused 0 times"
    running(item, num_generated=5)
    shown = "request 7: starting, 50 tokens prefilled, 5 of 21 generated, paused 0 times"
    assert repr(item) == shown


def test_a_running_entry_is_a_backlog_to_its_deadline_at_most() -> None:
    item = entry(1, deadline_s=12.0)
    start_next(filled(item), 10.0, COST)
    assert item.remaining_s(COST, 10.5) == 1.5
    assert item.remaining_s(COST, 12.5) == 0.0


SLOTS = CostEstimate(
    prefill_token_s=0.02, decode_token_s=0.1, decode_row_s=0.01, chunk_tokens=4096, margin=1.0
)
"""Two requests in a batch: 1 s for each prompt, then 20 runs of 0.11 s; one run may come in."""


def started(scheduler: Scheduler[QueuedRequest], now_s: float = 0.0) -> list[int]:
    """Start what can start, and return what runs."""
    while start_next(scheduler, now_s, SLOTS) is not None:
        pass
    return [entry.key for entry in scheduler.running]


def test_as_many_run_as_there_are_slots_the_most_urgent_first() -> None:
    entries = [entry(key, deadline_s=60 - key) for key in (1, 2, 3, 4)]
    scheduler = filled(*entries, num_slots=3)
    assert started(scheduler) == [4, 3, 2]
    assert len(scheduler) == 1
    scheduler.remove(entries[2])
    assert started(scheduler) == [4, 2, 1]
    assert in_progress(scheduler) == [entries[3], entries[1], entries[0]]


def test_a_batch_is_not_joined_where_it_would_delay_a_running_one() -> None:
    """The first one needs 3 s, and 4.41 s beside another one's prompt and tokens."""
    scheduler = filled(entry(1, deadline_s=4.2), entry(2), num_slots=2)
    assert started(scheduler) == [1]
    assert scheduler.at(0.0, SLOTS).to_pause() is None
    scheduler = filled(entry(1, deadline_s=4.5), entry(2), num_slots=2)
    assert started(scheduler) == [1, 2]


def test_a_batch_is_not_joined_where_it_would_delay_a_queued_one() -> None:
    tight = entry(3, deadline_s=7.0)
    scheduler = filled(
        entry(1, priority=INTERACTIVE), entry(2, priority=INTERACTIVE), tight, num_slots=2
    )
    # All three at the same time would be fine, but there are two slots.
    assert started(scheduler) == [1, 3]


def test_a_batch_is_not_joined_where_a_running_one_needs_the_margin_of_its_prediction() -> None:
    """It needs 3 of 3.2 s, and 3.3 with the margin: it is late only if others delay it."""
    scheduler = filled(entry(1, deadline_s=3.2), entry(2), num_slots=2)
    cost = replace(SLOTS, margin=1.1)
    started_one = start_next(scheduler, 0.0, cost)
    assert started_one is not None
    assert started_one.key == 1
    assert start_next(scheduler, 0.0, cost) is None


def test_the_last_slot_is_left_to_a_person_where_the_queue_leaves_no_time() -> None:
    entries = [entry(key, deadline_s=15.2) for key in (1, 2, 3, 4, 5)]
    assert started(filled(*entries, num_slots=2)) == [1]
    assert started(filled(*entries, num_slots=3)) == [1, 2, 3]


def test_a_batch_is_joined_although_the_queue_leaves_no_time_for_a_person() -> None:
    """One by one they take 12 of 13 s, of which 2.6 are for a person: together they save as much.

    A client that is alone, or was promised least, is promised all of the time.
    """
    scheduler = filled(*(entry(key, deadline_s=13.0) for key in (1, 2, 3, 4)), num_slots=4)
    assert started(scheduler) == [1, 2, 3, 4]


def test_what_can_start_at_once_is_admitted_although_it_could_not_wait() -> None:
    first = entry(1, deadline_s=5.0, priority=INTERACTIVE)
    for num_slots, has_room in ((1, False), (2, True)):
        scheduler = filled(first, num_slots=num_slots)
        first.phase = RequestPhase.WAITING
        assert started(scheduler) == [1]
        admission_test = scheduler.at(0.0, SLOTS).admission_test(5.0)
        # Beside the other one it takes 2 + 0.1 + 20 * 0.11 s, and a step or two.
        passes = [
            admission_test.passes(Work.of(50, 21, end_s), 3.0, NOTHING) for end_s in (4.2, 4.5)
        ]
        assert passes == [False, has_room]


def test_a_person_takes_the_slot_of_the_least_urgent() -> None:
    least = entry(1, priority=BACKGROUND, deadline_s=60)
    scheduler = filled(least, entry(2, priority=NORMAL, deadline_s=80), num_slots=2)
    assert started(scheduler) == [2, 1]
    add(scheduler, entry(3, priority=INTERACTIVE), SLOTS, 0.0)
    assert scheduler.at(0.0, SLOTS).to_pause() is least
    scheduler.pause(least, 0)
    assert started(scheduler) == [2, 3]
    assert scheduler.at(0.0, SLOTS).to_pause() is None


def test_fewer_slots_let_run_to_its_end_what_runs() -> None:
    entries = [entry(key) for key in (1, 2, 3)]
    scheduler = filled(*entries, num_slots=2)
    assert started(scheduler) == [1, 2]
    scheduler.num_slots = 1
    assert scheduler.at(0.0, SLOTS).to_pause() is None
    scheduler.remove(entries[0])
    assert started(scheduler) == [2]
    scheduler.remove(entries[1])
    assert started(scheduler) == [3]


def test_where_not_all_deadlines_can_be_met_the_earliest_go_on() -> None:
    """A device that became slow: what is late anyway holds up nobody."""
    slow = SLOTS.scaled(4.0, 4.0, margin=1.0)
    scheduler = filled(*(entry(key, deadline_s=10 + key) for key in (1, 2, 3)), num_slots=2)
    assert start_next(scheduler, 0.0, slow) is not None
    assert start_next(scheduler, 0.0, slow) is not None
    assert [item.key for item in scheduler.running] == [1, 2]


def test_a_person_does_not_interrupt_a_person() -> None:
    scheduler = filled(entry(1, priority=INTERACTIVE), num_slots=1)
    assert started(scheduler) == [1]
    add(scheduler, entry(2, priority=INTERACTIVE, deadline_s=50), SLOTS, 0.0)
    assert scheduler.at(0.0, SLOTS).to_pause() is None


def test_progress_comes_from_the_engine_by_key() -> None:
    first, second = entry(1), entry(2)
    scheduler = filled(first, second, num_slots=2)
    assert started(scheduler) == [1, 2]
    scheduler.note_progress({2: (50, 3)})
    assert (first.num_prefilled, first.num_generated) == (0, 0)
    assert (second.num_prefilled, second.num_generated) == (50, 3)
