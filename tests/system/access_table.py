"""Which account may publish to and read which topic, for every access list that is shipped.

Written from docs/install.md, independent of the lists: played by a real Mosquitto in
``test_deploy_mosquitto.py``, and by the rules for EMQX in ``test_deploy_fleet.py``.
"""

NODE = "edged"
"""The account of the node `kitchen`."""
ASSISTANT = "ha"
"""The account of Home Assistant."""
CLIENTS = (NODE, ASSISTANT, "other", "client", "request", "%c", "%u", "${username}")
"""Accounts, some named like a part of a topic or of a pattern."""
WITH_WILDCARDS = ("+", "a+b", "other#", "a/+")
"""Names that no account should have: filters, and levels that are another account's."""
WITH_SLASHES = ("a/b", "other/x", "other/response", "/", "other/")
NODES = ("kitchen", "attic")
GROUPS = ("lab", "client")

USERS = (*CLIENTS, "")
"""In topics; nobody is named by an empty level."""

_REQUESTS = ("request/generate", "request/cancel")
_RESPONSES = ("response/generate", "response/generate/x", "response/response/x", "response/a/b/c")
_OWN_OUTPUTS = ("availability", "info", "state", "event")
# Where nobody publishes or reads: topics of 0.1.0, of other programs, and wrong levels.
_CLOSED = (
    *("reply/me", "edged/reply/me", "zigbee2mqtt/lock/set"),
    *("edged/kitchen/response/generate/ha", "edged/kitchen/request/generate/ha"),
    *("edged/kitchen/stream/a1", "edged/kitchen/client", "edged/kitchen/client/ha"),
    *("edged/kitchen/client/ha/request", "edged/kitchen/client/ha/request/generate/x"),
    *("edged/group/lab/client/ha/response/generate", "edged/kitchen/secret", "edged/attic/secret"),
    *("edged/group/client/client/request/request/generate/x", "ha", "edged/ha"),
)
_DISCOVERY = "homeassistant/device/edged_kitchen/config"
_STATUS = "homeassistant/status"
# The node subscribes to it, and nobody may publish there.
_OLD_GROUP = "edged/group/lab/request/generate"
_LOCK = "homeassistant/lock/front/set"


def requests_of(user: str) -> set[str]:
    """Name where only ``user`` may publish: the nodes and the groups."""
    own = {f"edged/{node}/client/{user}/{end}" for node in NODES for end in _REQUESTS}
    return own | {f"edged/group/{group}/client/{user}/request/generate" for group in GROUPS}


def answers_of(user: str, nodes: tuple[str, ...] = NODES) -> set[str]:
    """Name what only ``user`` may read."""
    ends = (*_RESPONSES, "stream/a1")
    return {f"edged/{node}/client/{user}/{end}" for node in nodes for end in ends}


def old_topics(kind: str, nodes: tuple[str, ...] = NODES) -> set[str]:
    """Name the topics of 0.1.0 with this kind, `request` or `response`."""
    return {f"edged/{node}/{kind}/{end}" for node in nodes for end in ("generate", "cancel")}


def outputs(*kinds: str, nodes: tuple[str, ...] = ("kitchen",)) -> set[str]:
    """Name what nodes say of themselves."""
    return {f"edged/{node}/{kind}" for node in nodes for kind in kinds}


def probes(*nodes: str) -> set[str]:
    """Name the messages of nodes to themselves."""
    return {f"edged/group/{group}/probe/{node}" for group in GROUPS for node in nodes}


TOPICS = sorted(
    {topic for user in USERS for topic in requests_of(user) | answers_of(user)}
    | old_topics("request")
    | old_topics("response")
    | outputs(*_OWN_OUTPUTS, nodes=NODES)
    | probes(*NODES)
    | {_DISCOVERY, _DISCOVERY.replace("kitchen", "attic"), _STATUS, _LOCK, _OLD_GROUP, *_CLOSED}
)


def writable(user: str, nodes: tuple[str, ...] = ("kitchen",)) -> set[str]:
    """Return to which of ``TOPICS`` an account may publish; ``nodes`` have the node's account."""
    allowed = requests_of(user) | old_topics("request")
    if user == NODE:
        answers = {topic for client in USERS for topic in answers_of(client, nodes)}
        own = outputs(*_OWN_OUTPUTS, nodes=nodes) | probes(*nodes)
        discovery = {_DISCOVERY.replace("kitchen", node) for node in nodes}
        return allowed | answers | own | discovery | old_topics("response", nodes)
    return allowed | ({_STATUS} if user == ASSISTANT else set())


def readable(user: str, nodes: tuple[str, ...] = ("kitchen",)) -> set[str]:
    """Return which of ``TOPICS`` an account may read."""
    allowed = answers_of(user) | old_topics("response")
    allowed |= outputs("availability", "info", nodes=NODES)
    if user == NODE:
        requests = {topic for client in USERS for topic in requests_of(client)}
        others = {f"edged/{node}/" for node in NODES if node not in nodes}
        served = {topic for topic in requests if not topic.startswith(tuple(others))}
        return (
            allowed | served | old_topics("request", nodes) | probes(*nodes) | {_STATUS, _OLD_GROUP}
        )
    if user == ASSISTANT:
        discovery = {topic for topic in TOPICS if topic.startswith("homeassistant/")}
        return allowed | discovery | outputs("state", nodes=nodes)
    return allowed
