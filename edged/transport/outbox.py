"""Messages that wait for their turn on the wire, over any number of connections."""

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from edged.transport.connection import Connection
from edged.transport.events import Published
from edged.transport.outgoing import Outgoing


class Outbox:
    """A queue in the order of publishing, whose messages may expire while they wait."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque()

    def __len__(self) -> int:
        """Return the number of messages that wait."""
        return len(self._waiting)

    def append(self, outgoing: Outgoing) -> None:
        """Take in a message."""
        self._waiting.append(outgoing)

    def take_back(self, connection: Connection) -> None:
        """Put what a client had on its way, unconfirmed, back to the front; it is given up."""
        self._waiting.extendleft(reversed(connection.in_flight.values()))
        connection.in_flight.clear()

    def send(self, connection: Connection) -> Iterator[Published]:
        """Send what the connection has room for; yield those that are too late to be sent."""
        while self._waiting and connection.has_room:
            outgoing = self._waiting.popleft()
            fresh = _shorten_expiry(outgoing, time.monotonic())
            if fresh is None:
                yield Published(outgoing.handle, "expired while it waited for the broker")
            elif not connection.send(fresh):
                self._waiting.appendleft(outgoing)
                return


def _shorten_expiry(outgoing: Outgoing, now_s: float) -> Outgoing | None:
    """Take the time spent waiting off the Message Expiry Interval; None when none is left."""
    message = outgoing.message
    expiry_s = message.properties.message_expiry_s
    if expiry_s is None:
        return outgoing
    left_s = outgoing.queued_s + expiry_s - now_s
    if left_s <= 0:
        return None
    if (whole_s := math.ceil(left_s)) == expiry_s:  # the usual case: it has not waited
        return outgoing
    properties = replace(message.properties, message_expiry_s=whole_s)
    return replace(outgoing, message=message._replace(properties=properties))
