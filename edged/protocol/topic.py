"""What a topic may be, wherever it comes from: a request, the configuration, an option.

Rule: a broker takes every topic that is allowed here. Most close the connection at one that they do
not take, so a single one that slips through costs everybody's replies.
"""

import re

MAX_TOPIC_BYTES = 256
MAX_LEVELS = 16
MAX_PREFIX_BYTES = 64
MAX_PREFIX_LEVELS = 8
"""What a node adds to its prefix fits below the other two."""
_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
UNSENDABLE = rf"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}"
"""Characters, to stand in the brackets of a pattern, that MQTT 5 §1.5.4 lets a broker refuse, and
Mosquitto does: control characters of both ranges, halves of surrogate pairs, noncharacters."""
_UNSENDABLE = re.compile(f"[{UNSENDABLE}]")


def refuse_topic(topic: str) -> str | None:
    """Say why nothing may be published to ``topic``; None when it may.

    Takes a time that grows with the length of the topic, and no more.
    """
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
    """Say why the topics of a node may not begin with ``prefix`` and ``/``; None when they may."""
    if prefix.startswith("/") or prefix.endswith("/"):
        return "it starts or ends with /"
    if prefix.count("/") >= MAX_PREFIX_LEVELS:
        return f"it has more than {MAX_PREFIX_LEVELS} levels"
    if _num_bytes(prefix) > MAX_PREFIX_BYTES:
        return f"it is longer than {MAX_PREFIX_BYTES} bytes"
    return refuse_topic(prefix)


def _num_bytes(topic: str) -> int:
    return len(topic.encode(errors="replace"))
