"""What is passed on to another node: one hop, in time, one reply, and what counts as an answer."""

import json
from dataclasses import replace
from typing import Any

import pytest

from edged.node.escalations import MIN_WAIT_S, WAITED_SHARE
from edged.node.events import Drain, EscalationReplied
from edged.node.generation import Finished
from edged.protocol.escalation import (
    MAX_REPLY_BYTES,
    EscalationTarget,
    decode_escalation,
    encode_escalation,
)
from edged.protocol.request import Answer, FinishReason, ReplyAddress
from edged.protocol.wire import Delivery
from tests.fakes import LIMITS, Bench, Sent, ran
from tests.make_request import make_request

TARGET = EscalationTarget(
    "attic", "edged/attic/request/generate", "edged/kitchen/response/escalation", b"secret"
)
ASKING = replace(LIMITS, escalation=TARGET, num_slots=2)
REQUEST = {"id": "a1", "prompt": "light!", "max_tokens": 5, "timeout_ms": 10_000}
UNSURE = Answer(
    "off",
    FinishReason.UNSURE,
    is_choice=True,
    choice=1,
    detail={"specialist": "lamp", "confidence": 0.4},
    may_leave=True,
)
SURE = Answer("on", FinishReason.STOP, is_choice=True, choice=0, detail={"confidence": 0.9})


@pytest.fixture
def bench() -> Bench:
    return Bench(ASKING)


def decide(bench: Bench, answer: Answer = UNSURE, **request: object) -> None:
    """Let the own specialist answer a request."""
    bench.deliver(REQUEST | request)
    run = ran(bench.worker.jobs[-1], bench.clock(), bench.clock(), num_output_tokens=0)
    bench.take(Finished(run, answer, bench.clock()))


def passed_on(bench: Bench) -> list[Sent]:
    return bench.transport.on("edged/attic/request/generate")


def token(bench: Bench) -> str:
    """The id of what was passed on last."""
    found = passed_on(bench)[-1].json["id"]
    assert isinstance(found, str)
    return found


def data(bench: Bench) -> dict[str, Any]:
    """What the last reply has."""
    found = bench.transport.replies[-1].json["data"]
    assert isinstance(found, dict)
    return found


def test_an_unsure_prompt_goes_to_the_other_node_which_may_not_pass_it_on(bench: Bench) -> None:
    bench.clock.advance(0.5)
    decide(bench, system="Be brief.", priority="interactive")
    (sent,) = passed_on(bench)
    assert sent.json == {
        "id": token(bench),
        "messages": [{"role": "user", "content": "light!"}],
        "specialist": "lamp",
        "max_tokens": 5,
        "escalate": False,
        "priority": "interactive",
        "timeout_ms": round(10_000 * WAITED_SHARE),
        "response_topic": TARGET.reply_topic,
    }
    wire = sent.message.properties
    assert (wire.response_topic, wire.message_expiry_s) == (TARGET.reply_topic, 9)
    assert wire.correlation_data == token(bench).encode()
    assert (sent.qos, sent.retain) == (1, False)
    assert bench.transport.replies == []


def test_inputs_and_length_of_a_request_go_with_it() -> None:
    request = make_request(inputs={"area": "hall"}, max_tokens=9, is_length_given=True)
    sent = encode_escalation(request, "home", ReplyAddress("t", "a"), "topic", 3.0)
    members = json.loads(sent.payload)
    assert (members["inputs"], members["max_tokens"]) == ({"area": "hall"}, 9)
    # The other node's specialist knows best how long its answers are.
    sent = encode_escalation(make_request(), "home", ReplyAddress("t", "a"), "topic", 3.0)
    assert not {"inputs", "max_tokens"} & json.loads(sent.payload).keys()


