"""The session of a former client identifier: taken in whole, then ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from edged.daemon.former_session import QUIET_S, FormerSession, FromFormer
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published, TransportEvent
from tests.fakes import FakeTransport

if TYPE_CHECKING:
    from edged.daemon.former_session import FormerLines

MARKER = Encoded("edged/kitchen/availability", b"online", WireProperties())
UP = Connected(1, is_session_present=True, protocol_version="5")
MAX_S = 100.0


@dataclass
class FakeLine(FakeTransport):
    """A connection to a former session."""

    client_id: str = ""
    emit: Callable[[TransportEvent], None] = lambda _: None
    is_last: bool = False
    is_running: bool = True
    is_waited_for: bool = False

    def is_alive(self) -> bool:
        return self.is_running

    def stop(self, *, timeout_s: float) -> None:
        self.is_running, self.is_waited_for = False, True

    def request_stop(self, timeout_s: float) -> None:
        self.is_running = False


@dataclass
class FakeLines:
    """Makes connections that a test lets speak."""

    max_s: float = MAX_S
    made: list[FakeLine] = field(default_factory=list)

    def open(
        self, client_id: str, emit: Callable[[TransportEvent], None], *, is_last: bool
    ) -> FakeLine:
        self.made.append(FakeLine(client_id=client_id, emit=emit, is_last=is_last))
        return self.made[-1]


class Stage:
    """Former sessions, and what becomes of them."""

    def __init__(self, *client_ids: str) -> None:
        self.lines, self.now_s = FakeLines(), 0.0
        self.left: list[tuple[str, ...]] = []
        self.events: list[FromFormer] = []
        lines = cast("FormerLines", self.lines)
        self.session = FormerSession(
            client_ids,
            lines,
            MARKER,
            self.events.append,
            lambda left: self.left.append(tuple(left)),
        )

    @property
    def line(self) -> FakeLine:
        return self.lines.made[-1]

    def happens(self, *events: TransportEvent, line: FakeLine | None = None) -> None:
        """Let a connection report something, and the main thread take it."""
        for event in events:
            (line or self.line).emit(event)
        for taken in self.events:
            if not isinstance(taken.event, Delivery):
                self.session.take(taken, self.now_s)
        self.events.clear()

    def passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.session.tick(self.now_s)


def delivery(packet_id: int, epoch: int = 1) -> Delivery:
    return Delivery("t", b"", qos=1, packet_id=packet_id, connection_epoch=epoch)


def begun(*client_ids: str) -> Stage:
    stage = Stage(*client_ids)
    stage.session.begin(stage.now_s)
    stage.happens(UP)
    return stage


def test_an_empty_session_is_ended_when_the_broker_has_said_that_there_is_nothing() -> None:
    stage = begun("old")
    stage.passes(QUIET_S / 2)
    assert stage.line.sent == []
    stage.passes(QUIET_S / 2)
    (sent,) = stage.line.sent
    assert (sent.message, sent.qos, sent.retain) == (MARKER, 1, True)
    stage.happens(Published(sent.handle))
    first, last = stage.lines.made
    assert (first.is_running, first.is_last, last.is_last) == (False, False, True)
    assert last.client_id == "old"
    assert stage.left == []
    stage.happens(UP)
    assert stage.left == [()]
    assert not last.is_running
    assert stage.session.is_alive
    stage.session.begin(stage.now_s)
    assert len(stage.lines.made) == 2, "it is over for good"


def test_it_is_not_ended_before_all_is_acknowledged_there() -> None:
    stage = begun("old")
    stage.happens(delivery(1), delivery(2), Delivery("t", b"", qos=0))
    for _ in range(5):
        stage.passes(QUIET_S)
    assert stage.line.sent == []
    for number in (1, 2):
        stage.session.acknowledge(delivery(number))
    assert [one.packet_id for one in stage.line.acknowledged] == [1, 2]
    stage.passes(QUIET_S)
    assert len(stage.line.sent) == 1


def test_a_delivery_before_the_brokers_word_keeps_it_even_if_it_is_acknowledged_by_then() -> None:
    stage = begun("old")
    stage.passes(QUIET_S)
    (sent,) = stage.line.sent
    stage.happens(delivery(1))
    stage.session.acknowledge(delivery(1))
    stage.happens(Published(sent.handle + 7), Published(sent.handle))
    assert len(stage.lines.made) == 1
    stage.passes(QUIET_S)
    assert len(stage.line.sent) == 2
    stage.happens(delivery(2), Published(1))
    assert len(stage.lines.made) == 1


def test_what_was_unacknowledged_when_the_connection_broke_comes_again() -> None:
    stage = begun("old")
    stage.happens(delivery(1))
    stage.happens(Disconnected("broken", 1.0), ConnectFailed("nothing listens", 1.0))
    stage.passes(10 * QUIET_S)
    assert stage.line.sent == [], "there is nobody to ask"
    stage.happens(UP, delivery(1, epoch=2))
    stage.session.acknowledge(delivery(1))
    stage.passes(QUIET_S)
    assert stage.line.sent == [], "the acknowledgement was of the connection before"
    stage.session.acknowledge(delivery(1, epoch=2))
    stage.passes(QUIET_S)
    assert len(stage.line.sent) == 1


def test_one_after_the_other() -> None:
    stage = begun("older", "old")
    for _ in range(2):
        stage.passes(QUIET_S)
        stage.happens(Published(0))
        stage.happens(UP)
        stage.happens(UP)
    assert [line.client_id for line in stage.lines.made] == ["older", "older", "old", "old"]
    assert stage.left == [("old",), ()]


def test_one_that_somebody_else_keeps_busy_is_left_and_tried_at_the_next_connection() -> None:
    stage = begun("old")
    stage.happens(delivery(1), Disconnected("closed without a reason", 1.0))
    first = stage.line
    assert stage.session.next_tick_s() == MAX_S
    stage.passes(MAX_S)
    assert not first.is_running
    assert not first.is_waited_for
    assert stage.left == []
    assert stage.session.next_tick_s() == float("inf")
    stage.happens(UP, delivery(1), line=first)
    stage.session.acknowledge(delivery(1))
    assert first.acknowledged == []
    stage.session.begin(stage.now_s)
    stage.happens(UP)
    stage.happens(Disconnected("late", 1.0), delivery(9), line=first)
    stage.passes(QUIET_S)
    assert len(stage.line.sent) == 1, "what a stopped connection still says is nothing"


def test_it_is_waited_for_only_where_another_connection_has_the_same_identifier() -> None:
    stage = begun("older", "old")
    stage.passes(QUIET_S)
    stage.happens(Published(0))
    stage.happens(UP)
    first, last, _ = stage.lines.made
    assert (first.is_waited_for, last.is_waited_for) == (True, False)
    stage.session.close()
    assert stage.line.is_waited_for


def test_a_stop_leaves_what_is_not_taken_in_to_the_broker() -> None:
    stage = begun("old")
    stage.session.close()
    assert not stage.line.is_running
    stage.session.close()
    assert stage.left == []


def test_a_thread_that_dies_is_noticed() -> None:
    stage = begun("old")
    assert stage.session.is_alive
    stage.line.is_running = False
    assert not stage.session.is_alive
