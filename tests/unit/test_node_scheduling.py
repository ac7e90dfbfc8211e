"""The node on top of the scheduler: interruptions and what is learned."""

from dataclasses import replace

import pytest

from edged.errors import ErrorCode
from edged.node.events import Abandon, Drain, Probed, Synced
from edged.node.generation import Finished, Generation, Paused
from edged.node.intake import PROBE_INTERVAL_S
from edged.protocol.request import Answer, Energy, EnergySource, FinishReason, Rejected
from edged.scheduling.latency_model import RequestTimings
from tests.fakes import COST, LIMITS, REQUEST_BYTES, Bench, SlowJournal, ran

SLOW = {"prompt": "x", "max_tokens": 100, "timeout_ms": 60_000}
PERSON = {"prompt": "y", "max_tokens": 5, "priority": "interactive"}
BATCH = SLOW | {"priority": "background"}


def interrupted(bench: Bench, text: str = "Par") -> Generation:
    """Let the worker report that the running job made room, with this much of its answer."""
    run = ran(bench.worker.jobs[0], bench.clock(), bench.clock(), num_output_tokens=len(text))
    run.text, run.was_paused = text, True
    bench.take(Paused(run))
    return run


def ask_slow_then_person() -> Bench:
    bench = Bench()
    bench.deliver(SLOW | {"id": "slow"})
    bench.clock.advance(1.0)
    bench.deliver(PERSON | {"id": "person"})
    return bench


def test_a_person_goes_first_and_the_interrupted_answer_follows_whole() -> None:
    bench = ask_slow_then_person()
    slow = bench.worker.jobs[0]
    assert bench.worker.paused[0] == slow.key
    assert len(bench.worker.jobs) == 1  # not before the worker has made room
    run = interrupted(bench)
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["slow", "person"]
    bench.finish("now")
    assert bench.worker.resumed == [run]
    outcome = Answer("Paris", FinishReason.STOP)
    bench.take(Finished(run, outcome, bench.clock()))
    assert [r.json["data"]["text"] for r in bench.transport.replies] == ["now", "Paris"]
    assert bench.metrics.snapshot()["paused"] == 1


def test_what_is_starting_is_interrupted_as_soon_as_it_runs() -> None:
    journal = SlowJournal()
    bench = Bench(journal=journal)
    bench.deliver(SLOW | {"id": "slow"})
    bench.deliver(PERSON | {"id": "person"})
    assert bench.worker.paused == []
    bench.take(Synced(journal.keys[0]))
    assert bench.worker.paused == [bench.worker.jobs[0].key]


def test_an_interrupted_answer_that_is_cancelled_is_replied_to_as_far_as_it_is() -> None:
    bench = ask_slow_then_person()
    interrupted(bench)
    bench.deliver({"id": "slow"}, "cancel")
    _, reply = bench.transport.replies
    assert reply.json["data"] == {"text": "Par", "json": None, "finish_reason": "cancelled"}
    assert reply.json["usage"]["completion_tokens"] == 3


def test_an_interrupted_stream_that_ends_says_so_before_its_reply() -> None:
    bench = Bench()
    bench.deliver(SLOW | {"id": "slow", "stream": True})
    bench.clock.advance(1.0)
    bench.deliver(PERSON | {"id": "person"})
    interrupted(bench)
    bench.deliver({"id": "slow"}, "cancel")
    (fragment,) = bench.transport.on("/stream/")
    assert fragment.json == {"id": "slow", "seq": 0, "delta": "Par", "done": True}
    reply = next(sent for sent in bench.transport.replies if "text" in sent.json["data"])
    assert fragment.handle < reply.handle


def test_a_cancel_that_crosses_the_interruption_ends_it() -> None:
    bench = ask_slow_then_person()
    bench.deliver({"id": "slow"}, "cancel")
    assert bench.worker.cancelled == [bench.worker.jobs[0].key]
    interrupted(bench, "")
    error = bench.transport.replies[1].json["error"]
    assert error["code"] == "cancelled"
    bench.finish("now")
    assert bench.worker.resumed == []


def test_an_interrupted_answer_ends_at_its_deadline_with_what_it_has() -> None:
    bench = ask_slow_then_person()
    interrupted(bench)
    bench.clock.advance(60.0)
    bench.tick()
    (reply,) = bench.transport.replies
    assert reply.json["data"]["finish_reason"] == "deadline"
    assert reply.json["data"]["text"] == "Par"


def test_a_stop_interrupts_nothing_any_more() -> None:
    bench = Bench()
    bench.deliver(SLOW | {"id": "first", "max_tokens": 50})
    bench.deliver(PERSON | {"id": "person"})
    bench.worker.paused.clear()
    bench.take(Drain())
    bench.tick()
    assert bench.worker.paused == []


def test_a_stop_leaves_interrupted_requests_to_the_next_process() -> None:
    bench = ask_slow_then_person()
    interrupted(bench)
    bench.take(Drain())
    bench.take(Abandon())
    assert bench.transport.acknowledged == []
    assert bench.transport.replies == []


def test_equal_background_requests_are_each_held_to_their_own_format() -> None:
    bench = Bench()
    for number in range(2):
        bench.deliver(BATCH | {"id": f"r{number}"})
    bench.deliver({"id": "r0"}, "cancel")
    bench.finish("r0")
    bench.finish("r1")
    assert len(bench.worker.jobs) == 2
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["r0", "r1"]