def test_its_answer_becomes_the_reply_and_says_whose_it_is(bench: Bench) -> None:
    decide(bench)
    bench.clock.advance(2.0)
    bench.take(EscalationReplied(token(bench), SURE))
    (reply,) = bench.transport.replies
    assert reply.json["id"] == "a1"
    assert data(bench) == {
        "text": "on",
        "json": None,
        "choice": 0,
        "finish_reason": "stop",
        "specialist": "lamp",
        "escalated_to": "attic",
        "confidence": 0.9,
    }
    assert reply.json["timing"]["total_ms"] == 2000
    snapshot = bench.metrics.snapshot()
    assert (snapshot["decided"], snapshot["unsure"], snapshot["escalated"]) == (1, 0, 1)
    bench.take(EscalationReplied(token(bench), SURE))
    assert len(bench.transport.replies) == 1, "a second reply"
    assert bench.node.next_tick_s() is None


def no_answer(bench: Bench) -> None:
    bench.take(EscalationReplied(token(bench), None))


def no_time(bench: Bench) -> None:
    assert bench.node.next_tick_s() == bench.clock() + 10 * WAITED_SHARE
    bench.clock.advance(10 * WAITED_SHARE)
    bench.tick()


def no_delivery(bench: Bench) -> None:
    handle = passed_on(bench)[-1].handle
    assert bench.driver.confirm(handle, "Not authorized")


def a_stop(bench: Bench) -> None:
    bench.take(Drain())


@pytest.mark.parametrize("happens", [no_answer, no_time, no_delivery, a_stop])
def test_without_an_answer_the_own_unsure_one_is_the_reply(bench: Bench, happens: Any) -> None:  # noqa: ANN401
    decide(bench)
    happens(bench)
    (reply,) = bench.transport.replies
    assert reply.json["data"] == {
        "text": "off",
        "json": None,
        "choice": 1,
        "finish_reason": "unsure",
        "specialist": "lamp",
        "confidence": 0.4,
    }
    bench.take(EscalationReplied(token(bench), SURE))
    assert len(bench.transport.replies) == 1, "a second reply"
    assert bench.metrics.snapshot()["escalated"] == 0


def test_a_delivered_message_is_no_news(bench: Bench) -> None:
    decide(bench)
    assert bench.driver.confirm(passed_on(bench)[-1].handle)
    assert bench.transport.replies == []


def test_a_reply_that_was_not_asked_for_changes_nothing(bench: Bench) -> None:
    decide(bench)
    bench.take(EscalationReplied("", SURE))
    bench.take(EscalationReplied("f" * 32, SURE))
    assert bench.transport.replies == []


def test_of_those_that_failed_to_be_delivered_only_that_one_ends(bench: Bench) -> None:
    decide(bench)
    decide(bench, id="a2")
    bench.driver.confirm(passed_on(bench)[0].handle, "Not authorized")
    bench.clock.advance(1.0)
    bench.tick()
    assert [reply.json["id"] for reply in bench.transport.replies] == ["a1"]


def test_a_cancel_ends_it_and_what_the_other_node_says_is_dropped(bench: Bench) -> None:
    decide(bench)
    decide(bench, id="a2")
    bench.deliver({"id": "a1"}, "cancel")
    cancel, reply = bench.transport.replies
    assert cancel.json["data"] == {"found": True}
    assert reply.json["error"]["code"] == "cancelled"
    first, second = (sent.json["id"] for sent in passed_on(bench))
    bench.take(EscalationReplied(first, SURE))
    assert len(bench.transport.replies) == 2
    bench.take(EscalationReplied(second, SURE))
    assert bench.transport.replies[-1].json["id"] == "a2"


def test_a_duplicate_gets_the_same_reply_and_is_passed_on_once(bench: Bench) -> None:
    decide(bench)
    bench.deliver(REQUEST)
    assert len(passed_on(bench)) == 1
    bench.take(EscalationReplied(token(bench), SURE))
    assert [reply.json["duplicate"] for reply in bench.transport.replies] == [False, True]
    bench.confirm_all()
    assert len(bench.transport.acknowledged) == 2
    assert bench.node.guard.ledger.accounts()["requests"] == 0


def test_no_more_wait_than_there_are_slots(bench: Bench) -> None:
    for number in range(3):
        decide(bench, id=f"a{number}")
    assert len(passed_on(bench)) == 2
    assert [reply.json["id"] for reply in bench.transport.replies] == ["a2"]
    bench.take(EscalationReplied(token(bench), SURE))
    decide(bench, id="a3")
    assert len(passed_on(bench)) == 3


