"""Which topics are allowed, in a request, the configuration or an option.

Rule: a broker accepts every topic that is allowed here. Most close the connection on one they do
not accept, so a single wrong one would cost all clients their replies. And a client must not be
able to publish to any topic through the node: a reply topic needs an allowed prefix, and the fixed
exclusions win over every prefix.
"""

import re
from collections.abc import Sequence

from edged.protocol.wire import Topics

# What a node appends to its prefix fits below the other two limits.
MAX_TOPIC_BYTES = 256
MAX_LEVELS = 16
MAX_PREFIX_BYTES = 64
MAX_PREFIX_LEVELS = 8
# For a character class of a regular expression: characters that MQTT 5 (§1.5.4) lets a broker
# refuse, as Mosquitto does: control characters, halves of surrogate pairs, noncharacters.
_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
UNSENDABLE = rf"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}"
_RESERVED = frozenset({"request", "availability", "info", "state", "event", "stream"})
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
    """Return why no reply may go to ``topic``; None when it may."""
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
            return "it is reserved for requests or for a node's own messages"
    return None


def _num_bytes(topic: str) -> int:
    # A lone surrogate has no encoding; it counts, and is refused for itself.
    return len(topic.encode(errors="replace"))
