"""Queued and unconfirmed messages to the broker, kept across connections.

Brokers close the connection on a message they reject, and at-least-once delivery sends it again:
one such message would end every connection for ever. So a message that was unconfirmed when a
connection broke is suspect and is sent alone the next time; one on which connections break
repeatedly is given up.

Rule: pure; times come from the caller, all on one clock.
"""

import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from edged.protocol.wire import Encoded
from edged.transport.events import Cause, Published


@dataclass(slots=True, eq=False)
class Outgoing:
    """A message to publish, and what became of it so far."""

    handle: int
    message: Encoded
    qos: int
    retain: bool
    queued_s: float
    """When it was published, on the clock that goes on while the machine sleeps."""
    sent_s: float = 0.0
    is_alone: bool = False
    """Nothing else may be sent until it is confirmed."""
    num_blamed: int = 0
    """Connections that ended on it with a reason code that names it."""
    num_closed: int = 0
    """Connections that just closed on it."""

    @property
    def is_replaceable(self) -> bool:
        """Whether a newer message to its topic makes it useless: the node's state, a fragment."""
        return self.retain or self.qos == 0

    def count_break(self, cause: Cause, max_closed: int) -> bool:
        """Count a connection that ended on it; return whether it is given up for that."""
        self.num_blamed += cause is Cause.MESSAGE
        self.num_closed += cause is Cause.UNKNOWN
        return self.num_blamed >= MAX_BLAMED or self.num_closed >= max_closed


class UnsendableError(ValueError):
    """A message can never be sent on this connection; the text says why."""


# A bad link breaks connections too, and must not cost a valid message. Where the broker names the
# message as the cause (DISCONNECT of MQTT 5), so many breaks are enough to give it up.
MAX_BLAMED = 2
# Where it only closes, a break counts only if the node's own availability message was confirmed
# before, on the same connection, and all counts restart when the connection breaks on that one. On
# a link that breaks at each message with probability p, such a break has probability p(1-p), at
# most a quarter; ten in a row, a millionth.
MAX_CLOSED = 10
# The same for a client without an availability message, whose link cannot be tested first.
MAX_CLOSED_UNCONTROLLED = 20
# A break longer after a message was sent has another cause.
AT_ONCE_S = 1.0
# Age from which a message of QoS 0 is not sent any more.
FRAGMENT_S = 30.0
# How long a topic of the node's own is not used after a message to it was given up.
REFUSED_S = 3600.0
MAX_REFUSED = 64
_MAX_SHOWN = 64


class _Connection(Protocol):
    @property
    def window(self) -> int: ...
    def send(self, outgoing: Outgoing) -> bool: ...