@pytest.mark.parametrize(
    ("answer", "request_"),
    [
        (replace(UNSURE, finish_reason=FinishReason.STOP), {}),
        (replace(UNSURE, may_leave=False), {}),
        (replace(UNSURE, detail={"specialist": None}), {}),
        (UNSURE, {"escalate": False}),
    ],
    ids=["sure", "the folder names another", "no specialist fits", "it may not"],
)
def test_what_is_sure_or_may_not_leave_is_answered_here(
    bench: Bench, answer: Answer, request_: dict[str, object]
) -> None:
    decide(bench, answer, **request_)
    assert passed_on(bench) == []
    assert data(bench)["text"] == "off"


def test_with_no_time_left_or_nobody_to_ask_it_is_answered_here(bench: Bench) -> None:
    bench.deliver(REQUEST)
    run = ran(bench.worker.jobs[-1], bench.clock(), bench.clock(), num_output_tokens=0)
    bench.clock.advance(10 - MIN_WAIT_S)
    bench.take(Finished(run, UNSURE, bench.clock()))
    assert passed_on(bench) == []
    alone = Bench()
    decide(alone)
    assert data(alone)["finish_reason"] == "unsure"


def test_while_it_stops_nothing_is_passed_on(bench: Bench) -> None:
    bench.deliver(REQUEST)
    bench.take(Drain())
    run = ran(bench.worker.jobs[-1], bench.clock(), bench.clock(), num_output_tokens=0)
    bench.take(Finished(run, UNSURE, bench.clock()))
    assert (passed_on(bench), len(bench.transport.replies)) == ([], 1)


def test_the_ids_tell_nothing_and_are_other_ones_in_each_process() -> None:
    benches = [Bench(replace(ASKING, escalation=replace(TARGET, secret=s))) for s in (b"1", b"2")]
    for bench in benches:
        decide(bench)
        decide(bench, id="a2")
    ids = [sent.json["id"] for bench in benches for sent in passed_on(bench)]
    assert len(set(ids)) == 4


GOOD = {"text": "on", "json": None, "choice": 0, "finish_reason": "stop", "confidence": 0.9}


def replied(members: object) -> tuple[str, Answer | None]:
    payload = members if isinstance(members, bytes) else json.dumps(members).encode()
    return decode_escalation(Delivery(TARGET.reply_topic, payload))


def test_of_a_reply_the_answer_is_taken_and_nothing_else() -> None:
    members = {"id": "t", "status": "ok", "data": GOOD | {"specialist": "x", "secret": 1}}
    assert replied(members) == ("t", SURE)
    fields = {"text": "{}", "json": {"a": 1}, "finish_reason": "stop", "confidence": True}
    answer = Answer("{}", FinishReason.STOP, {"a": 1})
    assert replied({"id": "t", "status": "ok", "data": fields}) == ("t", answer)


@pytest.mark.parametrize(
    "changes",
    [
        {"finish_reason": "unsure"},
        {"finish_reason": ["stop"]},
        {"text": None},
        {"text": ["on"]},
        {"choice": -1},
        {"choice": True},
        {"choice": "0"},
    ],
)
def test_what_is_unsure_or_of_a_wrong_type_is_no_answer(changes: dict[str, object]) -> None:
    assert replied({"id": "t", "status": "ok", "data": GOOD | changes}) == ("t", None)


def test_an_error_is_no_answer() -> None:
    assert replied({"id": "t", "status": "error", "data": {}}) == ("t", None)
    assert replied({"id": "t", "status": "ok", "data": []}) == ("t", None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[1]",
        b'{"id": 1}',
        b"[" * 50_000,
        b'{"id": "t", "status": "ok", "data": ' + b" " * MAX_REPLY_BYTES + b"{}}",
    ],
)
def test_what_is_no_reply_is_for_no_request(payload: bytes) -> None:
    assert replied(payload) == ("", None)


def test_a_retained_reply_is_for_no_request() -> None:
    payload = json.dumps({"id": "t", "status": "ok", "data": GOOD}).encode()
    assert decode_escalation(Delivery(TARGET.reply_topic, payload, retain=True)) == ("", None)
