"""A synchronous client for the commands: publish, then read events with a timeout.

Rule: acknowledges each delivery as it is read; a daemon uses ``Transport`` itself.
"""

import queue
import time
from collections.abc import Iterator, Sequence
from typing import Self

from edged.protocol.wire import Delivery, Encoded
from edged.transport.events import TransportEvent
from edged.transport.network import Transport
from edged.transport.settings import BrokerSettings

_SLICE_S = 0.5
_STOP_S = 1.0


class SyncClient:
    """A ``Transport`` whose events wait in a queue; connects on entering the context.

    Args:
        settings: Where to connect, and how.
        subscriptions: Topic filters, QoS 1.

    Raises:
        UnavailableError: The CA file cannot be read.
    """

    def __init__(self, settings: BrokerSettings, subscriptions: Sequence[str]) -> None:
        self.settings = settings
        self._events: queue.SimpleQueue[TransportEvent] = queue.SimpleQueue()
        self._transport = Transport(
            settings, subscriptions=subscriptions, will=None, emit=self._events.put
        )

    def __enter__(self) -> Self:
        self._transport.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.stop(timeout_s=_STOP_S)

    def publish(self, message: Encoded) -> int:
        """Send a message with QoS 1, without blocking; a ``Published`` event follows."""
        return self._transport.publish(message)

    def events(self, timeout_s: float) -> Iterator[TransportEvent]:
        """Yield events as they arrive; ends after ``timeout_s``, counted from the first step."""
        over_s = time.monotonic() + timeout_s
        while (left_s := over_s - time.monotonic()) > 0:
            try:
                # A Ctrl-C just as a wait begins is noticed only at its end, so no wait is long.
                event = self._events.get(timeout=min(left_s, _SLICE_S))
            except queue.Empty:
                continue
            if isinstance(event, Delivery):
                self._transport.acknowledge(event)
            yield event
