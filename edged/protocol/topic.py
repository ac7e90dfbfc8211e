"""Which topics are allowed, in a request, the configuration or an option.

Rule: a broker accepts every topic that is allowed here. Most close the connection on one they do
not accept, so a single wrong one would cost all clients their replies. And a client must not be
able to publish to any topic through the node: a reply topic needs an allowed prefix, and the fixed
exclusions win over every prefix.
"""

import re
from collections.abc import Sequence

from edged.protocol.wire import UNSENDABLE, RequestTopic, Topics

# What a node appends to its prefix fits below the other two limits.
MAX_TOPIC_BYTES = 256
MAX_LEVELS = 16
MAX_PREFIX_BYTES = 64
MAX_PREFIX_LEVELS = 8
_RESERVED = frozenset({"request", "availability", "info", "state", "event", "stream", "client"})
_UNSENDABLE = re.compile(f"[{UNSENDABLE}]")


def refuse_topic(topic: str) -> str | None:
    """Return why ``topic`` is not allowed, in time linear to its length; None when it is."""
    reasons = {
        "it is empty": not topic,
        "it starts with $": topic.startswith("$"),
        "it has a wildcard": "+" in topic or "#" in topic,
        "it has a control character or another that MQTT forbids": _UNSENDABLE.search(topic),
        f"it has more than {MAX_LEVELS} levels": topic.count("/") >= MAX_LEVELS,
        f"it is longer than {MAX_TOPIC_BYTES} bytes": _num_bytes(topic) > MAX_TOPIC_BYTES,
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def refuse_prefix(prefix: str) -> str | None:
    """Return why ``prefix`` cannot start the topics of a node; None when it can."""
    if prefix.startswith("/") or prefix.endswith("/"):
        return "it starts or ends with /"
    if prefix.count("/") >= MAX_PREFIX_LEVELS:
        return f"it has more than {MAX_PREFIX_LEVELS} levels"
    if _num_bytes(prefix) > MAX_PREFIX_BYTES:
        return f"it is longer than {MAX_PREFIX_BYTES} bytes"
    return refuse_topic(prefix)


def refuse_reply_topic(
    topic: str, topics: Topics, allowed_prefixes: Sequence[str], discovery_prefix: str
) -> str | None:
    """Return why no reply to a client without an account may go to ``topic``; None when it may."""
    problem = refuse_topic(topic)
    if problem is not None:
        return problem
    # Before the prefixes, so that a node can always reply.
    if topic.startswith(f"{topics.root}/response/"):
        return None
    # In Home Assistant's discovery a client could announce entities in the node's name.
    if topic == discovery_prefix or topic.startswith(f"{discovery_prefix}/"):
        return "it is a discovery topic"
    if not any(topic.startswith(prefix) for prefix in allowed_prefixes):
        return "it starts with none of the allowed prefixes"
    if topic == topics.prefix or topic.startswith(f"{topics.prefix}/"):
        levels = topic[len(topics.prefix) + 1 :].split("/")
        if levels[0] == "group" or (len(levels) > 1 and levels[1] in _RESERVED):
            return "it is reserved for requests, accounts or a node's own messages"
    return None


def own_reply_topic(asked: str, request: RequestTopic, topics: Topics) -> str | None:
    """Return the topic of a reply to an account; None where it asked for another than its own.

    One below a group's topics becomes that of the node which answers, with the same end.
    """
    start = f"{request.root}/response/"
    topic = f"{topics.client(request.user).root}/response/{asked[len(start) :]}"
    is_own = asked.startswith(start) and len(asked) > len(start)
    return topic if is_own and refuse_topic(topic) is None else None


def _num_bytes(topic: str) -> int:
    # A lone surrogate has no encoding; it counts, and is refused for itself.
    return len(topic.encode(errors="replace"))
