"""Requests for the tests of the core, complete but for what a test is about."""

from typing import Any

from edged.protocol.request import ChatMessage, ReplyAddress, Request

TOPIC = "edged/n/response/generate"


def make_request(
    *,
    request_id: str | None = None,
    correlation_data: bytes | None = None,
    topic: str = TOPIC,
    user: str | None = None,
    received_s: float = 0.0,
    deadline_s: float = 30.0,
    **others: Any,  # noqa: ANN401 - the fields of Request, whatever their types
) -> Request:
    """Make a request that came at 0 s and has 30 s."""
    others.setdefault("messages", (ChatMessage("user", "hello"),))
    return Request(
        reply_to=ReplyAddress(topic, request_id, correlation_data, user),
        received_s=received_s,
        deadline_s=deadline_s,
        **others,
    )
