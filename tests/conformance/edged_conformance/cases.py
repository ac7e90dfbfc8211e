"""A case: steps to take, and the expected replies.

Rule: frozen data; only ``read_cases`` creates them, only ``player`` runs them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

OK = "ok"
SILENCE = "silence"


class Action(StrEnum):
    """The action of a step; the values are keys of a step in the files."""

    ASK = "ask"
    """A ``generate`` request: a short prompt with an id, changed by the given members."""
    CANCEL = "cancel"
    """A ``cancel`` request with exactly the given members."""
    SEND = "send"
    """A complete payload: ``json``, ``text`` or ``base64``."""
    AGAIN = "again"
    """The message of an earlier step again, byte for byte."""
    READ = "read"
    """The retained ``info``, ``state`` or ``availability``."""


class Wait(StrEnum):
    """What a step waits for before the next one."""

    REPLY = "reply"
    FRAGMENT = "fragment"
    """The first fragment of its stream; the reply is awaited at the end."""
    NOTHING = "nothing"
    """The reply is awaited after the last step."""


class Client(StrEnum):
    """Who sends the message of a step."""

    SELF = "self"
    """The account of the run or, without one, anyone."""
    OTHER = "other"
    """A second account."""
    ANYONE = "anyone"
    """Who has no account."""


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected result of one step."""

    outcomes: tuple[str, ...] = (OK,)
    """``ok``, ``silence`` or error codes; the result must be one of them."""
    names: str | None = None
    """What ``error.message`` must begin with: the path of the wrong key."""
    reply: Mapping[str, Any] = field(default_factory=dict)
    """Path in the reply → value or matcher."""
    when: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Outcome → further expectations, in addition to ``reply``."""
    told: Mapping[str, Any] | None = None
    """Members of the event that the node must publish."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message to send, or one retained message to read."""

    action: Action
    body: Any
    label: str
    """Its name in the case: ``as``, else its number from 1."""
    expected: Expected = Expected()
    operation: str = "generate"
    properties: Mapping[str, Any] = field(default_factory=dict)
    """MQTT 5 properties by their names in ``docs/protocol.md``, in lower case with ``_``."""
    is_default_topic: bool = False
    """Do not name a reply topic: the reply must come to the default topic."""
    reply_id: str | None = None
    """The id that the reply must have, if it cannot be read from the payload."""
    pad_to: Any = None
    """Pad the payload with white space to this many bytes."""
    is_retained: bool = False
    qos: int = 1
    wait: Wait = Wait.REPLY
    times: Any = 1
    """Number of such messages, each with its own id and reply topic."""
    by: Client = Client.SELF


@dataclass(frozen=True, slots=True)
class Case:
    """One requirement for a node."""

    theme: str
    """Name of its file."""
    name: str
    steps: tuple[Step, ...]
    section: str
    """Heading in ``docs/protocol.md`` that requires it."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Path in ``info`` → matcher; if one does not match, the case is not applicable."""
    versions: tuple[str, ...] = ("5", "3.1.1")
    order: tuple[str, ...] = ()
    """Labels of steps in the required order of their replies."""
    at_least: Mapping[str, int] = field(default_factory=dict)
    """Outcome → minimum number of replies with it."""
    has_account: bool | None = None
    """Whether it is for a run with an account, or for one without; None for both."""

    @property
    def title(self) -> str:
        """Theme and name, matched by ``--case``."""
        return f"{self.theme}: {self.name}"
