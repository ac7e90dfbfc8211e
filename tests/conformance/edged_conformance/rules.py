"""Checks for every reply and every stream, whatever the request.

Rule: written from ``docs/protocol.md`` only, as its second implementation.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edged_conformance.decisions import decision_rules
from edged_conformance.matchers import MISSING, mismatch, value_at
from edged_conformance.peer import Received

ERRORS = {
    "bad_request": (400, False),
    "identity_required": (403, False),
    "timeout": (408, True),
    "payload_too_large": (413, False),
    "unsupported_content_type": (415, False),
    "prompt_too_long": (422, False),
    "queue_full": (429, True),
    "cancelled": (499, False),
    "crashed_before": (500, False),
    "internal": (500, True),
    "loading": (503, True),
    "memory_pressure": (503, True),
}
"""Code → status, and whether a retry may succeed."""
_UNREAD = (413, 415)
"""Statuses of refusals that need not contain the id, because the payload is not decoded."""
_COUNT = {"type": "integer", "range": [0, 2**53]}
_ALWAYS = {
    "v": 1,
    "id": {"type": ["string", "null"]},
    "status": {"one_of": ["ok", "error"]},
    "data": {"type": "object"},
    "attempt": {"type": "integer", "range": [1, 1000]},
    "duplicate": {"type": "boolean"},
}
_ANSWER = {
    "data.text": {"type": "string"},
    "data.finish_reason": {"one_of": ["stop", "length", "deadline", "cancelled"]},
    "usage": {"type": "object"},
    "timing": {"type": "object"},
    "model": {"type": "string", "length": [1, 1000]},
    "error": {"absent": True},
}
_MEMBERS = ["text", "json", "finish_reason"]
"""Of ``data`` of an answer."""
_FOUND = {"data": {"keys": ["found"]}, "data.found": {"type": "boolean"}, "error": {"absent": True}}
_ERROR = {
    "data": {"equals": {}},
    "error.message": {"type": "string", "length": [1, 10_000]},
    "model": {"absent": True},
}
_USAGE = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens"), _COUNT)
_TIMING = dict.fromkeys(("queued_ms", "prefill_ms", "ttft_ms", "decode_ms", "total_ms"), _COUNT)


# Longer ones are refused, and do not come back.
_MAX_CORRELATION_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """The request, as far as replies are checked against it."""

    node: str
    operation: str
    is_v5: bool
    request_id: str | None
    correlation_data: bytes | None
    """As they come back."""
    choices: tuple[str, ...] = ()
    """The options if ``format`` is ``choice``."""
    decision: str | None = None
    """The key that asks for a decision: ``specialist``, ``questions`` or ``probabilities``."""


def returned_data(data: bytes | None) -> bytes | None:
    """Return Correlation Data as they come back with a reply."""
    return data if data is None or len(data) <= _MAX_CORRELATION_BYTES else None


def read_reply(message: Received) -> dict[str, Any] | None:
    """Return a message as a JSON object; None if it is not one."""
    try:
        members = json.loads(message.payload.decode())
    except ValueError:
        return None
    return members if isinstance(members, dict) else None


def outcome_of(reply: dict[str, Any]) -> str:
    """Return ``ok``, or the error's code."""
    return "ok" if reply.get("status") == "ok" else str(value_at(reply, "error.code"))


def check_reply(reply: dict[str, Any], message: Received, asked: Asked) -> list[str]:
    """Return the problems of a reply."""
    expected: dict[str, Any] = _ALWAYS | {"node": asked.node, "id": asked.request_id}
    if outcome_of(reply) == "identity_required":
        # Everybody reads it, so it says nothing of the request.
        asked = replace(asked, correlation_data=None)
        expected["id"] = None
    if reply.get("status") == "error":
        expected |= _ERROR | _error_rules(reply)
        if expected["error.status"] in _UNREAD:
            expected["id"] = {"one_of": [asked.request_id, None]}
    else:
        is_cancel = asked.operation == "cancel"
        expected |= _FOUND if is_cancel else _ANSWER | _data_rules(reply, asked)
    for section, rules in (("usage", _USAGE), ("timing", _TIMING)):
        if section in reply:
            expected |= {f"{section}.{key}": rule for key, rule in rules.items()}
    problems = check_members(reply, expected)
    if message.is_retained:
        problems.append("the reply is retained")
    if message.qos != 1:
        problems.append(f"the reply came with QoS {message.qos}, expected 1")
    return problems + (_check_properties(reply, message, asked) if asked.is_v5 else [])


def check_members(document: object, expected: dict[str, Any]) -> list[str]:
    """Return what differs at each path."""
    found = {path: mismatch(value_at(document, path), rule, {}) for path, rule in expected.items()}
    return [f"{path}: {problem}" for path, problem in found.items() if problem is not None]


def _error_rules(reply: dict[str, Any]) -> dict[str, Any]:
    code = str(value_at(reply, "error.code"))
    status, is_retryable = ERRORS.get(code, (500, False))
    rules: dict[str, Any] = {
        "error.code": {"one_of": list(ERRORS)},
        "error.status": status,
        "error.retryable": is_retryable,
    }
    if value_at(reply, "error.retry_after_ms") is not MISSING:
        rules["error.retry_after_ms"] = _COUNT
    return rules


def _data_rules(reply: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Return the rules for ``data`` of an answer: a choice is complete or null."""
    choices = asked.choices
    if asked.decision is not None:
        return decision_rules(value_at(reply, "data"), asked.decision, choices)
    if not choices:
        return {"data": {"keys": _MEMBERS}}
    index = value_at(reply, "data.choice")
    is_complete = isinstance(index, int) and 0 <= index < len(choices)
    return {
        "data": {"keys": [*_MEMBERS, "choice"]},
        "data.choice": {"one_of": [*range(len(choices)), None]},
        "data.text": choices[index] if is_complete else "",
    }


def _check_properties(reply: dict[str, Any], message: Received, asked: Asked) -> list[str]:
    given = message.properties
    status = "200" if reply.get("status") == "ok" else str(value_at(reply, "error.status"))
    expected = {
        "correlation_data": asked.correlation_data,
        "content_type": "application/json",
        "payload_format": 1,
    }
    problems = [
        f"property {name}: expected {value!r}, got {given.get(name)!r}"
        for name, value in expected.items()
        if given.get(name) != value
    ]
    if ("status", status) not in given.get("user", []):
        problems.append(f"user property status: expected {status}, got {given.get('user')}")
    if not given.get("message_expiry", 0) >= 1:
        problems.append("property message_expiry: expected at least 1 s, got none")
    return problems


def check_stream(fragments: Sequence[Received], request_id: str, text: str | None) -> list[str]:
    """Return the problems of the fragments of one answer; ``text`` is the complete text."""
    read = [read_reply(message) for message in fragments]
    if not fragments:
        return ["stream: no fragment came"]
    problems = []
    for number, fragment in enumerate(read):
        rules: dict[str, Any] = {
            "id": request_id,
            "seq": number,
            "delta": {"type": "string"},
            "done": number == len(read) - 1,
        }
        problems += [f"fragment {number}: {problem}" for problem in check_members(fragment, rules)]
    if any(message.is_retained for message in fragments):
        problems.append("stream: a fragment is retained")
    joined = "".join(str(value_at(fragment, "delta")) for fragment in read)
    if text is not None and joined != text:
        problems.append(f"stream: the fragments make {joined!r}, the reply has {text!r}")
    return problems
