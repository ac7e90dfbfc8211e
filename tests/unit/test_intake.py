"""Intake: how far a request is, and what a cancel, a deadline and a stop do to it there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edged.engine.tokenizer import TemplateError
from edged.node.events import Abandon, Drain, Prepared, Synced
from edged.node.generation import Finished
from edged.protocol.request import FinishReason
from edged.scheduling.fair_share import ShareTerms
from edged.scheduling.queued_request import RequestPhase
from tests.fakes import LIMITS, REQUEST_BYTES, Bench, SlowJournal, open_journal, ran
from tests.unit.test_suspects import DeadlyLanguage, life

ASK = {"id": "a", "prompt": "x", "max_tokens": 5, "timeout_ms": 2000}
OTHER = {"id": "other", "prompt": "x", "max_tokens": 5}


def in_the_queue() -> Bench:
    """A request that waits to be prepared, behind another one."""
    bench = Bench(is_preparing=False)
    bench.deliver(OTHER)
    bench.deliver(ASK)
    return bench


def being_prepared() -> Bench:
    bench = Bench(is_preparing=False)
    bench.deliver(ASK)
    return bench


def waiting() -> Bench:
    bench = Bench()
    bench.deliver(OTHER)
    bench.deliver(ASK)
    return bench


def starting() -> Bench:
    bench = Bench(journal=SlowJournal())
    bench.deliver(ASK)
    return bench


NOT_STARTED = [in_the_queue, being_prepared, waiting, starting]
PHASES = [
    RequestPhase.PREPARING,
    RequestPhase.PREPARING,
    RequestPhase.WAITING,
    RequestPhase.STARTING,
]


def settle(bench: Bench) -> None:
    """Let everything be prepared and synced that was asked for."""
    bench.is_preparing = True
    while bench.preparer.waiting:
        bench.prepare()
    journal = bench.edges.journal
    while isinstance(journal, SlowJournal) and journal.keys:
        bench.take(Synced(journal.keys.pop()))


def phase_of_last(bench: Bench) -> RequestPhase:
    scheduler = bench.node.scheduler
    return [*scheduler.running, *scheduler.queued()][-1].phase


def codes(bench: Bench, request_id: str = "a") -> list[str]:
    replies = [sent.json for sent in bench.transport.replies if sent.json["id"] == request_id]
    return [reply.get("error", {"code": "ok"})["code"] for reply in replies]


def ids(bench: Bench) -> list[str | None]:
    return [job.request.reply_to.request_id for job in bench.worker.jobs]


@pytest.mark.parametrize(("begin", "phase"), list(zip(NOT_STARTED, PHASES, strict=True)))
def test_a_cancel_ends_a_request_at_once_however_far_it_is(
    begin: Callable[[], Bench], phase: RequestPhase
) -> None:
    bench = begin()
    assert phase_of_last(bench) is phase
    bench.deliver({"id": "a"}, "cancel")
    assert codes(bench) == ["ok", "cancelled"]  # the cancel's own reply has the same id
    settle(bench)
    assert codes(bench) == ["ok", "cancelled"]
    assert "a" not in ids(bench)
    held = bench.node.guard.ledger.accounts()["requests"]
    assert held == len(bench.worker.jobs) * REQUEST_BYTES


@pytest.mark.parametrize("begin", NOT_STARTED)
def test_a_deadline_ends_a_request_in_time_however_far_it_is(begin: Callable[[], Bench]) -> None:
    bench = begin()
    due_s = bench.node.next_tick_s()
    assert due_s is not None
    assert due_s <= bench.clock() + 2.0
    bench.clock.now_s = due_s
    bench.tick()
    assert codes(bench) == ["timeout"]
    settle(bench)
    assert codes(bench) == ["timeout"]
    assert "a" not in ids(bench)


@pytest.mark.parametrize("begin", [in_the_queue, being_prepared, waiting])
def test_a_stop_leaves_a_request_to_the_next_process_however_far_it_is(
    begin: Callable[[], Bench],
) -> None:
    bench = begin()
    bench.take(Drain())
    bench.take(Abandon())
    settle(bench)
    assert "a" not in ids(bench)
    assert bench.transport.replies == []
    assert bench.transport.acknowledged == []


def test_a_stop_while_a_request_is_prepared_is_no_crash(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path, is_preparing=False)
    bench.deliver(ASK)
    bench.take(Drain())
    bench.take(Abandon())
    bench = Bench(folder=tmp_path)
    assert bench.node.num_unfinished == 0
    delivery = bench.deliver(ASK, is_redelivery=True)
    assert open_journal(tmp_path).num_intake_crashes(delivery.fingerprint) == 0
    assert ids(bench) == ["a"]


def test_a_stop_after_a_crash_is_not_told_as_another_crash(tmp_path: Path) -> None:
    Bench(folder=tmp_path).deliver(ASK)
    crashed = Bench(folder=tmp_path)
    assert crashed.node.num_unfinished == 1
    crashed.take(Abandon())
    stopped = Bench(folder=tmp_path)
    assert stopped.node.num_unfinished == 0
    stopped.deliver(ASK, is_redelivery=True)
    stopped.finish()
    assert stopped.transport.replies[0].json["attempt"] == 2


def test_what_arrives_or_is_held_back_while_the_node_drains_gets_no_reply(tmp_path: Path) -> None:
    long = {"id": "suspect", "prompt": "x", "timeout_ms": 200_000}
    life(tmp_path).deliver(long)
    bench = life(tmp_path)
    bench.deliver(long, is_redelivery=True)
    bench.deliver({"id": "held", "prompt": 7})
    bench.take(Drain())
    bench.deliver({"id": "late", "prompt": 7})
    bench.finish()
    assert [sent.json["id"] for sent in bench.transport.replies] == ["suspect"]


def test_what_is_held_back_makes_no_tick_while_the_node_drains(tmp_path: Path) -> None:
    long = {"id": "suspect", "prompt": "x", "timeout_ms": 200_000}
    life(tmp_path).deliver(long)
    bench = life(tmp_path)
    bench.deliver(long, is_redelivery=True)
    bench.deliver(OTHER)
    assert bench.node.next_tick_s() is not None
    bench.take(Drain())
    assert bench.node.next_tick_s() is None


def test_a_suspect_is_not_taken_in_beside_a_cancelled_request_that_is_still_prepared(
    tmp_path: Path,
) -> None:
    bench = life(tmp_path)
    with pytest.raises(SystemExit):
        bench.deliver({"id": "d", "prompt": "deadly"})
    bench = life(tmp_path, is_preparing=False)
    bench.deliver(OTHER)
    bench.deliver({"id": "other"}, "cancel")
    bench.deliver({"id": "d", "prompt": "deadly"}, is_redelivery=True)
    assert len(bench.node.scheduler) == 0, "it was not even decoded"
    bench.prepare()
    assert [asked.request.reply_to.request_id for asked in bench.preparer.waiting] == ["d"]


def test_equal_messages_at_work_are_blamed_for_a_crash_once(tmp_path: Path) -> None:
    open_journal(tmp_path).mark(["equal", "equal"])
    assert open_journal(tmp_path).num_intake_crashes("equal") == 1


def test_a_flood_is_taken_in_as_it_comes() -> None:
    """Nothing is left behind in the node: each delivery is decided on before the next."""
    bench = Bench()
    for number in range(1000):
        bench.deliver({"id": f"r{number}", "prompt": "x", "max_tokens": 5})
    assert len(bench.transport.replies) == 1000 - 3
    assert len(bench.node.scheduler) == 2


def test_what_was_refused_before_it_was_prepared_lets_the_next_one_be_prepared() -> None:
    bench = Bench(limits=replace(LIMITS, max_waiting=3), is_preparing=False)
    bench.deliver(OTHER)
    bench.deliver(ASK | {"timeout_ms": 300})
    bench.clock.advance(0.29)
    bench.deliver(OTHER | {"id": "next"})
    bench.take(Prepared(bench.preparer.waiting.pop(0).key, [1]))
    assert codes(bench) == ["timeout"]
    assert [asked.request.reply_to.request_id for asked in bench.preparer.waiting] == ["next"]


def test_one_client_s_requests_are_not_prepared_one_after_the_other_while_another_waits() -> None:
    """A schema takes 40 ms, and half of the queue may be of one client."""
    # Known from their first request on.
    weights = ShareTerms({"flood": 1.0, "more": 1.0, "ha": 1.0})
    bench = Bench(limits=replace(LIMITS, max_waiting=9, share_terms=weights), is_preparing=False)
    for user, name in (
        ("flood", "f1"),
        ("flood", "f2"),
        ("more", "m1"),
        ("more", "m2"),
        ("ha", "h1"),
        ("ha", "h2"),
    ):
        topic = f"edged/kitchen/client/{user}/request/generate"
        bench.deliver({"id": name, "prompt": "x", "max_tokens": 1}, topic=topic)
    order = []
    while bench.preparer.waiting:
        order.append(bench.preparer.waiting[0].request.reply_to.request_id)
        bench.prepare()
    assert order == ["f1", "m1", "h1", "f2", "m2", "h2"]


ACCOUNTS = ShareTerms({"bad": 1.0, "ha": 1.0, "panel": 1.0})
"""Known from their first request on."""


def of(bench: Bench, user: str, operation: str = "generate", **members: object) -> str | None:
    """Let an account ask, and return the code of a refusal at once."""
    before = len(bench.transport.replies)
    topic = f"edged/kitchen/client/{user}/request/{operation}"
    bench.deliver({"prompt": "x", "max_tokens": 40} | members, operation, topic=topic)
    replies = (sent.json for sent in bench.transport.replies[before:])
    return next((it["error"]["code"] for it in replies if "error" in it), None)


def asks_too_long_a_prompt(bench: Bench) -> None:
    assert (
        of(bench, "bad", prompt="x" * 300, max_tokens=255, timeout_ms=300_000) == "prompt_too_long"
    )


def asks_what_no_template_takes(bench: Bench) -> None:
    bench.language.error = TemplateError("no")
    assert of(bench, "bad", max_tokens=255, timeout_ms=300_000) == "bad_request"
    bench.language.error = None


def cancels(bench: Bench) -> None:
    assert of(bench, "bad", id="b", max_tokens=255, timeout_ms=300_000) is None
    assert of(bench, "bad", "cancel", id="b") is None
    run = bench.worker.jobs[-1]
    ran(run, bench.clock(), None, num_output_tokens=0)
    bench.take(Finished(run, run.end(FinishReason.CANCELLED), bench.clock()))


@pytest.mark.parametrize("act", [asks_too_long_a_prompt, asks_what_no_template_takes, cancels])
def test_no_time_is_kept_for_what_could_not_be_answered_or_was_cancelled(
    act: Callable[[Bench], None],
) -> None:
    """One such request in five minutes would keep all others from all that takes longer."""
    bench = Bench(limits=replace(LIMITS, max_waiting=8, share_terms=ACCOUNTS))
    act(bench)
    bench.clock.advance(60.0)
    assert [of(bench, "ha", id=f"h{number}", timeout_ms=30_000) for number in range(3)] == [
        None
    ] * 3


def test_no_time_is_kept_for_more_than_the_context_has() -> None:
    """It could write 255 tokens in 22 s, whatever it asks for."""
    bench = Bench(limits=replace(LIMITS, max_waiting=8, share_terms=ACCOUNTS))
    assert of(bench, "bad", max_tokens=100_000, timeout_ms=300_000) is None
    (state,) = bench.node.scheduler.running
    assert 22.0 < state.wanted_s < 23.0


def test_a_decision_has_as_much_time_to_spare_as_it_leaves() -> None:
    """It writes nothing, so the 128 tokens of a request that says nothing are not counted."""
    bench = Bench(limits=replace(LIMITS, max_waiting=8, share_terms=ACCOUNTS))
    assert of(bench, "panel", timeout_ms=60_000) is None
    bench.finish()
    lamp = {"type": "choice", "choices": ["on", "off"], "probabilities": True}
    prompt = "x" * 200
    assert of(bench, "ha", prompt=prompt, format=lamp, timeout_ms=5000, max_tokens=None) is None


def test_an_exit_in_the_tokenizer_marks_the_request_that_caused_it(tmp_path: Path) -> None:
    bench = Bench(folder=tmp_path, language=DeadlyLanguage(), is_preparing=False)
    innocent, deadly = bench.deliver(OTHER), bench.deliver({"prompt": "deadly"})
    bench.prepare()
    with pytest.raises(SystemExit):
        bench.prepare()
    journal = open_journal(tmp_path)
    assert journal.num_intake_crashes(deadly.fingerprint) == 1
    assert journal.num_intake_crashes(innocent.fingerprint) == 0
