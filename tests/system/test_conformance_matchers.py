"""How the conformance kit compares replies with expectations."""

from typing import Any

import pytest

from edged_conformance.matchers import MISSING, mismatch, value_at
from edged_conformance.peer import Received
from edged_conformance.rules import Asked, check_reply, check_stream, outcome_of

DOCUMENT = {"a": {"b": [1, {"c": "x"}]}, "d.e": None}
OTHERS = {"first": 5}
ANSWER: dict[str, Any] = {
    "v": 1,
    "id": "a1",
    "node": "kitchen",
    "status": "ok",
    "data": {"text": "yes", "json": None, "finish_reason": "stop"},
    "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
    "timing": dict.fromkeys(("queued_ms", "prefill_ms", "ttft_ms", "decode_ms", "total_ms"), 0),
    "model": "tiny",
    "attempt": 1,
    "duplicate": False,
}
ERROR: dict[str, Any] = {
    "v": 1,
    "id": "a1",
    "node": "kitchen",
    "status": "error",
    "data": {},
    "error": {"code": "timeout", "status": 408, "message": "late", "retryable": True},
    "attempt": 1,
    "duplicate": False,
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b[0]", 1),
        ("a.b[1].c", "x"),
        ("d.e", None),
        ("a.b[2]", MISSING),
        ("a.x", MISSING),
        ("a.b.c", MISSING),
    ],
)
def test_a_path_yields_a_value_or_missing(path: str, value: object) -> None:
    assert value_at(DOCUMENT, path) is value or value_at(DOCUMENT, path) == value


@pytest.mark.parametrize(
    ("value", "matcher", "is_match"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (1, True, False),
        ("1", 1, False),
        (MISSING, None, False),
        (None, None, True),
        ({"a": 1}, {"equals": {"a": 1}}, True),
        ({"a": 2}, {"equals": {"a": 1}}, False),
        (7, {"type": "integer"}, True),
        (True, {"type": "integer"}, False),
        (1.5, {"type": ["integer", "null"]}, False),
        (None, {"type": ["integer", "null"]}, True),
        ("ab\nc", {"regex": "a.*"}, True),
        ("ba", {"regex": "a.*"}, False),
        (7, {"regex": "7"}, False),
        (2, {"range": [1, 2]}, True),
        (2.1, {"range": [1, 2]}, False),
        ("2", {"range": [1, 2]}, False),
        ([1], {"length": 1}, True),
        ("abc", {"length": [1, 2]}, False),
        (3, {"length": 1}, False),
        ("b", {"one_of": ["a", "b"]}, True),
        ("c", {"one_of": ["a", "b"]}, False),
        ([1, 2], {"has": 2}, True),
        ([1, 2], {"has": 3}, False),
        ("2", {"has": "2"}, False),
        ({"a": 1}, {"keys": ["a"]}, True),
        ({"a": 1, "b": 1}, {"keys": ["a"]}, False),
        (MISSING, {"absent": True}, True),
        (None, {"absent": True}, False),
        (MISSING, {"absent": False}, False),
        (MISSING, {"type": "null"}, False),
        (5, {"same_as": "first"}, True),
        (6, {"same_as": "first"}, False),
        (5, {"same_as": "nobody"}, False),
        (6, {"more_than": "first"}, True),
        (5, {"more_than": "first"}, False),
        ("6", {"more_than": "first"}, False),
        (3, {"type": "integer", "range": [4, 5]}, False),
    ],
)
def test_each_matcher_accepts_and_rejects(value: object, matcher: object, is_match: bool) -> None:
    problem = mismatch(value, matcher, OTHERS)
    assert (problem is None) == is_match, problem


def test_a_long_value_is_truncated() -> None:
    problem = mismatch("x" * 1000, "y", {})
    assert problem is not None
    assert len(problem) < 200
    assert problem.endswith("…")


def received(properties: dict[str, Any] | None = None, payload: bytes = b"{}") -> Received:
    given = {
        "correlation_data": b"c",
        "content_type": "application/json",
        "payload_format": 1,
        "message_expiry": 3,
        "user": [("status", "200")],
    }
    return Received(1, "t", payload, 1, False, given if properties is None else properties)


