"""Dialogues in the service: one answer is one turn, however often its request is delivered."""

from dataclasses import replace
from typing import Any

import pytest

from edged.node.sessions import SessionLimits
from edged.protocol.request import FinishReason
from edged.protocol.wire import RequestDefaults, Topics
from tests.fakes import LIMITS, Bench, correlation

TALK = {"session": "s", "max_tokens": 5}


def said(bench: Bench) -> str:
    """The prompt of the latest job, as its characters."""
    return "".join(chr(token) for token in bench.worker.jobs[-1].prompt_ids)


def session(bench: Bench) -> Any:  # noqa: ANN401 - JSON
    return bench.transport.replies[-1].json["session"]


def test_a_second_request_is_asked_with_the_first_and_its_answer() -> None:
    bench = Bench()
    bench.deliver(TALK | {"prompt": "a?"})
    bench.finish("A")
    assert session(bench) == {"id": "s", "turns": 1, "forgotten": 0}
    bench.deliver(TALK | {"prompt": "b?"})
    assert said(bench) == "a?Ab?"
    bench.finish("B")
    assert session(bench)["turns"] == 2
    assert bench.node.num_sessions(bench.clock()) == 1


def test_without_a_session_a_reply_says_nothing_of_one() -> None:
    bench = Bench()
    bench.deliver({"prompt": "a?"})
    bench.finish("A")
    assert "session" not in bench.transport.replies[-1].json
    assert bench.node.num_sessions(bench.clock()) == 0


def test_a_retry_long_after_its_deadline_replaces_its_turn() -> None:
    bench = Bench()
    request = TALK | {"prompt": "a?", "id": "r1"}
    bench.deliver(request)
    bench.finish("A")
    bench.clock.advance(60)
    bench.deliver(request)
    assert said(bench) == "a?"
    bench.finish("A2")
    assert session(bench)["turns"] == 1


def test_a_late_redelivery_without_an_id_replaces_its_turn() -> None:
    bench = Bench()
    bench.deliver(TALK | {"prompt": "a?"}, connection_epoch=1)
    bench.finish("A")
    bench.confirm_all()
    bench.clock.advance(60)
    bench.deliver(TALK | {"prompt": "a?"}, connection_epoch=2, is_redelivery=True)
    bench.finish("A2")
    assert session(bench)["turns"] == 1


def test_a_redelivery_in_time_is_answered_from_memory_and_adds_nothing() -> None:
    bench = Bench()
    request = TALK | {"prompt": "a?"}
    bench.deliver(request, properties=correlation(b"1"))
    bench.finish("A")
    bench.deliver(request, properties=correlation(b"1"))
    assert len(bench.worker.jobs) == 1
    assert session(bench)["turns"] == 1


def test_an_answer_cut_short_is_remembered_as_far_as_it_went() -> None:
    bench = Bench()
    bench.deliver(TALK | {"prompt": "a?"})
    bench.finish("half")
    assert bench.transport.replies[0].json["data"]["finish_reason"] == FinishReason.STOP
    bench.deliver(TALK | {"prompt": "b?"})
    assert said(bench) == "a?halfb?"


def test_a_long_dialogue_keeps_half_of_its_room_and_the_newest_question() -> None:
    limits = replace(LIMITS, sessions=SessionLimits(max_tokens=40))
    bench = Bench(limits=limits)
    forgotten = []
    for i in range(8):
        bench.deliver(TALK | {"prompt": f"question {i}"})
        assert said(bench).endswith(f"question {i}")
        assert len(said(bench)) <= 40
        bench.finish("A")
        forgotten.append(session(bench)["forgotten"])
    assert forgotten == [0, 0, 0, 3, 0, 0, 3, 0]


def test_a_question_too_long_for_the_dialogue_alone_is_asked_alone() -> None:
    limits = replace(LIMITS, sessions=SessionLimits(max_tokens=40))
    bench = Bench(limits=limits)
    bench.deliver(TALK | {"prompt": "a?"})
    bench.finish("A")
    bench.deliver(TALK | {"prompt": "x" * 100})
    assert said(bench) == "x" * 100


def test_an_answer_as_long_as_the_context_leaves_half_of_it_to_the_dialogue() -> None:
    bench = Bench()
    bench.deliver(TALK | {"prompt": "a?" * 30})
    bench.finish("A")
    bench.deliver(TALK | {"prompt": "b?", "max_tokens": 5000, "timeout_ms": 300_000})
    assert said(bench) == "a?" * 30 + "A" + "b?"


@pytest.mark.parametrize(
    ("value", "named"), [("a b", "session"), (7, "session"), ("s", "sessions")]
)
def test_a_session_that_cannot_be_is_refused_by_name(value: object, named: str) -> None:
    defaults = RequestDefaults(Topics("edged", "kitchen"), has_sessions=value != "s")
    bench = Bench(limits=replace(LIMITS, defaults=defaults))
    bench.deliver({"prompt": "x", "session": value})
    error = bench.transport.replies[0].json["error"]
    assert error["code"] == "bad_request"
    assert named in error["message"]
