"""Corrections in the node: one reply each, after the disk, few at a time; compared from memory."""

from dataclasses import replace

import pytest

from edged.errors import ErrorCode
from edged.node.corrections import MAX_IN_HAND, MAX_REMEMBERED, MAX_SAID_CHARACTERS
from edged.node.effects import KeepCorrection
from edged.node.events import CorrectionKept, Drain
from edged.node.generation import Finished
from edged.protocol.request import Answer, FinishReason, Rejected
from edged.specialists.decider import Said
from tests.fakes import LIMITS, Bench, ran

KEEPING = replace(LIMITS, defaults=replace(LIMITS.defaults, keeps_corrections=True))
CORRECTION = {"id": "c1", "specialist": "lamp", "prompt": "light!", "answer": "on"}
LAMP_ON = Answer("on", FinishReason.STOP, detail={"specialist": "lamp"})


@pytest.fixture
def bench() -> Bench:
    return Bench(KEEPING)


def decide(bench: Bench, answer: Answer, prompt: str = "light!", client: str = "me") -> None:
    """Let a prompt be answered by a specialist."""
    bench.deliver({"prompt": prompt, "response_topic": f"reply/{client}"})
    run = ran(bench.worker.jobs[-1], bench.clock(), bench.clock(), num_output_tokens=0)
    bench.take(Finished(run, answer, bench.clock()))


def asked(bench: Bench) -> KeepCorrection:
    """What the disk was asked to keep last."""
    return bench.keeper.waiting[-1]


def keep(bench: Bench, **more: object) -> None:
    """Let the disk have the first that waits."""
    event = CorrectionKept(bench.keeper.waiting.pop(0).key, count=1, is_new=True)
    bench.take(replace(event, **more))  # type: ignore[arg-type]


def test_it_is_answered_when_it_is_on_the_disk_and_acknowledged_after_that(bench: Bench) -> None:
    delivery = bench.deliver(CORRECTION, "correct")
    assert bench.transport.replies == []
    correction = asked(bench).correction
    assert (correction.specialist, correction.prompt, correction.answer) == (
        *("lamp", "light!"),
        "on",
    )
    keep(bench, count=12)
    (reply,) = bench.transport.replies
    assert (reply.json["id"], reply.json["data"]) == ("c1", {"kept": True, "count": 12})
    assert reply.message.topic == "edged/kitchen/response/correct"
    assert bench.transport.acknowledged == []
    bench.confirm_all()
    assert bench.transport.acknowledged == [delivery.receipt]
    assert bench.metrics.snapshot()["corrections"] == 1


def test_a_node_that_keeps_none_says_so() -> None:
    bench = Bench()
    bench.deliver(CORRECTION, "correct")
    (reply,) = bench.transport.replies
    assert reply.json["error"]["code"] == "bad_request"
    assert "state.corrections is 0" in reply.json["error"]["message"]
    assert bench.keeper.waiting == []


def test_what_is_refused_on_its_way_to_the_disk_is_answered_with_the_reason(bench: Bench) -> None:
    bench.deliver(CORRECTION, "correct")
    keep(bench, is_new=False, rejected=Rejected(ErrorCode.BAD_REQUEST, "answer: no"))
    (reply,) = bench.transport.replies
    assert reply.json["error"]["message"] == "answer: no"
    assert bench.metrics.snapshot()["corrections"] == 0
    assert bench.metrics.snapshot()["refused_by_code"] == {"bad_request": 1}


def test_the_same_id_again_is_kept_once_and_each_delivery_is_answered(bench: Bench) -> None:
    for _ in range(2):
        bench.deliver(CORRECTION, "correct")
    assert len(bench.keeper.waiting) == 1
    keep(bench)
    bench.deliver(CORRECTION, "correct")
    assert bench.keeper.waiting == []
    assert [reply.json["duplicate"] for reply in bench.transport.replies] == [False, True, True]
    assert {reply.json["data"]["count"] for reply in bench.transport.replies} == {1}
    assert bench.metrics.snapshot()["corrections"] == 1


def test_a_redelivery_takes_the_place_of_the_delivery_before(bench: Bench) -> None:
    without_id = {key: value for key, value in CORRECTION.items() if key != "id"}
    first = bench.deliver(without_id, "correct")
    again = replace(first, is_redelivery=True, connection_epoch=1)
    bench.take(again)
    assert len(bench.keeper.waiting) == 1
    keep(bench)
    bench.confirm_all()
    assert bench.transport.acknowledged == [again.receipt]


def test_no_more_than_a_few_are_on_their_way_to_the_disk(bench: Bench) -> None:
    for number in range(MAX_IN_HAND + 1):
        bench.deliver(CORRECTION | {"id": f"c{number}"}, "correct")
    assert len(bench.keeper.waiting) == MAX_IN_HAND
    (reply,) = bench.transport.replies
    assert (reply.json["id"], reply.json["error"]["code"]) == (f"c{MAX_IN_HAND}", "queue_full")
    keep(bench)
    bench.deliver(CORRECTION | {"id": "next"}, "correct")
    assert len(bench.keeper.waiting) == MAX_IN_HAND


