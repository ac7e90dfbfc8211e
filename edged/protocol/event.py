"""The events a node publishes for its operators, one class each.

Rule: no member contains text of a prompt or an answer, nor an id chosen by a client. Each class is
a row in ``docs/protocol.md``; a test compares the two.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, dataclass_transform

from edged.errors import ErrorCode
from edged.protocol.wire import DropReason


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class Event:
    """Something that happened to the node; each subclass is a frozen dataclass."""

    kind: ClassVar[str]
    """The member ``event`` on the wire."""

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind
        dataclass(frozen=True)(cls)

    def members(self) -> dict[str, Any]:
        """Return the members on the wire, without ``v``, ``node`` and ``event``."""
        return dict(vars(self))


class NodeWaiting(Event, kind="waiting"):
    """The process cannot start yet, and retries until it can."""

    detail: str


class NodeStarted(Event, kind="started"):
    """The node is ready to answer."""

    edged: str
    """Version of the program."""
    model: str
    unfinished: int
    """Requests that the previous process left running: above 0, it crashed."""


class NodeStopping(Event, kind="stopping"):
    """The process received a signal to stop; unanswered requests stay with the broker."""

    signal: str


class NodeStalled(Event, kind="stalled"):
    """A thread has stalled; the process exits, to be restarted."""

    detail: str


class MemoryShort(Event, kind="degraded"):
    """Memory is over the budget, or short on the device."""

    missing_bytes: int


class MemoryRecovered(Event, kind="recovered"):
    """Memory is within the budget again."""


class PressureChanged(Event, kind="pressure"):
    """The memory pressure level changed; ``rung`` is ``pressure`` of ``state``."""

    rung: str


class MemoryUnplanned(Event, kind="unplanned"):
    """The process holds memory that is in no account of the ledger."""

    unplanned_bytes: int


class RequestRefused(Event, kind="refused"):
    """A request got an error."""

    code: ErrorCode


class RequestPoisoned(Event, kind="crashed_before"):
    """A request that crashed the process is not retried any more."""

    attempts: int


class MessageDropped(Event, kind="dropped"):
    """A message was dropped without a reply."""

    reason: DropReason
    detail: str


class ReplyUndelivered(Event, kind="undelivered"):
    """A reply could not be delivered to the broker."""

    detail: str


class BrokerSessionLost(Event, kind="broker_session_lost"):
    """The broker lost the session before a reconnect; requests may be lost with it."""


class BrokerSessionTakenOver(Event, kind="broker_session_taken_over"):
    """Another client connected with this node's client identifier."""

    retry_in_s: int


class GroupJoined(Event, kind="group_joined"):
    """The node takes requests of its group."""

    group: str


class GroupRefused(Event, kind="group_refused"):
    """The broker does not deliver shared subscriptions."""

    group: str
    detail: str


class TrialPassed(Event, kind="trial_passed"):
    """What was on trial has served long enough, and is accepted."""

    model: str
    """As `edged model list` prints it."""


class TrialFailed(Event, kind="trial_failed"):
    """What was on trial failed and was taken back: what served before serves."""

    model: str
    """As `edged model list` prints it."""
    reason: str


class EventsSuppressed(Event, kind="suppressed"):
    """Events over the rate limit of their kind, as one."""

    count: int
    by_event: dict[str, int]
