"""Report to operators what happened, on the ``event`` topic and in the log, at a bounded rate.

Rule: whatever peers send, the number of events is bounded: per kind, and in all while the broker
has not confirmed them. What is held back is counted, and reported later as one ``suppressed``.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from edged.node.metrics import Count, Metrics
from edged.protocol import Publisher, Topics, encode_event
from edged.protocol.event import (
    Event,
    EventsSuppressed,
    MessageDropped,
    RequestRefused,
    event_members,
)

_LOG = logging.getLogger(__name__)

# Events of one kind that may be sent at once …
BURST = 10
# … after which there is one more each time this is over.
REFILL_S = 6.0
# Events that the broker has not confirmed; with no connection, those that wait for one.
MAX_UNCONFIRMED = 64
# How long held-back events are collected before they are reported.
SUMMARY_S = 60.0


@dataclass(slots=True)
class _KindBucket:
    tokens: float
    filled_s: float


class OperatorEvents:
    """Send events.

    Args:
        publisher: Where they are published.
        topics: The topics of this node.
        metrics: Where they are counted.
        clock: Monotonic seconds.
    """

    def __init__(
        self, publisher: Publisher, topics: Topics, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._publisher = publisher
        self._topics = topics
        self._metrics = metrics
        self._clock = clock
        self._buckets: dict[str, _KindBucket] = {}
        self._unconfirmed: set[int] = set()
        self._held: Counter[str] = Counter()
        self._summary_s = float("inf")

    def report(self, event: Event) -> None:
        """Send an event, or count it when there were too many of its kind."""
        now_s = self._clock()
        if len(self._unconfirmed) < MAX_UNCONFIRMED and self._take_token(_limit_of(event), now_s):
            self._send(event)
            return
        self._metrics.count(Count.EVENTS_SUPPRESSED)
        self._held[event.kind] += 1
        self._summary_s = min(self._summary_s, now_s + SUMMARY_S)

    def tick(self) -> None:
        """Report what was held back, when it is time."""
        if self._clock() >= self._summary_s:
            self.flush()

    def flush(self) -> None:
        """Report at once what was held back; before a stop."""
        if self._held:
            self._send(EventsSuppressed(self._held.total(), dict(sorted(self._held.items()))))
        self._held.clear()
        self._summary_s = float("inf")

    def confirm(self, handle: int) -> bool:
        """Note that a message is confirmed or has failed; return whether it was an event."""
        is_event = handle in self._unconfirmed
        self._unconfirmed.discard(handle)
        return is_event

    def _send(self, event: Event) -> None:
        members = event_members(event)
        _LOG.info("%s: %s", event.kind, " ".join(f"{name}={it}" for name, it in members.items()))
        message = encode_event(self._topics, event.kind, members)
        self._unconfirmed.add(self._publisher.publish(message, qos=1))
        self._metrics.count(Count.EVENTS)

    def _take_token(self, limit: str, now_s: float) -> bool:
        bucket = self._buckets.setdefault(limit, _KindBucket(BURST, now_s))
        bucket.tokens = min(BURST, bucket.tokens + (now_s - bucket.filled_s) / REFILL_S)
        bucket.filled_s = now_s
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def _limit_of(event: Event) -> str:
    """Name the limit of an event: many of one sort do not hide another sort."""
    match event:
        case RequestRefused():
            return f"{event.kind}:{event.code}"
        case MessageDropped():
            return f"{event.kind}:{event.reason}"
    return event.kind