@pytest.mark.parametrize("source", EnergySource)
def test_energy_stands_in_the_reply_with_its_source(source: EnergySource) -> None:
    bench = Bench()
    bench.deliver({"id": "a", "prompt": "x"})
    job, now_s = bench.worker.jobs[0], bench.clock()
    ran(job, now_s, now_s + 0.5, num_output_tokens=2).energy = Energy(1.23456, source)
    bench.take(Finished(job, Answer("hi", FinishReason.STOP), now_s + 1))
    told = bench.transport.replies[0].json["usage"]
    assert (told["energy_j"], told["energy_source"]) == (1.235, source.value)
    assert bench.metrics.snapshot()["energy_j"] == 1.235


def test_a_full_queue_gives_the_memory_of_the_refused_back() -> None:
    bench = Bench(limits=replace(LIMITS, max_waiting=1))
    for number in range(3):
        bench.deliver({"id": f"r{number}", "prompt": "x", "max_tokens": 5})
    accounts = bench.node.guard.ledger.accounts()
    assert accounts["requests"] == 2 * REQUEST_BYTES


def test_a_request_that_ended_without_a_token_teaches_nothing() -> None:
    bench = Bench()
    bench.deliver({"id": "a", "prompt": "x"})
    job, now_s = bench.worker.jobs[0], bench.clock()
    ran(job, now_s, None, num_output_tokens=0).energy = Energy(2.0, EnergySource.MODEL)
    bench.take(Finished(job, Rejected(ErrorCode.INTERNAL, "broken"), now_s + 9))
    snapshot = bench.metrics.snapshot()
    assert (snapshot["ttft_p50_s"], snapshot["energy_j"]) == (None, 2.0)
    assert bench.node.latency_model.current == bench.node.latency_model.fitted


def ask_late(bench: Bench) -> ErrorCode | None:
    """Ask for an answer that takes 8 s in at most 20 s; return why it is refused."""
    before = len(bench.worker.jobs)
    bench.deliver(
        {"id": f"p{bench.packets}", "prompt": "x", "max_tokens": 100, "timeout_ms": 20_000}
    )
    if len(bench.worker.jobs) > before:
        return None
    return ErrorCode(bench.transport.replies[-1].json["error"]["code"])


def slow_bench() -> Bench:
    """A node whose device was many times slower than measured for its last answers."""
    bench = Bench()
    for _ in range(3):
        assert ask_late(bench) is None
        bench.finish("Paris!", seconds=20.0)
    return bench


def short_request(factor: float) -> RequestTimings:
    """What a short request takes on a device that is slower than measured by a factor."""
    spent = RequestTimings(num_prefilled=32, decode_runs=4)
    spent.prefill_s = factor * spent.predicted_prefill_s(COST)
    spent.decode_s = factor * spent.predicted_decode_s(COST)
    return spent


@pytest.mark.parametrize(("factor", "found"), [(1.0, None), (10.0, ErrorCode.TIMEOUT)])
def test_what_is_refused_for_lack_of_time_has_an_idle_device_timed_again(
    factor: float, found: ErrorCode | None
) -> None:
    bench = slow_bench()
    assert ask_late(bench) is ErrorCode.TIMEOUT
    assert bench.worker.probes == 1
    bench.take(Probed([short_request(factor)] * 3))
    assert ask_late(bench) is found


def test_a_device_is_timed_again_no_more_often_than_refusals_may_ask_for() -> None:
    bench = slow_bench()
    for _ in range(3):
        assert ask_late(bench) is ErrorCode.TIMEOUT
    assert bench.worker.probes == 1
    bench.clock.advance(PROBE_INTERVAL_S)
    assert ask_late(bench) is ErrorCode.TIMEOUT
    assert bench.worker.probes == 2


def test_a_busy_device_is_not_timed_again() -> None:
    bench = slow_bench()
    bench.deliver({"id": "short", "prompt": "x", "max_tokens": 1, "timeout_ms": 60_000})
    assert len(bench.worker.jobs) == 4
    assert ask_late(bench) is ErrorCode.TIMEOUT
    assert bench.worker.probes == 0


def two_slots(num_slots: int = 2) -> Bench:
    """A service with several slots, and three requests."""
    bench = Bench(limits=replace(LIMITS, max_waiting=4, num_slots=num_slots))
    for name in ("a", "b", "c"):
        bench.deliver({"id": name, "prompt": "x", "max_tokens": 5})
    return bench


def ended(bench: Bench, job: Generation, text: str) -> Finished:
    """The end of one of the generations, a second after now."""
    now_s = bench.clock()
    bench.clock.advance(1.0)
    ran(job, now_s, now_s + 0.5, num_output_tokens=len(text))
    return Finished(job, Answer(text, FinishReason.STOP), bench.clock())


def test_as_many_run_as_there_are_slots_and_each_gets_its_own_answer() -> None:
    bench = two_slots()
    first, second = bench.worker.jobs
    assert (len(bench.node.scheduler.running), len(bench.node.scheduler)) == (2, 1)
    bench.take(ended(bench, second, "second"))
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["a", "b", "c"]
    bench.take(ended(bench, bench.worker.jobs[2], "third"))
    bench.take(ended(bench, first, "first"))
    replies = {sent.json["id"]: sent.json["data"]["text"] for sent in bench.transport.replies}
    assert replies == {"a": "first", "b": "second", "c": "third"}


def test_a_cancel_reaches_the_one_it_is_meant_for() -> None:
    bench = two_slots()
    bench.deliver({"id": "b"}, "cancel")
    assert bench.worker.cancelled == [bench.worker.jobs[1].key]


def test_what_an_answer_still_needs_is_known_from_its_progress() -> None:
    bench = two_slots(num_slots=1)
    key = bench.worker.jobs[0].key
    before_s = bench.node.scheduler.running[0].remaining_s(COST, bench.clock())
    bench.worker.done[key] = (1, 3)
    bench.tick()
    left_s = bench.node.scheduler.running[0].remaining_s(COST, bench.clock())
    assert left_s < before_s - 2 * COST.decode_token_s
