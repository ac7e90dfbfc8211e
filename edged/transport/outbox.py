"""Messages on their way to the broker, over any number of connections.

Brokers close the connection at a message that they do not take, and at-least-once sends it again:
one such message would end every connection for ever. So what was on the wire when a connection
broke is suspect, and is sent alone the next time; a message at which connections break again and
again is given up.

A bad link breaks connections, too, and must not give up an honest message. Where the broker says
that it was the message (a DISCONNECT of MQTT 5), two are enough. Where it only closes, a break
counts if the node's own availability was confirmed before, on the same connection, and all counts
start anew when the connection breaks at that. Of a link that breaks at each message with
probability p, such a break has p(1-p), a quarter at most; ten of them in a row, a millionth.

Rule: pure; it is given times, on one clock, and what became of each connection.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from edged.protocol import Encoded
from edged.transport.events import Blame, Published, PublishHandle


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, its handle, and when it was published on the monotonic clock."""

    handle: PublishHandle
    message: Encoded
    qos: int
    retain: bool
    queued_s: float


class UnsendableError(ValueError):
    """A message cannot be sent on this connection, whatever happens; the text says why."""


MAX_BLAMED = 2
"""Breaks for which the broker blamed the message; then it is given up."""
MAX_CLOSED = 10
"""Breaks at which the broker said nothing; then it is given up."""
MAX_CLOSED_UNCONTROLLED = 20
"""The same for a client that has no availability; that the broker let it connect must do."""
AT_ONCE_S = 1.0
"""A break that comes later after the message was sent has another reason."""
FRAGMENT_S = 30.0
"""A message of QoS 0 that is older is of no use."""
REFUSED_S = 3600.0
"""How long a topic of the node's own is not tried again after a message to it was given up."""
MAX_REFUSED = 64
_MAX_SHOWN = 64
_CONTROL = 0  # no handle of a message


class Wire(Protocol):
    """The part of ``Connection`` that the outbox uses."""

    @property
    def window(self) -> int:
        """Messages that may be unconfirmed at a time; 0 while nothing may be sent."""
        ...

    def send(self, outgoing: Outgoing) -> bool:
        """Send a message; False when it has to wait. ``UnsendableError`` when it never can be."""
        ...


@dataclass(slots=True, eq=False)
class _Item:
    outgoing: Outgoing
    sent_s: float = 0.0
    is_alone: bool = False
    """Whether nothing else may be sent until it is confirmed."""
    num_blamed: int = 0
    num_closed: int = 0

    @property
    def is_control(self) -> bool:
        return self.outgoing.handle == _CONTROL

    @property
    def is_replaceable(self) -> bool:
        """Whether it is of the node's own and of less use than a newer one."""
        return self.outgoing.retain or self.outgoing.qos == 0

    def count(self, blame: Blame) -> None:
        """Count a break."""
        self.num_blamed += blame is Blame.MESSAGE
        self.num_closed += blame is Blame.UNKNOWN

    def is_over(self, max_closed: int) -> bool:
        """Whether it had breaks enough."""
        return self.num_blamed >= MAX_BLAMED or self.num_closed >= max_closed


