"""The main thread's events and their inbox.

Rule: any thread puts, one thread gets. Deliveries keep their order, and so do all other events.
"""

import queue
from collections import deque
from dataclasses import dataclass

from edged.daemon.former_session import FromFormer
from edged.node.events import CorrectionKept, Prepared, Probed, Synced
from edged.node.generation import Finished, Fragment, Paused
from edged.protocol.wire import Delivery
from edged.transport.events import TransportEvent


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or SIGINT arrived."""

    signal_name: str


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """SIGHUP arrived."""


@dataclass(frozen=True, slots=True)
class FromGroup:
    """An event of the group's connection."""

    event: TransportEvent


FromOther = FromGroup | FromFormer
NodeEvent = Delivery | Prepared | Synced | CorrectionKept | Fragment | Finished | Paused | Probed
Event = TransportEvent | NodeEvent | FromOther | StopRequested | ReloadRequested


class Inbox:
    """Events of the other threads and of signals."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._deliveries: deque[Event] = deque()
        self.put = self._events.put
        """Adds an event; never blocks, and a signal handler may call it."""

    def qsize(self) -> int:
        """Return the approximate number of events."""
        return self._events.qsize() + len(self._deliveries)

    def get(self, timeout_s: float) -> Event:
        """Remove and return the next event; blocks for it at most ``timeout_s``.

        Raises:
            queue.Empty: None came in time.
        """
        while True:
            try:
                event = self._events.get(timeout=0.0 if self._deliveries else timeout_s)
            except queue.Empty:
                if not self._deliveries:
                    raise
                return self._deliveries.popleft()
            # A new request waits for the events that end an answer: they free a slot.
            if not isinstance(event.event if isinstance(event, FromOther) else event, Delivery):
                return event
            self._deliveries.append(event)
