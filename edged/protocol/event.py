"""The events a node publishes for its operators, one class each.

Rule: no member contains text of a prompt or an answer, nor an id chosen by a client. Each class is
a row in ``docs/protocol.md``; a test compares the two.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from edged.errors import ErrorCode
from edged.protocol.wire import DropReason


@dataclass(frozen=True)
class Event:
    """Something that happened to the node; ``kind`` is the member ``event`` on the wire."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class NodeWaiting(Event):
    """The process cannot start yet, and retries until it can."""

    kind: ClassVar[str] = "waiting"
    detail: str


@dataclass(frozen=True)
class NodeStarted(Event):
    """The node is ready to answer."""

    kind: ClassVar[str] = "started"
    edged: str
    """Version of the program."""
    model: str
    unfinished: int
    """Requests that the previous process left running: above 0, it crashed."""


@dataclass(frozen=True)
class NodeStopping(Event):
    """The process received a signal to stop; unanswered requests stay with the broker."""

    kind: ClassVar[str] = "stopping"
    signal: str


@dataclass(frozen=True)
class NodeStalled(Event):
    """A thread has stalled; the process exits, to be restarted."""

    kind: ClassVar[str] = "stalled"
    detail: str


@dataclass(frozen=True)
class MemoryShort(Event):
    """Memory is over the budget, or short on the device."""

    kind: ClassVar[str] = "degraded"
    missing_bytes: int


@dataclass(frozen=True)
class MemoryRecovered(Event):
    """Memory is within the budget again."""

    kind: ClassVar[str] = "recovered"


@dataclass(frozen=True)
class PressureChanged(Event):
    """The memory pressure level changed; ``rung`` is ``pressure`` of ``state``."""

    kind: ClassVar[str] = "pressure"
    rung: str


@dataclass(frozen=True)
class MemoryUnplanned(Event):
    """The process holds memory that is in no account of the ledger."""

    kind: ClassVar[str] = "unplanned"
    unplanned_bytes: int


@dataclass(frozen=True)
class RequestRefused(Event):
    """A request got an error."""

    kind: ClassVar[str] = "refused"
    code: ErrorCode


@dataclass(frozen=True)
class RequestPoisoned(Event):
    """A request that crashed the process is not retried any more."""

    kind: ClassVar[str] = "crashed_before"
    attempts: int


@dataclass(frozen=True)
class MessageDropped(Event):
    """A message was dropped without a reply."""

    kind: ClassVar[str] = "dropped"
    reason: DropReason
    detail: str


@dataclass(frozen=True)
class ReplyUndelivered(Event):
    """A reply could not be delivered to the broker."""

    kind: ClassVar[str] = "undelivered"
    detail: str


@dataclass(frozen=True)
class BrokerSessionLost(Event):
    """The broker lost the session before a reconnect; requests may be lost with it."""

    kind: ClassVar[str] = "broker_session_lost"


@dataclass(frozen=True)
class BrokerSessionTakenOver(Event):
    """Another client connected with this node's client identifier."""

    kind: ClassVar[str] = "broker_session_taken_over"
    retry_in_s: int


@dataclass(frozen=True)
class GroupJoined(Event):
    """The node takes requests of its group."""

    kind: ClassVar[str] = "group_joined"
    group: str


@dataclass(frozen=True)
class GroupRefused(Event):
    """The broker does not deliver shared subscriptions."""

    kind: ClassVar[str] = "group_refused"
    group: str
    detail: str


@dataclass(frozen=True)
class EventsSuppressed(Event):
    """Events over the rate limit of their kind, as one."""

    kind: ClassVar[str] = "suppressed"
    count: int
    by_event: dict[str, int]


def event_members(event: Event) -> dict[str, Any]:
    """Return the members of an event, without ``v``, ``node`` and ``event``."""
    return dict(vars(event))
