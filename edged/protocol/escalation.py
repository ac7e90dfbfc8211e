"""A prompt that is passed on to another node, as a request, and what comes back of it.

Rule: it goes no further from there, and of the reply nothing is taken but a few checked members.
"""

import json
import math
from dataclasses import dataclass

from edged.protocol.encode import CONTENT_TYPE, to_json
from edged.protocol.request import Answer, FinishReason, ReplyAddress, Request
from edged.protocol.wire import Delivery, Encoded, Topics, WireProperties, is_user

MAX_REPLY_BYTES = 65536


@dataclass(frozen=True, slots=True)
class EscalationTarget:
    """Whom a node asks what its specialists are unsure of."""

    name: str
    """A node, or ``group/`` and a group."""
    request_topic: str
    reply_topic: str
    secret: bytes
    """Of the process: a reply that was not asked for cannot name a request."""
    reply_filter: str = ""
    """What the node that asks subscribes to."""


def escalation_target(
    topics: Topics, name: str, user: str | None, secret: bytes
) -> EscalationTarget:
    """Return whom the node with these topics asks.

    Args:
        topics: Of the node that asks.
        name: The other node, or ``group/`` and a group.
        user: The account that asks; without one, or where its name is no level of a topic, the
            reply comes to a topic of the node that asks.
        secret: Of the process.
    """
    end = f"escalation/{topics.node}"
    if user is not None and is_user(user):
        asked = Topics(topics.prefix, name).client(user)
        # Whichever node of a group replies does so on topics of its own.
        answering = Topics(topics.prefix, "+" if name.startswith("group/") else name).client(user)
        reply_topic, reply_filter = asked.response(end), answering.response(end)
    else:
        asked = Topics(topics.prefix, name)
        reply_topic = reply_filter = topics.response(end)
    return EscalationTarget(name, asked.request("generate"), reply_topic, secret, reply_filter)


def is_escalation_reply(topic: str, node: str) -> bool:
    """Return whether a topic among the node's subscriptions is that of such replies."""
    return topic.endswith(f"/response/escalation/{node}")


def encode_escalation(
    request: Request, specialist: str, address: ReplyAddress, topic: str, seconds_left: float
) -> Encoded:
    """Encode the request to the other node; ``seconds_left`` is the time that it has."""
    # A system message is this node's, or not for a specialist.
    turns = [
        {"role": turn.role, "content": turn.content}
        for turn in request.messages
        if turn.role != "system"
    ]
    members = {
        "id": address.request_id,
        "messages": turns,
        "specialist": specialist,
        **({"inputs": request.inputs} if request.inputs else {}),
        **({"max_tokens": request.max_tokens} if request.is_length_given else {}),
        "escalate": False,
        "priority": request.priority.name.lower(),
        "timeout_ms": max(1, round(seconds_left * 1000)),
        "response_topic": address.topic,  # for MQTT 3.1.1, which has no properties
    }
    properties = WireProperties(
        response_topic=address.topic,
        correlation_data=address.correlation_data,
        content_type=CONTENT_TYPE,
        payload_format=1,
        message_expiry_s=max(1, math.ceil(seconds_left)),
    )
    return Encoded(topic, to_json(members), properties)


def decode_escalation(delivery: Delivery) -> tuple[str, Answer | None]:
    """Return which request a reply is for, by its id, and the answer; None where there is none."""
    if delivery.retain or len(delivery.payload) > MAX_REPLY_BYTES:
        return "", None
    try:
        members = json.loads(delivery.payload)
    except (ValueError, RecursionError):
        return "", None
    if not isinstance(members, dict) or not isinstance(members.get("id"), str):
        return "", None
    return members["id"], _answer(members.get("status"), members.get("data"))


def _answer(status: object, data: object) -> Answer | None:
    if status != "ok" or not isinstance(data, dict):
        return None
    text, choice, confidence = (data.get(key) for key in ("text", "choice", "confidence"))
    # In Python True is a number.
    is_index = choice is None or (type(choice) is int and choice >= 0)
    if data.get("finish_reason") != FinishReason.STOP or not isinstance(text, str) or not is_index:
        return None
    is_share = isinstance(confidence, float) and 0 <= confidence <= 1
    detail = {"confidence": confidence} if is_share else {}
    is_choice = "choice" in data
    return Answer(text, FinishReason.STOP, data.get("json"), is_choice, choice, detail)
