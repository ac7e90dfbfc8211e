"""The broker's session under a client identifier that the node had before: taken in, then ended.

Messages wait for a node in the session of its identifier. Where that is another one now, after an
upgrade or with another password, those of the former session are taken in once, on a connection of
its own, and each is acknowledged there.

Rule: it begins when the node's own connection has its subscriptions, so that no message falls
between the two; one that is in both is a duplicate. Its subscriptions end first, and the session
when nothing is left in it: the broker confirms a message, after nothing was unacknowledged and with
no delivery in between. On the main thread, except ``arrive``.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from edged.protocol.wire import Delivery, Encoded, Publisher
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published, TransportEvent
from edged.transport.network import Transport
from edged.transport.settings import BrokerSettings

_LOG = logging.getLogger(__name__)

# Without anything unacknowledged, after which the broker is asked whether there is more.
QUIET_S = 2.0
_STOP_LIMIT_S = 0.5


@dataclass(frozen=True, slots=True)
class FromFormer:
    """An event of a former session's connection."""

    event: TransportEvent
    number: int
    """Of the transport: events of one that was stopped may still come."""


class FormerLine(Publisher, Protocol):
    """The part of ``Transport`` that is used here."""

    def is_alive(self) -> bool:
        """Whether its thread runs."""

    def stop(self, *, timeout_s: float) -> None:
        """Disconnect, and wait for that."""

    def request_stop(self, timeout_s: float) -> None:
        """Disconnect, without blocking."""


@dataclass(frozen=True)
class FormerLines:
    """Makes the connections of former sessions."""

    settings: BrokerSettings
    """Of the node's own connection."""
    filters: tuple[str, ...]
    """What the sessions may be subscribed to."""
    backlog: Callable[[], int]
    max_s: float
    """How long a session may take. Whoever else uses the identifier could go on for ever; the next
    connection of the node tries again."""
    _epochs: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def open(
        self, client_id: str, emit: Callable[[TransportEvent], None], *, is_last: bool
    ) -> FormerLine:
        """Begin to connect; the last connection is a clean one, which ends the session."""
        settings = replace(self.settings, client_id=client_id, unwanted_filters=self.filters)
        if is_last:
            settings = replace(settings, session_expiry_s=0, unwanted_filters=())
        line = Transport(
            settings,
            subscriptions=(),
            will=None,
            emit=emit,
            backlog=self.backlog,
            epochs=self._epochs,
        )
        line.start()
        return line


class FormerSession:
    """Take in the sessions of former identifiers, one after the other.

    Args:
        client_ids: The identifiers.
        lines: Makes connections.
        marker: A retained message that may be published at any time.
        put: Takes each event, on the network thread; must not block.
        ended: Called with the identifiers that are left, whenever a session has been ended.
    """

    def __init__(
        self,
        client_ids: Sequence[str],
        lines: FormerLines,
        marker: Encoded,
        put: Callable[[FromFormer], None],
        ended: Callable[[Sequence[str]], None],
    ) -> None:
        self.client_ids = tuple(client_ids)
        """Those whose sessions have not been ended yet."""
        self._lines = lines
        self._marker = marker
        self._put = put
        self._ended = ended
        self._line: FormerLine | None = None
        self._number = 0
        self._is_ending = False
        self._problem = ""
        self._limit_s = self._due_s = float("inf")
        self._unacknowledged: set[tuple[int, int]] = set()
        self._num_arrived = 0
        self._asked: tuple[int, int] | None = None
        """The handle of the marker, and how many deliveries had arrived before."""

    @property
    def is_alive(self) -> bool:
        """Whether its network thread lives, if it needs one now."""
        return self._line is None or self._line.is_alive()

    def begin(self, now_s: float) -> None:
        """Begin with the next session, if there is one; the node's own is connected."""
        if self._line is None and self.client_ids:
            self._connect(now_s, is_last=False)

    def arrive(self, number: int, event: TransportEvent) -> None:
        """Pass on an event of the connection, on its network thread."""
        if number == self._number:
            match event:
                case Delivery() if event.qos > 0:
                    self._unacknowledged.add((event.connection_epoch, event.packet_id))
                    self._num_arrived += 1
                case Disconnected():
                    self._unacknowledged.clear()  # they will be delivered again
        self._put(FromFormer(event, number))

    def take(self, event: FromFormer, now_s: float) -> None:
        """Handle an event of the connection that is no delivery."""
        if event.number != self._number or self._line is None:
            return
        match event.event:
            case Connected() if self._is_ending:
                self._end(now_s)
            case Connected():
                self._due_s = now_s + QUIET_S
            case Disconnected() | ConnectFailed():
                self._problem, self._asked, self._due_s = event.event.reason, None, float("inf")
            case Published() if self._asked is not None and event.event.handle == self._asked[0]:
                is_empty = not self._unacknowledged and self._num_arrived == self._asked[1]
                self._asked, self._due_s = None, now_s + QUIET_S
                if is_empty:
                    self._connect(now_s, is_last=True)

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a delivery of the session."""
        self._unacknowledged.discard((delivery.connection_epoch, delivery.packet_id))
        if self._line is not None:
            self._line.acknowledge(delivery)

    def next_tick_s(self) -> float:
        """Return when ``tick`` will have something to do."""
        return min(self._due_s, self._limit_s)

    def tick(self, now_s: float) -> None:
        """Ask the broker whether there is more, or give up for now."""
        if now_s >= self._limit_s:
            _LOG.warning(
                "the session of the client identifier of before is not taken in yet, which is tried"
                " again at the next connection%s",
                f": {self._problem}" if self._problem else "",
            )
            self._leave()
        elif now_s >= self._due_s and self._line is not None:
            if self._unacknowledged:
                self._due_s = now_s + QUIET_S
                return
            self._due_s, num_arrived = float("inf"), self._num_arrived
            self._asked = self._line.publish(self._marker, qos=1, retain=True), num_arrived

    def close(self) -> None:
        """Disconnect, and wait for that; the broker keeps what is left."""
        if self._line is not None:
            self._line.stop(timeout_s=_STOP_LIMIT_S)
        self._forget_line()

    def _leave(self) -> None:
        """Disconnect, without blocking."""
        if self._line is not None:
            self._line.request_stop(_STOP_LIMIT_S)
        self._forget_line()

    def _forget_line(self) -> None:
        self._line, self._asked = None, None
        self._limit_s = self._due_s = float("inf")

    def _connect(self, now_s: float, *, is_last: bool) -> None:
        # Two connections under one identifier would take each other's session. This blocks the main
        # thread, but hardly ever for long: the one before has just heard from the broker.
        self.close()
        self._limit_s, self._is_ending = now_s + self._lines.max_s, is_last
        self._number += 1
        self._unacknowledged.clear()
        emit = partial(self.arrive, self._number)
        self._line = self._lines.open(self.client_ids[0], emit, is_last=is_last)

    def _end(self, now_s: float) -> None:
        self._leave()
        self.client_ids = self.client_ids[1:]
        self._ended(self.client_ids)
        _LOG.info("what the broker kept for a client identifier of before is taken in")
        self.begin(now_s)
