"""The settings of what a node offers beyond answers: dialogues, groups, Home Assistant.

Rule: as in ``edged.config.keys``, whose ``Config`` holds these sections.
"""

from dataclasses import dataclass

from edged.config import kinds
from edged.config.declare import optional, setting

_LEVEL = kinds.text("1 to 32 of a-z, 0-9 and -", r"[a-z0-9-]{1,32}")
_DISCOVERY = kinds.text(
    "a topic of a-z, A-Z, 0-9, _, - and /, not starting or ending with /, of at most 8 levels",
    r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+){0,7}",
    64,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsConfig:
    """Dialogues that the node holds, in memory only, so that a request brings just what is new."""

    count: int = setting(
        kinds.integer(0, 256),
        8,
        "Dialogues held; a new one takes the place of the one that was idle longest. 0 refuses "
        "requests with a `session`.",
    )
    max_tokens: int = setting(
        kinds.integer(64, 131072),
        1536,
        "Longest prompt of a dialogue, in tokens: above it (or above what the context has left "
        "beside the answer) the oldest turns are forgotten.",
    )
    idle_s: float = setting(
        kinds.duration(1, 7 * 86400), 1800.0, "A dialogue is forgotten after this long."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Several nodes that share requests, through the broker's shared subscriptions."""

    name: str | None = optional(
        _LEVEL,
        "Group to take requests of: `prefix`/group/`name`/request/generate; each goes to one node.",
        note="none",
    )
    receive_maximum: int = setting(
        kinds.integer(1, 2),
        2,
        "Requests of the group that the broker may hand to this node before it has answered.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAssistantConfig:
    """Home Assistant finds the node by itself."""

    discovery: bool = setting(
        kinds.flag(),
        default=True,
        doc="Announce the node by MQTT discovery; false takes an earlier announcement back.",
    )
    prefix: str = setting(
        _DISCOVERY, "homeassistant", "Home Assistant's discovery prefix; never a reply topic."
    )
    ask: bool = setting(
        kinds.flag(),
        default=False,
        doc="Announce entities to ask the node, and a sensor that holds the last answer to them: "
        "everybody who can use Home Assistant can ask then.",
    )