class Outbox:
    """The queues of messages to send, and the unconfirmed ones.

    Args:
        control_topic: The availability topic; None when the client has none.
    """

    def __init__(self, control_topic: str | None = None) -> None:
        self._control_topic = control_topic
        self._max_closed = MAX_CLOSED if control_topic else MAX_CLOSED_UNCONTROLLED
        self._control: Outgoing | None = None  # the last one that the broker confirmed
        # A connection broke on each that is set aside, so all others go first.
        self._suspects: deque[Outgoing] = deque()
        self._fresh: deque[Outgoing] = deque()
        self._set_aside: deque[Outgoing] = deque()
        self._queues = (self._suspects, self._fresh, self._set_aside)
        self._on_wire: dict[int, Outgoing] = {}
        self._passing: deque[Outgoing] = deque()  # recently sent with QoS 0
        self._is_proven = False  # the broker has confirmed a message on this connection
        self._answer_s = 0.0  # how long the last confirmation took
        self._refused: OrderedDict[str, float] = OrderedDict()  # topic → not used until
        self.is_probing = False
        """Whether the last connection worked, and broke on a message that was sent alone."""

    def __len__(self) -> int:
        """Return the number of queued messages."""
        return sum(map(len, self._queues))

    def append(self, outgoing: Outgoing) -> list[Published]:
        """Queue a message; return the outcome of the one it replaces.

        A retained message replaces a queued one to its topic, and a fragment one that may have
        ended a connection.
        """
        found = self._find_same(outgoing)
        if found is None:
            self._fresh.append(outgoing)
            return []
        queue, place = found
        older, queue[place] = queue[place], outgoing
        return _supersede(older, outgoing)

    def begin(self) -> None:
        """Start a new connection."""
        self._is_proven = self._control_topic is None

    def send(self, connection: _Connection, now_s: float) -> Iterator[Published]:
        """Send the messages whose turn it is; yield the outcome of those that never can be."""
        while queue := self._next_queue(connection.window):
            item, is_careful = queue[0], bool(self._suspects or self._set_aside)
            try:
                outgoing = self._ready(item, now_s)
                # QoS 1, because only a message that is confirmed can be sent alone.
                if not connection.send(replace(outgoing, qos=1) if is_careful else outgoing):
                    return
            except UnsendableError as error:
                queue.popleft()
                yield from _failed(item, str(error))
                continue
            queue.popleft()
            item.sent_s, item.is_alone = now_s, queue is not self._fresh
            if outgoing.qos > 0 or is_careful:
                self._on_wire[outgoing.handle] = item
            else:
                self._passing.append(item)
                while now_s - self._passing[0].sent_s > AT_ONCE_S:
                    self._passing.popleft()

    def confirm(self, handle: int, *, is_taken: bool, now_s: float) -> bool:
        """Record the broker's answer to a message; return whether its publisher expects it."""
        item = self._on_wire.pop(handle)
        self._is_proven = True
        self._answer_s = now_s - item.sent_s
        while self._passing and self._passing[0].sent_s < item.sent_s:
            self._passing.popleft()  # brokers process packets in order
        is_control = item is self._control
        if item.retain and is_taken and item.message.topic == self._control_topic:
            self._control = item
            item.num_blamed = item.num_closed = 0
        return item.qos > 0 and not is_control

    def broken(self, cause: Cause, now_s: float) -> list[Published]:
        """Record the end of the connection; return the messages given up for it."""
        passing = [item for item in self._passing if now_s - item.sent_s <= AT_ONCE_S]
        items = sorted([*passing, *self._on_wire.values()], key=lambda item: item.sent_s)
        self._passing.clear()
        self._on_wire.clear()
        if not self._is_proven and cause is Cause.UNKNOWN:
            for item in itertools.chain(items, *self._queues):
                if item is not self._control:
                    item.num_closed = 0
        self.is_probing = False
        if len(items) == 1 and items[0] is self._control:
            if items[0].count_break(cause, self._max_closed):
                self._control = None  # rejected as well, until the broker confirms a newer one
            return []
        if len(items) == 1 and cause in (Cause.MESSAGE, Cause.UNKNOWN):
            return self._strike(items[0], cause, now_s)
        return [gone for item in reversed(items) for gone in self._put_back(item)]

    def _next_queue(self, window: int) -> deque[Outgoing] | None:
        """Return the queue whose turn it is; None while nothing may be sent."""
        num_on_wire = len(self._on_wire)
        if num_on_wire >= window or any(item.is_alone for item in self._on_wire.values()):
            return None
        may_be_alone = num_on_wire == 0
        # Test the link with the availability first, so that a break can be blamed on the suspect.
        if (self._suspects or self._set_aside) and self._control and not self._is_proven:
            return deque([self._control]) if may_be_alone else None
        if self._suspects:
            return self._suspects if may_be_alone else None
        if self._fresh:
            return self._fresh
        return self._set_aside if may_be_alone else None

    def _strike(self, item: Outgoing, cause: Cause, now_s: float) -> list[Published]:
        """Count a break on a message that was sent alone; move it behind all others, or give up."""
        is_at_once = now_s - item.sent_s <= max(AT_ONCE_S, 2 * self._answer_s)
        self.is_probing = item.is_alone and self._is_proven
        is_counted = cause is Cause.MESSAGE or (self.is_probing and is_at_once)
        if is_counted and item.count_break(cause, self._max_closed):
            return self._give_up(item)
        replaced = self._put_back(item)
        self._set_aside.append(self._suspects.popleft())
        return replaced

    def _give_up(self, item: Outgoing) -> list[Published]:
        if item.is_replaceable:  # the node would publish it again and again
            self._refused[item.message.topic] = item.sent_s + REFUSED_S
            while len(self._refused) > MAX_REFUSED:
                self._refused.popitem(last=False)
        num_breaks = item.num_blamed + item.num_closed
        reason = f"given up: the broker ended the connection on it {num_breaks} times; "
        return [Published(item.handle, reason + _show(item))]

    def _put_back(self, item: Outgoing) -> list[Published]:
        """Queue an unconfirmed message as the next one, or the newer one that replaces it."""
        found = self._find_same(item)
        if found is None:
            self._suspects.appendleft(item)
            return []
        queue, place = found
        newer = queue[place]
        del queue[place]
        self._suspects.appendleft(newer)
        return _supersede(item, newer)

    def _ready(self, item: Outgoing, now_s: float) -> Outgoing:
        """Return a message with the remaining expiry.

        Raises:
            UnsendableError: It has expired, or another to its topic was given up.
        """
        message, is_fragment = item.message, item.qos == 0 and not item.retain
        if item.is_replaceable and self._refused.get(message.topic, -math.inf) > now_s:
            raise UnsendableError(f"an earlier one was given up; {_show(item)}")
        expiry_s = message.properties.message_expiry_s
        life_s = expiry_s if expiry_s is not None else FRAGMENT_S if is_fragment else math.inf
        left_s = item.queued_s + life_s - now_s
        if left_s <= 0:
            raise UnsendableError("expired while it waited for the broker")
        if expiry_s is None or (whole_s := math.ceil(left_s)) == expiry_s:
            return item
        properties = replace(message.properties, message_expiry_s=whole_s)
        return replace(item, message=message._replace(properties=properties))

    def _find_same(self, wanted: Outgoing) -> tuple[deque[Outgoing], int] | None:
        """Find the queued message that ``wanted`` replaces, or that replaces it."""
        if wanted.is_replaceable:
            for queue in self._queues:
                for place, item in enumerate(queue):
                    is_same = item.is_replaceable and item.message.topic == wanted.message.topic
                    # Fragments of a stream do not replace each other, but for suspect ones.
                    if is_same and (item.retain or queue is not self._fresh):
                        return queue, place
        return None


def _supersede(older: Outgoing, newer: Outgoing) -> list[Published]:
    """Pass the breaks of a message on to the newer one in its place; return its outcome."""
    newer.num_blamed = max(older.num_blamed, newer.num_blamed)
    newer.num_closed = max(older.num_closed, newer.num_closed)
    return _failed(older, "replaced by a newer one")


def _failed(outgoing: Outgoing, failure: str) -> list[Published]:
    return [Published(outgoing.handle, failure)] if outgoing.qos > 0 else []


def _show(outgoing: Outgoing) -> str:
    """Quote the topic, shortened, for one line of the log."""
    topic = outgoing.message.topic
    return f"topic {topic[:_MAX_SHOWN]!a}{'…' if len(topic) > _MAX_SHOWN else ''}"
