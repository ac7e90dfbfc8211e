"""Events for operators, on the ``event`` topic and in the log, at a bounded rate.

Rule: whatever peers send, the number of events is bounded: per kind, and in all while the broker
has not confirmed them. Suppressed ones are counted, and reported later in one ``suppressed``.
"""

import logging
from collections import Counter
from collections.abc import Callable

from edged.daemon.token_bucket import TokenBucket
from edged.node.memory_guard import MemoryGuard
from edged.node.metrics import Count, Metrics
from edged.node.pressure import PressureLevel
from edged.protocol import Publisher, Topics, encode_event
from edged.protocol.event import (
    Event,
    EventsSuppressed,
    MemoryRecovered,
    MemoryShort,
    MemoryUnplanned,
    MessageDropped,
    PressureChanged,
    RequestRefused,
)

_LOG = logging.getLogger(__name__)

# Events of one kind that may be sent at once, and the time after which there may be one more.
BURST, REFILL_S = 10, 6.0
# Events that the broker has not confirmed; without a connection, those queued for one.
MAX_UNCONFIRMED = 64
# How long suppressed events are collected before they are reported.
SUMMARY_S = 60.0
# Of the budget: resident memory above the ledger's that is worth an event …
UNPLANNED_SHARE = 0.05
# … and that below which it is over.
PLANNED_SHARE = 0.03


class OperatorEvents:
    """Publish and count events; the clock gives monotonic seconds."""

    def __init__(
        self, publisher: Publisher, topics: Topics, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._publisher = publisher
        self._topics = topics
        self._metrics = metrics
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._unconfirmed: set[int] = set()
        self._suppressed: Counter[str] = Counter()
        self._summary_s = float("inf")

    def report(self, event: Event) -> None:
        """Send an event, or count it as suppressed."""
        now_s, limit = self._clock(), _limit_of(event)
        bucket = self._buckets.setdefault(limit, TokenBucket(BURST, REFILL_S, now_s))
        if len(self._unconfirmed) < MAX_UNCONFIRMED and bucket.take(now_s):
            self._send(event)
            return
        self._metrics.count(Count.EVENTS_SUPPRESSED)
        self._suppressed[event.kind] += 1
        self._summary_s = min(self._summary_s, now_s + SUMMARY_S)

    def tick(self) -> None:
        """Report the suppressed events if it is time."""
        if self._clock() >= self._summary_s:
            self.flush()

    def flush(self) -> None:
        """Report the suppressed events now; before a stop."""
        counts = self._suppressed
        if counts:
            self._send(EventsSuppressed(counts.total(), dict(sorted(counts.items()))))
        counts.clear()
        self._summary_s = float("inf")

    def confirm(self, handle: int) -> bool:
        """Note that a message is confirmed or has failed; return whether it was an event."""
        is_event = handle in self._unconfirmed
        self._unconfirmed.discard(handle)
        return is_event

    def _send(self, event: Event) -> None:
        members = event.members()
        _LOG.info("%s: %s", event.kind, " ".join(f"{name}={it}" for name, it in members.items()))
        message = encode_event(self._topics, event.kind, members)
        self._unconfirmed.add(self._publisher.publish(message, qos=1))
        self._metrics.count(Count.EVENTS)


def _limit_of(event: Event) -> str:
    """Name the limit of an event; refusals of one code must not suppress those of another."""
    match event:
        case RequestRefused():
            return f"{event.kind}:{event.code}"
        case MessageDropped():
            return f"{event.kind}:{event.reason}"
    return event.kind


class MemoryEvents:
    """Report changes of the memory state, each once."""

    def __init__(self, operator_events: OperatorEvents, guard: MemoryGuard) -> None:
        self._operator_events = operator_events
        self._guard = guard
        self._is_short = False
        self._is_unplanned = False
        self._level = PressureLevel.CALM

    def update(self, rss_bytes: int, missing_bytes: int) -> None:
        """Compare a reading with the one before.

        ``missing_bytes`` is how far memory is over the budget, or below what the device must keep.
        """
        report, guard, is_short = self._operator_events.report, self._guard, missing_bytes > 0
        if is_short != self._is_short:
            report(MemoryShort(missing_bytes) if is_short else MemoryRecovered())
        self._is_short = is_short
        if guard.level is not self._level:
            self._level = guard.level
            report(PressureChanged(self._level.name.lower()))
        drift_bytes, limit_bytes = guard.ledger.drift_bytes(rss_bytes), guard.ledger.limit_bytes
        # Two thresholds: one would report again and again what is just at it.
        threshold = PLANNED_SHARE if self._is_unplanned else UNPLANNED_SHARE
        is_unplanned = drift_bytes > threshold * limit_bytes
        if is_unplanned and not self._is_unplanned:
            report(MemoryUnplanned(drift_bytes))
        self._is_unplanned = is_unplanned