def test_a_disk_that_hangs_costs_an_error_in_time_and_still_has_its_place(bench: Bench) -> None:
    for number in range(MAX_IN_HAND):
        bench.deliver(CORRECTION | {"id": f"c{number}"}, "correct")
    timeout_s = KEEPING.defaults.timeout_s
    assert bench.node.next_tick_s() == bench.clock() + timeout_s
    bench.clock.advance(timeout_s)
    bench.tick()
    codes = [reply.json["error"]["code"] for reply in bench.transport.replies]
    assert codes == ["timeout"] * MAX_IN_HAND
    assert bench.node.next_tick_s() is None
    bench.deliver(CORRECTION | {"id": "next"}, "correct")
    assert bench.transport.replies[-1].json["error"]["code"] == "queue_full"
    keep(bench)
    assert len(bench.transport.replies) == MAX_IN_HAND + 1, "a second reply"
    assert bench.metrics.snapshot()["corrections"] == 1
    bench.deliver(CORRECTION | {"id": "after"}, "correct")
    assert asked(bench).correction.reply_to.request_id == "after"


def test_what_is_on_its_way_at_a_stop_is_answered_if_the_disk_has_it(bench: Bench) -> None:
    bench.deliver(CORRECTION, "correct")
    bench.take(Drain())
    keep(bench)
    assert len(bench.transport.replies) == 1


def test_an_unknown_one_changes_nothing(bench: Bench) -> None:
    bench.take(CorrectionKept(77, count=1, is_new=True))
    assert bench.transport.replies == []
    assert bench.metrics.snapshot()["corrections"] == 0


def test_a_correction_comes_with_what_the_specialist_said(bench: Bench) -> None:
    decide(bench, LAMP_ON)
    bench.deliver(CORRECTION, "correct")
    assert asked(bench).said == Said("on", is_unsure=False)
    decide(bench, replace(LAMP_ON, text="[]", json=[], finish_reason=FinishReason.UNSURE))
    bench.deliver(CORRECTION | {"id": "c2"}, "correct")
    assert asked(bench).said == Said([], is_unsure=True)
    decide(bench, replace(LAMP_ON, text=""))
    bench.deliver(CORRECTION | {"id": "c3", "messages": None}, "correct")
    assert asked(bench).said == Said(None, is_unsure=False)
    for is_agreed in (True, False, None):
        keep(bench, is_agreed=is_agreed)
    snapshot = bench.metrics.snapshot()
    assert (snapshot["corrections_compared"], snapshot["corrections_agreed"]) == (2, 1)


@pytest.mark.parametrize(
    "correction",
    [{"specialist": "heater"}, {"prompt": "Light!"}],
    ids=["another specialist", "another prompt"],
)
def test_what_was_said_is_that_specialists_and_of_that_prompt(
    bench: Bench, correction: dict[str, str]
) -> None:
    decide(bench, LAMP_ON)
    bench.deliver(CORRECTION | correction, "correct")
    assert asked(bench).said is None


def test_what_was_said_to_one_of_several_questions_is_remembered(bench: Bench) -> None:
    parts = {
        "a": {"text": "on", "choice": 0, "specialist": "lamp", "finish_reason": "stop"},
        "b": {"text": "3", "json": 3, "specialist": "heat", "finish_reason": "unsure"},
        "c": {"text": "yes", "choice": 1, "finish_reason": "stop"},
    }
    decide(bench, Answer("{}", FinishReason.UNSURE, {}, detail={"answers": parts}))
    for name, said in (("lamp", Said("on", is_unsure=False)), ("heat", Said(3, is_unsure=True))):
        bench.deliver(CORRECTION | {"id": name, "specialist": name}, "correct")
        assert asked(bench).said == said


def test_what_the_plain_model_wrote_or_is_too_long_is_not_remembered(bench: Bench) -> None:
    decide(bench, Answer("on", FinishReason.STOP))
    decide(bench, replace(LAMP_ON, detail={"specialist": None, "escalated_from": "lamp"}))
    decide(bench, replace(LAMP_ON, text="x" * (MAX_SAID_CHARACTERS + 1)))
    # Few characters of text may name much.
    decide(bench, replace(LAMP_ON, text="all", json=["x" * MAX_SAID_CHARACTERS]))
    bench.deliver(CORRECTION, "correct")
    assert asked(bench).said is None


def test_only_the_latest_answers_are_remembered(bench: Bench) -> None:
    decide(bench, LAMP_ON)
    decide(bench, LAMP_ON, "the next")
    for number in range(MAX_REMEMBERED - 2):
        decide(bench, LAMP_ON, f"prompt {number}")
    decide(bench, LAMP_ON)  # asked again, it is the latest
    decide(bench, LAMP_ON, "one more")
    bench.deliver(CORRECTION, "correct")
    assert asked(bench).said is not None
    bench.deliver(CORRECTION | {"id": "c2", "prompt": "the next"}, "correct")
    assert asked(bench).said is None


def test_a_client_that_asks_a_lot_pushes_out_no_other_ones_answers(bench: Bench) -> None:
    decide(bench, LAMP_ON)
    for number in range(2 * MAX_REMEMBERED):
        decide(bench, LAMP_ON, f"prompt {number}", "flood")
    bench.deliver(CORRECTION, "correct")
    assert asked(bench).said is not None
    bench.deliver(CORRECTION | {"id": "c2", "prompt": "prompt 0"}, "correct")
    assert asked(bench).said is None