def problems(reply: dict[str, Any], *, is_v5: bool = False, operation: str = "generate") -> str:
    asked = Asked("kitchen", operation, is_v5, "a1", b"c")
    return "\n".join(check_reply(reply, received(), asked))


def test_a_correct_reply_has_no_problem() -> None:
    assert not problems(ANSWER, is_v5=True)
    assert not problems(ERROR)
    found = ANSWER | {"data": {"found": True}}
    assert not problems(found, operation="cancel")
    assert outcome_of(ANSWER) == "ok"
    assert outcome_of(ERROR) == "timeout"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"v": 2}, "v: expected 1"),
        ({"id": None}, "id: "),
        ({"attempt": 0}, "attempt: "),
        ({"duplicate": "no"}, "duplicate: "),
        ({"data": {"text": "yes"}}, "data: expected the keys"),
        ({"usage": {}}, "usage.prompt_tokens: is missing"),
        ({"timing": {"queued_ms": -1}}, "timing.queued_ms: "),
        ({"model": None}, "model: "),
        ({"error": {}}, "error: expected nothing"),
    ],
)
def test_a_wrong_answer_is_described(change: dict[str, Any], named: str) -> None:
    assert named in problems(ANSWER | change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"code": "timeouts"}, "error.code"),
        ({"status": 500}, "error.status: expected 408"),
        ({"retryable": False}, "error.retryable: expected true"),
        ({"message": ""}, "error.message"),
        ({"retry_after_ms": 1.5}, "error.retry_after_ms"),
    ],
)
def test_a_wrong_error_is_described(change: dict[str, Any], named: str) -> None:
    assert named in problems(ERROR | {"error": ERROR["error"] | change})


def test_a_payload_that_is_not_decoded_may_be_refused_without_its_id() -> None:
    error = {"code": "payload_too_large", "status": 413, "message": "big", "retryable": False}
    assert not problems(ERROR | {"id": None, "error": error})
    assert "id: " in problems(ERROR | {"id": "other", "error": error})


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"text": "yes", "choice": 0}, None),
        ({"text": "no", "choice": 1}, None),
        ({"text": "", "choice": None}, None),
        ({"text": "yes", "choice": 1}, "data.text: "),
        ({"text": "yes", "choice": None}, "data.text: "),
        ({"text": "yes", "choice": 2}, "data.choice: "),
        ({"text": "no", "choice": True}, "data.choice: "),
        ({"text": "yes"}, "data: expected the keys"),
    ],
)
def test_a_choice_is_complete_or_null(data: dict[str, Any], named: str | None) -> None:
    asked = Asked("kitchen", "generate", False, "a1", b"c", ("yes", "no"))
    reply = ANSWER | {"data": {"json": None, "finish_reason": "stop", **data}}
    found = "\n".join(check_reply(reply, received(), asked))
    assert (named is None and not found) or (named is not None and named in found)


def test_missing_properties_are_described() -> None:
    asked = Asked("kitchen", "generate", True, "a1", b"c")
    text = "\n".join(check_reply(ANSWER, received({}), asked))
    for name in ("correlation_data", "content_type", "payload_format", "message_expiry", "status"):
        assert f" {name}" in text


@pytest.mark.parametrize(
    ("fragments", "text", "named"),
    [
        ([('"a"', 0, "true")], "a", None),
        ([('"a"', 0, "false"), ('"b"', 1, "true")], "ab", None),
        ([], "a", "no fragment came"),
        ([('"a"', 1, "true")], "a", "fragment 0: seq"),
        ([('"a"', 0, "false")], "a", "fragment 0: done"),
        ([('"a"', 0, "true"), ('"b"', 1, "true")], "ab", "fragment 0: done"),
        ([("1", 0, "true")], None, "fragment 0: delta"),
        ([('"a"', 0, "true")], "b", "the fragments make 'a'"),
    ],
)
def test_a_stream_is_compared_with_the_reply(
    fragments: list[tuple[str, int, str]], text: str | None, named: str | None
) -> None:
    messages = [
        received(payload=f'{{"id":"a1","seq":{seq},"delta":{delta},"done":{done}}}'.encode())
        for delta, seq, done in fragments
    ]
    found = "\n".join(check_stream(messages, "a1", text))
    assert (named is None and not found) or (named is not None and named in found)
