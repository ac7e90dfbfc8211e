"""What a node tells its operators: every kind of event, with its members.

Rule: no member holds text of a prompt or an answer, nor an id that a requester chose. A kind is a
class here and a row in ``docs/protocol.md``; a test compares the two.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from edged.errors import ErrorCode
from edged.protocol.wire import DropReason


@dataclass(frozen=True, slots=True)
class NodeWaiting:
    """The process cannot start now, and attempts it again until it succeeds."""

    kind: ClassVar[str] = "waiting"
    detail: str


@dataclass(frozen=True, slots=True)
class NodeStarted:
    """The process is ready to answer."""

    kind: ClassVar[str] = "started"
    edged: str
    """Version of the program."""
    model: str
    unfinished: int
    """Requests that the process before had begun and not ended: above 0, it crashed."""


@dataclass(frozen=True, slots=True)
class NodeStopping:
    """The process was told to end; what is not answered waits at the broker."""

    kind: ClassVar[str] = "stopping"
    signal: str


@dataclass(frozen=True, slots=True)
class NodeStalled:
    """A part of the process stands still; it ends, to be started again."""

    kind: ClassVar[str] = "stalled"
    detail: str


@dataclass(frozen=True, slots=True)
class MemoryShort:
    """Memory is over the budget, or the device's is short."""

    kind: ClassVar[str] = "degraded"
    missing_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryRecovered:
    """Memory is inside the budget again."""

    kind: ClassVar[str] = "recovered"


@dataclass(frozen=True, slots=True)
class PressureChanged:
    """Something is given up for memory, or taken back; ``rung`` is ``pressure`` of ``state``."""

    kind: ClassVar[str] = "pressure"
    rung: str


@dataclass(frozen=True, slots=True)
class MemoryUnplanned:
    """The process holds memory that is on no account of the ledger."""

    kind: ClassVar[str] = "unplanned"
    unplanned_bytes: int


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """A request got an error."""

    kind: ClassVar[str] = "refused"
    code: ErrorCode


@dataclass(frozen=True, slots=True)
class RequestPoisoned:
    """A request that ended the process is not tried any more."""

    kind: ClassVar[str] = "crashed_before"
    attempts: int


@dataclass(frozen=True, slots=True)
class MessageDropped:
    """A message got no reply."""

    kind: ClassVar[str] = "dropped"
    reason: DropReason
    detail: str


@dataclass(frozen=True, slots=True)
class ReplyUndelivered:
    """The broker did not take a reply."""

    kind: ClassVar[str] = "undelivered"
    detail: str


@dataclass(frozen=True, slots=True)
class BrokerSessionLost:
    """The broker had forgotten the session at a reconnect; requests may be lost with it."""

    kind: ClassVar[str] = "broker_session_lost"


@dataclass(frozen=True, slots=True)
class BrokerSessionTakenOver:
    """Another client connected under this node's client identifier."""

    kind: ClassVar[str] = "broker_session_taken_over"
    retry_in_s: int


@dataclass(frozen=True, slots=True)
class GroupJoined:
    """The node takes part in a group."""

    kind: ClassVar[str] = "group_joined"
    group: str


@dataclass(frozen=True, slots=True)
class GroupRefused:
    """The node cannot take part in a group."""

    kind: ClassVar[str] = "group_refused"
    group: str
    detail: str


@dataclass(frozen=True, slots=True)
class EventsSuppressed:
    """Events that were not sent one by one, because there were too many of their kind."""

    kind: ClassVar[str] = "suppressed"
    count: int
    by_event: dict[str, int]


Event = (
    NodeWaiting
    | NodeStarted
    | NodeStopping
    | NodeStalled
    | MemoryShort
    | MemoryRecovered
    | PressureChanged
    | MemoryUnplanned
    | RequestRefused
    | RequestPoisoned
    | MessageDropped
    | ReplyUndelivered
    | BrokerSessionLost
    | BrokerSessionTakenOver
    | GroupJoined
    | GroupRefused
    | EventsSuppressed
)


def event_members(event: Event) -> dict[str, Any]:
    """Give the members of an event beside ``v``, ``node`` and ``event``."""
    return {item.name: getattr(event, item.name) for item in fields(event)}
