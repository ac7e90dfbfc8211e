"""Which reply topics are allowed: a client must not be able to publish through the node.

Rule: a topic needs an allowed prefix; the fixed exclusions win over every allowed prefix.
"""

from collections.abc import Sequence

from edged.protocol.topic import refuse_topic
from edged.protocol.wire import Topics

_RESERVED = frozenset({"request", "availability", "info", "state", "event", "stream"})


def refuse_reply_topic(
    topic: str, topics: Topics, allowed_prefixes: Sequence[str], discovery_prefix: str
) -> str | None:
    """Return why no reply may go to ``topic``; None when it may.

    Args:
        topic: The reply topic of the request.
        topics: Topics of this node; everything below its ``response/`` is allowed.
        allowed_prefixes: Prefixes of further allowed topics, such as ``reply/``.
        discovery_prefix: First level of Home Assistant's discovery, never allowed.
    """
    problem = refuse_topic(topic)
    if problem is not None:
        return problem
    if topic.startswith(f"{topics.root}/response/"):
        return None
    if topic == discovery_prefix or topic.startswith(f"{discovery_prefix}/"):
        return "it is a discovery topic"
    if not any(topic.startswith(prefix) for prefix in allowed_prefixes):
        return "it starts with none of the allowed prefixes"
    if topic == topics.prefix or topic.startswith(f"{topics.prefix}/"):
        levels = topic[len(topics.prefix) + 1 :].split("/")
        if levels[0] == "group" or (len(levels) > 1 and levels[1] in _RESERVED):
            return "it is reserved for requests or for a node's own messages"
    return None


def own_reply_topic(topics: Topics, username: str | None, request_id: str) -> str:
    """Choose a client's reply topic: below its user name, so that an ACL can grant it."""
    plain, own = topics.response("generate"), f"{username}/{request_id}"
    is_level = username and "/" not in username and refuse_topic(f"{plain}/{own}") is None
    return f"{plain}/{own}" if is_level else f"{plain}/{request_id}"