class Outbox:
    """What waits, and what is on the wire.

    Args:
        control_topic: The topic of the availability; None when the client has none.
    """

    def __init__(self, control_topic: str | None = None) -> None:
        self._control_topic = control_topic
        self._control: _Item | None = None
        self._suspects: deque[_Item] = deque()
        self._fresh: deque[_Item] = deque()
        self._set_aside: deque[_Item] = deque()  # a connection broke at each: behind all others
        self._on_wire: dict[PublishHandle, _Item] = {}
        self._passing: deque[_Item] = deque()  # of QoS 0, sent of late
        self._is_proven = False
        self._answer_s = 0.0
        self._refused: OrderedDict[str, float] = OrderedDict()
        self.is_probing = False
        """Whether the last connection was good, and broke at a message that was sent alone."""

    def __len__(self) -> int:
        """Return the number of messages that wait."""
        return sum(map(len, self._queues()))

    def append(self, outgoing: Outgoing) -> list[Published]:
        """Take in a message; return what is over at once.

        A retained message takes the place of an older one to its topic that still waits, and a
        fragment that of an older one that may have ended a connection.
        """
        older = self._find_same(item := _Item(outgoing))
        if older is None:
            self._fresh.append(item)
            return []
        replaced, older.outgoing = older.outgoing, outgoing
        return _over(replaced, "replaced by a newer one")

    def begin(self) -> None:
        """Note that a connection stands."""
        self._is_proven = self._control_topic is None

    def send(self, wire: Wire, now_s: float) -> Iterator[Published]:
        """Send what may be sent now; yield what never will be."""
        while queue := self._next_queue(wire.window):
            item, is_careful = queue[0], bool(self._suspects or self._set_aside)
            try:
                outgoing = self._ready(item, now_s)
                # A message of QoS 0 is never confirmed, so it could not be sent alone.
                if not wire.send(replace(outgoing, qos=1) if is_careful else outgoing):
                    return
            except UnsendableError as error:
                queue.popleft()
                yield from _over(item.outgoing, str(error))
                continue
            queue.popleft()
            item.sent_s, item.is_alone = now_s, queue is not self._fresh
            self._note_sent(item, is_confirmed=outgoing.qos > 0 or is_careful)

    def confirm(self, handle: PublishHandle, *, is_taken: bool, now_s: float) -> bool:
        """Note the broker's answer to a message; tell whether its publisher waits for that."""
        item = self._on_wire.pop(handle)
        self._is_proven = True
        self._answer_s = now_s - item.sent_s
        while self._passing and self._passing[0].sent_s < item.sent_s:
            self._passing.popleft()  # brokers take what comes in its order
        outgoing = item.outgoing
        if outgoing.retain and is_taken and outgoing.message.topic == self._control_topic:
            self._control = _Item(replace(outgoing, handle=_CONTROL, qos=1))
        return outgoing.qos > 0 and not item.is_control

    def broken(self, blame: Blame, now_s: float) -> list[Published]:
        """Note that the connection is over; return what is given up for it."""
        passing = [item for item in self._passing if now_s - item.sent_s <= AT_ONCE_S]
        items = sorted([*passing, *self._on_wire.values()], key=lambda item: item.sent_s)
        self._passing.clear()
        self._on_wire.clear()
        if not self._is_proven and blame is Blame.UNKNOWN:
            self._forget_closed(items)
        self.is_probing = False
        if len(items) == 1 and items[0].is_control:
            items[0].count(blame)
            if items[0].is_over(MAX_CLOSED):
                self._control = None  # the broker takes it no more; until it does again
            return []
        if len(items) == 1 and blame is not Blame.OTHER:
            return self._strike(items[0], blame, now_s)
        return [over for item in reversed(items) for over in self._put_back(item)]

    def _queues(self) -> tuple[deque[_Item], ...]:
        return self._suspects, self._fresh, self._set_aside

    def _next_queue(self, window: int) -> deque[_Item] | None:
        """Return the queue whose turn it is; None while nothing may be sent."""
        num_on_wire = len(self._on_wire)
        if num_on_wire >= window or any(item.is_alone for item in self._on_wire.values()):
            return None
        may_be_alone = num_on_wire == 0
        if (self._suspects or self._set_aside) and self._control and not self._is_proven:
            return deque([self._control]) if may_be_alone else None
        if self._suspects:
            return self._suspects if may_be_alone else None
        if self._fresh:
            return self._fresh
        return self._set_aside if may_be_alone else None

    def _note_sent(self, item: _Item, *, is_confirmed: bool) -> None:
        if is_confirmed:
            self._on_wire[item.outgoing.handle] = item
            return
        while self._passing and item.sent_s - self._passing[0].sent_s > AT_ONCE_S:
            self._passing.popleft()
        self._passing.append(item)

    def _strike(self, item: _Item, blame: Blame, now_s: float) -> list[Published]:
        """Count a break at a message that was alone; it is sent behind all others, or never."""
        is_at_once = now_s - item.sent_s <= max(AT_ONCE_S, 2 * self._answer_s)
        self.is_probing = item.is_alone and self._is_proven
        if blame is Blame.MESSAGE or (self.is_probing and is_at_once):
            item.count(blame)
        limit = MAX_CLOSED_UNCONTROLLED if self._control_topic is None else MAX_CLOSED
        if item.is_over(limit):
            return self._give_up(item)
        over = self._put_back(item)
        self._suspects.remove(item)
        self._set_aside.append(item)
        return over

    def _give_up(self, item: _Item) -> list[Published]:
        outgoing, num_breaks = item.outgoing, item.num_blamed + item.num_closed
        if item.is_replaceable:  # it would be published again and again
            self._refused[outgoing.message.topic] = item.sent_s + REFUSED_S
            while len(self._refused) > MAX_REFUSED:
                self._refused.popitem(last=False)
        reason = f"given up: the broker ended the connection at it {num_breaks} times; "
        return [Published(outgoing.handle, reason + _show(outgoing))]

    def _put_back(self, item: _Item) -> list[Published]:
        """Make a message the next to be sent; a newer one may take its place."""
        newer = self._find_same(item)
        self._suspects.appendleft(item)
        if newer is None:
            return []
        next(queue for queue in self._queues() if newer in queue).remove(newer)
        replaced, item.outgoing = item.outgoing, newer.outgoing
        item.num_blamed = max(item.num_blamed, newer.num_blamed)
        item.num_closed = max(item.num_closed, newer.num_closed)
        return _over(replaced, "replaced by a newer one")

    def _ready(self, item: _Item, now_s: float) -> Outgoing:
        """Return a message as it is sent now.

        Raises:
            UnsendableError: It is too late, or another to its topic was given up.
        """
        topic = item.outgoing.message.topic
        if item.is_replaceable and self._refused.get(topic, -math.inf) > now_s:
            raise UnsendableError(f"one before it was given up; {_show(item.outgoing)}")
        outgoing = _shorten_expiry(item.outgoing, now_s)
        if outgoing is None:
            raise UnsendableError("expired while it waited for the broker")
        return outgoing

    def _forget_closed(self, items: list[_Item]) -> None:
        for item in (*items, *self._suspects, *self._fresh, *self._set_aside):
            if not item.is_control:
                item.num_closed = 0

    def _find_same(self, wanted: _Item) -> _Item | None:
        """Find what waits and is of no use beside a replaceable message."""
        if not wanted.is_replaceable:
            return None
        for queue in self._queues():
            for item in queue:
                is_same = item.outgoing.message.topic == wanted.outgoing.message.topic
                is_stream = queue is self._fresh and not item.outgoing.retain
                if item.is_replaceable and is_same and not is_stream:
                    return item
        return None


def _over(outgoing: Outgoing, failure: str) -> list[Published]:
    return [Published(outgoing.handle, failure)] if outgoing.qos > 0 else []


def _show(outgoing: Outgoing) -> str:
    """Name the topic, whatever it holds, for a line of the log."""
    topic = outgoing.message.topic
    return f"topic {topic[:_MAX_SHOWN]!a}{'…' if len(topic) > _MAX_SHOWN else ''}"


def _shorten_expiry(outgoing: Outgoing, now_s: float) -> Outgoing | None:
    """Take the time spent waiting off the Message Expiry Interval; None when none is left."""
    message = outgoing.message
    expiry_s = message.properties.message_expiry_s
    if expiry_s is None:
        is_old = now_s - outgoing.queued_s > FRAGMENT_S
        return None if is_old and outgoing.qos == 0 and not outgoing.retain else outgoing
    left_s = outgoing.queued_s + expiry_s - now_s
    if left_s <= 0:
        return None
    if (whole_s := math.ceil(left_s)) == expiry_s:  # the usual case: it has not waited
        return outgoing
    properties = replace(message.properties, message_expiry_s=whole_s)
    return replace(outgoing, message=message._replace(properties=properties))
