"""Which topics may be published to, whether from a request, the configuration or an option.

Rule: a broker accepts every topic that is allowed here. Most close the connection on one they do
not accept, so a single wrong one would cost all clients their replies.
"""

import re

MAX_TOPIC_BYTES = 256
MAX_LEVELS = 16
MAX_PREFIX_BYTES = 64
MAX_PREFIX_LEVELS = 8
"""What a node appends to its prefix fits below the other two limits."""
_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
UNSENDABLE = rf"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}"
"""For a character class of a regular expression: characters that MQTT 5 (§1.5.4) lets a broker
refuse, as Mosquitto does: control characters, halves of surrogate pairs, noncharacters."""
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


def _num_bytes(topic: str) -> int:
    return len(topic.encode(errors="replace"))
