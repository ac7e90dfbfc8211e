"""The main thread's inbox: an event that ends an answer is handled before a new request.

Rule: any thread puts, one thread gets. Deliveries keep their order, and so do all other events.
"""

import queue
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

E = TypeVar("E")


class Inbox(Generic[E]):
    """Events of the other threads and of signals; ``is_delivery`` tells which ones may wait."""

    def __init__(self, is_delivery: Callable[[E], bool]) -> None:
        self._is_delivery = is_delivery
        self._events: queue.SimpleQueue[E] = queue.SimpleQueue()
        self._deliveries: deque[E] = deque()

    def put(self, event: E) -> None:
        """Add an event; never blocks, and a signal handler may call it."""
        self._events.put(event)

    def qsize(self) -> int:
        """Return the approximate number of events."""
        return self._events.qsize() + len(self._deliveries)

    def get(self, timeout_s: float) -> E:
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
            if not self._is_delivery(event):
                return event
            self._deliveries.append(event)
