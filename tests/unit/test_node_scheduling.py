"""The service on top of promises: interruptions and what is learned."""

from dataclasses import replace

import pytest

from edged.engine.generation import Finished, Generation, Job, Paused
from edged.errors import ErrorCode
from edged.protocol.energy import Energy, EnergySource
from edged.protocol.request import Answer, FinishReason, Rejected, Usage
from tests.fakes import COST, LIMITS, Bench, CharacterStream

SLOW = {"prompt": "x", "max_tokens": 100, "timeout_ms": 60_000}
PERSON = {"prompt": "y", "max_tokens": 5, "priority": "interactive"}
BATCH = SLOW | {"priority": "background"}


def interrupted(bench: Bench, text: str = "Par") -> Generation:
    """Let the worker report that the running job made room, with this much of its answer."""
    job: Job = bench.worker.jobs[0]
    run = Generation(job, CharacterStream(), bench.clock(), was_paused=True)
    run.output_ids, run.text, run.first_token_s = list(map(ord, text)), text, bench.clock()
    bench.service.finish(Paused(run))
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
    times = (bench.clock() - 3, bench.clock(), bench.clock())
    bench.service.finish(Finished(slow.key, outcome, Usage(1, 0, 5), *times, was_paused=True))
    assert [r.json["data"]["text"] for r in bench.transport.replies] == ["now", "Paris"]
    assert bench.metrics.snapshot()["paused"] == 1


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
    bench.service.tick()
    (reply,) = bench.transport.replies
    assert reply.json["data"]["finish_reason"] == "deadline"
    assert reply.json["data"]["text"] == "Par"


def test_a_stop_interrupts_nothing_any_more() -> None:
    bench = Bench()
    bench.deliver(SLOW | {"id": "first", "max_tokens": 50})
    bench.deliver(PERSON | {"id": "person"})
    bench.worker.paused.clear()
    bench.service.drain()
    bench.service.tick()
    assert bench.worker.paused == []


def test_a_stop_leaves_interrupted_requests_to_the_next_process() -> None:
    bench = ask_slow_then_person()
    interrupted(bench)
    bench.service.drain()
    bench.service.abandon()
    assert bench.transport.acknowledged == []
    assert bench.attempts.begin(f"another start of {id(bench)}") == 1


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
    usage = Usage(1, 0, 2, energy=Energy(1.23456, source))
    outcome = Answer("hi", FinishReason.STOP)
    bench.service.finish(Finished(job.key, outcome, usage, now_s, now_s + 1, now_s + 0.5))
    told = bench.transport.replies[0].json["usage"]
    assert (told["energy_j"], told["energy_source"]) == (1.235, source.value)
    assert bench.metrics.snapshot()["energy_j"] == 1.235


def test_a_full_queue_gives_the_memory_of_the_refused_back() -> None:
    bench = Bench(limits=replace(LIMITS, max_waiting=1))
    for number in range(3):
        bench.deliver({"id": f"r{number}", "prompt": "x", "max_tokens": 5})
    accounts = bench.service.guard.ledger.accounts()
    assert accounts["requests"] == 2 * 128 * 1024


def test_a_request_that_ended_without_a_token_teaches_nothing() -> None:
    bench = Bench()
    bench.deliver({"id": "a", "prompt": "x"})
    job, now_s = bench.worker.jobs[0], bench.clock()
    usage = Usage(1, 0, 0, energy=Energy(2.0, EnergySource.MODEL))
    outcome = Rejected(ErrorCode.INTERNAL, "broken")
    bench.service.finish(Finished(job.key, outcome, usage, now_s, now_s + 9, None))
    snapshot = bench.metrics.snapshot()
    assert (snapshot["ttft_p50_s"], snapshot["energy_j"]) == (None, 2.0)
    assert bench.service.costs.current == bench.service.costs.fitted


def company(num_slots: int = 2) -> Bench:
    """A service with several slots, and three requests."""
    bench = Bench(limits=replace(LIMITS, max_waiting=4, num_slots=num_slots))
    for name in ("a", "b", "c"):
        bench.deliver({"id": name, "prompt": "x", "max_tokens": 5})
    return bench


def ended(bench: Bench, key: int, text: str) -> Finished:
    """The end of one of the jobs, a second after now."""
    now_s = bench.clock()
    bench.clock.advance(1.0)
    usage = Usage(1, 0, len(text))
    answer = Answer(text, FinishReason.STOP)
    return Finished(key, answer, usage, now_s, bench.clock(), now_s + 0.5)


def test_as_many_run_as_there_are_slots_and_each_gets_its_own_answer() -> None:
    bench = company()
    first, second = bench.worker.jobs
    assert (bench.service.num_running, bench.service.num_waiting) == (2, 1)
    bench.service.finish(ended(bench, second.key, "second"))
    assert [job.request.reply_to.request_id for job in bench.worker.jobs] == ["a", "b", "c"]
    bench.service.finish(ended(bench, bench.worker.jobs[2].key, "third"))
    bench.service.finish(ended(bench, first.key, "first"))
    replies = {sent.json["id"]: sent.json["data"]["text"] for sent in bench.transport.replies}
    assert replies == {"a": "first", "b": "second", "c": "third"}


def test_a_cancel_reaches_the_one_it_is_meant_for() -> None:
    bench = company()
    bench.deliver({"id": "b"}, "cancel")
    assert bench.worker.cancelled == [bench.worker.jobs[1].key]


def test_what_an_answer_still_needs_is_known_from_its_progress() -> None:
    bench = company(num_slots=1)
    key = bench.worker.jobs[0].key
    before_s = bench.service.scheduler.running[0].remaining_s(COST, bench.clock())
    bench.worker.done[key] = (1, 3)
    bench.service.tick()
    left_s = bench.service.scheduler.running[0].remaining_s(COST, bench.clock())
    assert left_s < before_s - 2 * COST.decode_token_s
