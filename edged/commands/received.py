"""Read replies and fragments on the client's side, tolerant of later protocol versions.

Rule: unknown members are kept and ignored.
"""

import json
from dataclasses import dataclass
from typing import Any

# A year: what is longer is no time to wait.
_LONGEST_MS = 366 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class ReceivedReply:
    """The members a client acts on; an absent one has its type's empty value."""

    members: dict[str, Any]
    """The whole reply."""
    is_ok: bool
    request_id: str | None
    text: str
    json: Any
    finish_reason: str
    code: str
    """``error.code``; empty when ``is_ok``."""
    message: str
    is_retryable: bool
    retry_after_s: float | None


@dataclass(frozen=True, slots=True)
class ReceivedFragment:
    """One fragment of a streamed answer."""

    request_id: str | None
    sequence: int
    delta: str
    is_done: bool


def decode_reply(payload: bytes) -> ReceivedReply | None:
    """Read a reply; None when the payload is not one."""
    members = _members(payload)
    if members is None or members.get("status") not in ("ok", "error"):
        return None
    data, error = _object(members, "data"), _object(members, "error")
    is_ok = members["status"] == "ok"
    return ReceivedReply(
        members=members,
        is_ok=is_ok,
        request_id=_text(members, "id") or None,
        text=_text(data, "text"),
        json=data.get("json"),
        finish_reason=_text(data, "finish_reason"),
        code="" if is_ok else _text(error, "code") or "internal",
        message=_text(error, "message"),
        is_retryable=error.get("retryable") is True,
        retry_after_s=_seconds(error, "retry_after_ms"),
    )


def decode_fragment(payload: bytes) -> ReceivedFragment | None:
    """Read a fragment; None when the payload is not one."""
    members = _members(payload)
    if members is None or not isinstance(members.get("seq"), int):
        return None
    return ReceivedFragment(
        request_id=_text(members, "id") or None,
        sequence=members["seq"],
        delta=_text(members, "delta"),
        is_done=members.get("done") is True,
    )


def _members(payload: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _object(members: dict[str, Any], key: str) -> dict[str, Any]:
    value = members.get(key)
    return value if isinstance(value, dict) else {}


def _seconds(members: dict[str, Any], key: str) -> float | None:
    value = members.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / 1000 if abs(value) <= _LONGEST_MS else None


def _text(members: dict[str, Any], key: str) -> str:
    value = members.get(key)
    return value if isinstance(value, str) else ""
