"""What a case is: steps to take, and what must come back.

Rule: frozen data; ``read_cases`` is the only place that makes them, ``player`` the only one that
acts on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

OK = "ok"
SILENCE = "silence"


class Action(StrEnum):
    """What a step does; the names are keys of a step in the files."""

    ASK = "ask"
    """A ``generate`` request: a short question with an id, changed by the members given."""
    CANCEL = "cancel"
    """A ``cancel`` request with exactly the members given."""
    SEND = "send"
    """A payload that is given as a whole: ``json``, ``text`` or ``base64``."""
    AGAIN = "again"
    """The message of an earlier step once more, byte for byte."""
    READ = "read"
    """The retained ``info``, ``state`` or ``availability``."""


class Wait(StrEnum):
    """What a step waits for before the next one is taken."""

    REPLY = "reply"
    FRAGMENT = "fragment"
    """The first fragment of its stream; the reply is awaited at the end."""
    NOTHING = "nothing"
    """The reply is awaited at the end, when all steps have been taken."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What must come back for one step."""

    outcomes: tuple[str, ...] = (OK,)
    """``ok``, ``silence`` or error codes; one of them must be it."""
    names: str | None = None
    """What ``error.message`` must begin with: the path of the wrong key."""
    reply: Mapping[str, Any] = field(default_factory=dict)
    """Path in the reply → value or matcher."""
    when: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Outcome → what the reply has then, beside ``reply``."""
    told: Mapping[str, Any] | None = None
    """Members of the event that the node must publish because of it."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message to send, or one retained message to read."""

    action: Action
    body: Any
    label: str
    """Its name inside the case: ``as``, else its number from 1."""
    expected: Expected = Expected()
    operation: str = "generate"
    properties: Mapping[str, Any] = field(default_factory=dict)
    """MQTT 5 properties by their names in ``docs/protocol.md``, in lower case with ``_``."""
    is_default_topic: bool = False
    """Do not say where the reply goes: it must come to the node's default topic."""
    reply_id: str | None = None
    """The id that the reply must have, where it cannot be seen from the payload."""
    pad_to: Any = None
    """Fill the payload up to this many bytes with white space, which means nothing."""
    is_retained: bool = False
    qos: int = 1
    wait: Wait = Wait.REPLY
    times: Any = 1
    """How many such messages, each with an id and a reply topic of its own."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that a node must do."""

    theme: str
    """Name of its file."""
    name: str
    steps: tuple[Step, ...]
    section: str
    """Heading of ``docs/protocol.md`` that asks for it."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Path in ``info`` → matcher; where one does not match, the case is not applicable."""
    versions: tuple[str, ...] = ("5", "3.1.1")
    order: tuple[str, ...] = ()
    """Labels of steps in the order in which their replies must come."""
    at_least: Mapping[str, int] = field(default_factory=dict)
    """Outcome → how many of the replies must have it."""

    @property
    def title(self) -> str:
        """Theme and name: what ``--case`` looks at."""
        return f"{self.theme}: {self.name}"
