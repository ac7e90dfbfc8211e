"""Encode replies, fragments, info, state and events.

Rule: the bytes are always valid UTF-8 and strict JSON: no lone surrogate, no NaN.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from edged.protocol.request import (
    Answer,
    CancelOutcome,
    CorrectionOutcome,
    Rejected,
    Reply,
    Timing,
    Usage,
)
from edged.protocol.wire import (
    OPERATIONS,
    PROTOCOL_VERSION,
    ClientTopics,
    Encoded,
    Topics,
    WireProperties,
)

CONTENT_TYPE = "application/json"
STATUS_OK = 200
# Levels of a model's own JSON; deeper values become null.
MAX_NESTING = 100
_to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def encode_reply(
    reply: Reply, *, node: str, model_id: str, seconds_left: float | None = None
) -> Encoded:
    """Encode the terminal reply of one request.

    ``seconds_left`` is the time to its deadline, sent as Message Expiry Interval.
    """
    outcome = reply.outcome
    rejected = outcome if isinstance(outcome, Rejected) else None
    members: dict[str, Any] = {
        "v": PROTOCOL_VERSION,
        "id": reply.reply_to.request_id,
        "node": node,
        "status": "error" if rejected else "ok",
        "data": _data(outcome),
    }
    if rejected:
        members["error"] = _error(rejected)
    if reply.usage is not None:
        members["usage"] = _usage(reply.usage)
    if reply.timing is not None:
        members["timing"] = _timing(reply.timing)
    if isinstance(outcome, Answer):
        members["model"] = model_id
    if reply.session is not None:
        members["session"] = {
            "id": reply.session.session,
            "turns": reply.session.num_turns,
            "forgotten": reply.session.num_forgotten,
        }
    members |= {"attempt": reply.attempt, "duplicate": reply.is_duplicate}
    status = rejected.code.status if rejected else STATUS_OK
    properties = WireProperties(
        correlation_data=reply.reply_to.correlation_data,
        content_type=CONTENT_TYPE,
        payload_format=1,
        user_properties=(("status", str(status)),),
    )
    message = Encoded(reply.reply_to.topic, to_json(members), properties)
    return message if seconds_left is None else with_expiry(message, seconds_left)


def with_expiry(message: Encoded, seconds_left: float) -> Encoded:
    """Return a message with another Message Expiry Interval."""
    # Never 0, which brokers deliver as no expiry at all.
    expiry_s = max(1, math.ceil(seconds_left))
    return message._replace(properties=replace(message.properties, message_expiry_s=expiry_s))


def encode_fragment(
    topics: ClientTopics, request_id: str, sequence: int, delta: str, *, is_done: bool = False
) -> Encoded:
    """Encode one fragment of a streamed answer; the complete reply follows the last one."""
    members = {"id": request_id, "seq": sequence, "delta": delta, "done": is_done}
    return _encoded(topics.stream(request_id), members)


def encode_info(topics: Topics, members: Mapping[str, Any]) -> Encoded:
    """Encode the retained description of a node: ``edged``, ``model``, ``limits`` and more."""
    fixed = {"v": PROTOCOL_VERSION, "node": topics.node, "operations": list(OPERATIONS)}
    return _encoded(topics.info, {**fixed, **members})


def encode_state(topics: Topics, members: Mapping[str, Any]) -> Encoded:
    """Encode the retained load, memory, speed and counters of a node."""
    return _encoded(topics.state, {"v": PROTOCOL_VERSION, "node": topics.node, **members})


def encode_event(topics: Topics, event: str, members: Mapping[str, Any]) -> Encoded:
    """Encode one event of a node; ``members`` must not contain prompt text."""
    fixed = {"v": PROTOCOL_VERSION, "node": topics.node, "event": event}
    return _encoded(topics.event, {**fixed, **members})


def to_json(value: object) -> bytes:
    """Return compact JSON in UTF-8; NaN and infinities become null, a lone surrogate ``?``."""
    # Only after an error, because checking every value first would take twice as long.
    try:
        text = _to_text(value)
    except ValueError:
        text = _to_text(_strict(value))
    return text.encode(errors="replace")


def _strict(value: object, depth: int = 0) -> object:
    """Return the value with null for NaN, infinities and everything nested too deep."""
    is_number = not isinstance(value, float) or math.isfinite(value)
    if depth > MAX_NESTING or not is_number:
        return None
    if isinstance(value, Mapping):
        return {str(key): _strict(member, depth + 1) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item, depth + 1) for item in value]
    return value


def _encoded(topic: str, members: Mapping[str, Any]) -> Encoded:
    properties = WireProperties(content_type=CONTENT_TYPE, payload_format=1)
    return Encoded(topic, to_json(members), properties)


def _data(outcome: Answer | CancelOutcome | CorrectionOutcome | Rejected) -> dict[str, Any]:
    # The member is there for every choice, also for one that was cut off and is null.
    if isinstance(outcome, Answer):
        choice = {"choice": outcome.choice} if outcome.is_choice else {}
        return {
            "text": outcome.text,
            "json": _strict(outcome.json),
            **choice,
            **outcome.detail,
            "finish_reason": outcome.finish_reason.value,
        }
    if isinstance(outcome, CorrectionOutcome):
        return {"kept": True, "count": outcome.count}
    return {"found": outcome.is_found} if isinstance(outcome, CancelOutcome) else {}


def _error(rejected: Rejected) -> dict[str, Any]:
    error: dict[str, Any] = {
        "code": rejected.code.value,
        "status": rejected.code.status,
        "message": rejected.message,
        "retryable": rejected.code.is_retryable,
    }
    if rejected.retry_after_s is not None:
        error["retry_after_ms"] = _to_ms(rejected.retry_after_s)
    return error | rejected.detail | error  # details come last and replace nothing


def _usage(usage: Usage) -> dict[str, Any]:
    members: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if (energy := usage.energy) is not None:
        members |= {"energy_j": round(energy.joules, 3), "energy_source": energy.source.value}
    return members


def _timing(timing: Timing) -> dict[str, int]:
    return {
        "queued_ms": _to_ms(timing.queued_s),
        "prefill_ms": _to_ms(timing.prefill_s),
        "ttft_ms": _to_ms(timing.ttft_s),
        "decode_ms": _to_ms(timing.decode_s),
        "total_ms": _to_ms(timing.total_s),
    }


def _to_ms(seconds: float) -> int:
    return round(seconds * 1000)
