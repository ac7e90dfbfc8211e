"""The outbox: order, resending and giving up, over connections that break."""

import random
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

from edged.protocol.wire import Encoded, WireProperties
from edged.transport.events import Cause, Published
from edged.transport.outbox import MAX_CLOSED, REFUSED_S, Outbox, Outgoing, UnsendableError
from tests.fakes import FakeClock

ORDERS = 1000
ONLINE = "edged/kitchen/availability"
ROUND_TRIP_S = 0.01
Breaks = Callable[[Outgoing], Cause | None]


def outgoing(
    handle: int,
    topic: str = "reply/x",
    *,
    qos: int = 1,
    retain: bool = False,
    expiry_s: int | None = None,
    at_s: float = 0.0,
) -> Outgoing:
    message = Encoded(topic, b"%d" % handle, WireProperties(message_expiry_s=expiry_s))
    return Outgoing(handle, message, qos, retain, at_s)


class Link:
    """A broker that takes messages one after the other, and ends the connection at some.

    As a daemon does, it announces itself anew at each connection.
    """

    def __init__(
        self, breaks: Breaks, announced: Iterable[tuple[str, int]] = ((ONLINE, 1),)
    ) -> None:
        self.clock = FakeClock(0.0)
        self.outbox = Outbox(ONLINE)
        self.window = 20
        self.taken: Counter[int] = Counter()
        self.reported: dict[int, str | None] = {}
        self.pauses: list[bool] = []
        self.most_breaks = 0
        self._breaks = breaks
        self._announced = list(announced)
        self._handles = iter(range(100_000, 10_000_000))
        self._wire: list[Outgoing] = []

    def send(self, message: Outgoing) -> bool:
        if message.message.topic == "unsendable":
            raise UnsendableError("larger than the broker accepts")
        self._wire.append(message)
        return True

    def publish(self, message: Outgoing) -> None:
        self.note(self.outbox.append(message))

    def note(self, over: Iterable[Published]) -> None:
        for published in over:
            assert published.handle not in self.reported, "reported twice"
            self.reported[published.handle] = published.failure

    def connect(self) -> bool:
        """One connection, until it breaks (False) or everything is sent (True)."""
        self.outbox.begin()
        for topic, qos in self._announced:
            handle, now_s = next(self._handles), self.clock()
            self.publish(outgoing(handle, topic, qos=qos, retain=True, at_s=now_s))
        while True:
            self.note(self.outbox.send(self, self.clock()))
            if not self._wire:
                return True
            self.clock.advance(ROUND_TRIP_S)
            message = self._wire.pop(0)
            cause = self._breaks(message)
            if cause is not None:
                self._wire.clear()
                self.note(self.outbox.broken(cause, self.clock()))
                self.pauses.append(self.outbox.is_probing)
                self.clock.advance(1.0)
                return False
            self.taken[message.handle] += 1
            is_known = message.qos > 0
            if is_known and self.outbox.confirm(message.handle, is_taken=True, now_s=self.clock()):
                self.note([Published(message.handle)])

    def run(self, most: int = 100_000) -> None:
        assert any(self.connect() for _ in range(most)), f"still breaking: {self.reported}"


def chosen(handles: set[int], cause: Cause) -> Breaks:
    return lambda message: cause if message.handle in handles else None


@pytest.mark.parametrize("cause", [Cause.MESSAGE, Cause.UNKNOWN])
def test_a_message_at_which_every_connection_ends_is_given_up_and_all_others_get_through(
    cause: Cause,
) -> None:
    for seed in range(ORDERS):
        chance = random.Random(seed)
        handles = list(range(1, chance.randint(1, 60)))
        bad = set(chance.sample(handles, min(len(handles), chance.choice([1, 1, 1, 3]))))
        link = Link(chosen(bad, cause))
        link.window = chance.choice([1, 5, 20])
        chance.shuffle(handles)
        for handle in handles[: len(handles) // 2]:
            link.publish(outgoing(handle))
        link.connect()
        for handle in handles[len(handles) // 2 :]:
            link.publish(outgoing(handle))
        link.run()
        link.run()
        reported = {handle: link.reported[handle] for handle in handles}
        assert {handle for handle in handles if reported[handle] is not None} == bad, seed
        assert all((reported[handle] or "").startswith("given up: ") for handle in bad)
        assert {handle for handle in handles if not link.taken[handle]} == bad, seed
        limit = 4 if cause is Cause.MESSAGE else MAX_CLOSED + 3
        assert len(link.pauses) <= limit * len(bad) + 1, seed


def test_a_link_that_breaks_at_random_gives_up_nothing_but_what_expired() -> None:
    num_expired = 0
    for seed in range(ORDERS):
        chance = random.Random(seed)
        share = chance.uniform(0.02, 0.75)
        causes = chance.choice([[Cause.UNKNOWN], [Cause.UNKNOWN, Cause.OTHER]])
        link = Link(
            lambda _, chance=chance, share=share, causes=causes: (  # type: ignore[misc]
                chance.choice(causes) if chance.random() < share else None
            )
        )
        expiries = {handle: chance.choice([None, None, 1, 20]) for handle in range(1, 9)}
        for handle, expiry_s in expiries.items():
            link.publish(outgoing(handle, expiry_s=expiry_s))
        link.run()
        for handle, expiry_s in expiries.items():
            failure = link.reported[handle]
            if failure is None:
                assert link.taken[handle] >= 1
                continue
            num_expired += 1
            assert failure == "expired while it waited for the broker", seed
            assert expiry_s is not None
            assert link.clock() >= expiry_s
    assert num_expired > 100


def test_what_a_broker_ends_connections_for_by_itself_is_held_against_no_message() -> None:
    num_breaks = iter(range(200))
    link = Link(lambda _: Cause.OTHER if next(num_breaks, None) is not None else None)
    link.publish(outgoing(1))
    link.run()
    assert link.reported[1] is None


def test_a_client_without_availability_gives_up_later() -> None:
    link = Link(chosen({3}, Cause.UNKNOWN), announced=())
    link.outbox = Outbox()
    for handle in range(1, 6):
        link.publish(outgoing(handle))
    link.run()
    assert [handle for handle in link.reported if link.reported[handle]] == [3]
    assert len(link.pauses) == 21


def test_a_break_long_after_the_message_was_sent_is_not_held_against_it() -> None:
    link = Link(chosen(set(), Cause.OTHER))
    num_breaks = iter(range(100))

    def break_late(message: Outgoing) -> Cause | None:
        if message.handle != 1 or next(num_breaks, None) is None:
            return None
        link.clock.advance(1.5)
        return Cause.UNKNOWN

    link._breaks = break_late
    link.publish(outgoing(1))
    link.run()
    assert len(link.pauses) == 100
    assert link.reported[1] is None


def test_others_do_not_wait_behind_a_message_that_broke_a_connection() -> None:
    link = Link(chosen({1}, Cause.UNKNOWN))
    link.publish(outgoing(1))
    assert not link.connect()
    assert not link.connect()  # it was not alone before
    for handle in (2, 3):
        link.publish(outgoing(handle))
    assert not link.connect()
    assert (link.taken[1], link.taken[2], link.taken[3]) == (0, 1, 1)


def test_only_a_connection_that_was_good_until_then_is_followed_by_a_short_pause() -> None:
    link = Link(chosen({1}, Cause.UNKNOWN))
    link.publish(outgoing(1))
    link.run()
    assert link.pauses[0] is False
    assert link.pauses[2:] == [True] * (len(link.pauses) - 2)
    dead = Link(lambda _: Cause.UNKNOWN)
    dead.publish(outgoing(1))
    assert not any(dead.connect() for _ in range(50))
    assert not any(dead.pauses)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("cause", [Cause.MESSAGE, Cause.UNKNOWN])
def test_a_message_of_the_nodes_own_does_not_end_connections_for_ever(
    cause: Cause, qos: int
) -> None:
    """It is published anew at each connection, and would be so for ever."""
    own = "edged/kitchen/state"
    link = Link(
        lambda message: cause if message.message.topic == own else None,
        announced=[(ONLINE, 1), (own, qos)],
    )
    link.publish(outgoing(1))
    link.run(most=2 * MAX_CLOSED)
    assert link.reported[1] is None
    assert sum((it or "").startswith("given up: ") for it in link.reported.values()) == 1
    num_breaks = len(link.pauses)
    assert all(link.connect() for _ in range(10))
    link.clock.advance(REFUSED_S + 1)
    assert not link.connect()
    assert len(link.pauses) == num_breaks + 1


@pytest.mark.parametrize("cause", [Cause.MESSAGE, Cause.UNKNOWN])
def test_a_broker_that_takes_the_availability_no_more_does_not_hold_up_the_rest(
    cause: Cause,
) -> None:
    is_refused = False
    link = Link(
        lambda it: cause if is_refused and it.message.topic == ONLINE else None,
        announced=[(ONLINE, 1), ("edged/kitchen/info", 1)],
    )
    link.run()
    is_refused = True
    for handle in range(1, 4):
        link.publish(outgoing(handle))
    link.run(most=4 * MAX_CLOSED)
    assert [link.reported[handle] for handle in range(1, 4)] == [None] * 3
    assert sum((it or "").startswith("given up: ") for it in link.reported.values()) == 1


def test_fragments_of_a_stream_that_is_refused_cost_no_more_connections_than_one() -> None:
    link = Link(lambda message: Cause.UNKNOWN if message.message.topic == "stream/x" else None)
    link.run()
    for handle in range(1, 300):
        link.publish(outgoing(handle, "stream/x", qos=0, at_s=link.clock()))
        if handle % 10 == 0:
            link.connect()
    link.run()
    assert len(link.pauses) <= MAX_CLOSED + 3
    assert sum((it or "").startswith("given up: ") for it in link.reported.values()) == 1


def test_topics_of_the_nodes_own_that_were_refused_are_remembered_up_to_a_number() -> None:
    link = Link(lambda message: Cause.MESSAGE if "stream" in message.message.topic else None)
    for handle in range(1, 100):
        link.publish(outgoing(handle, f"stream/{handle}", qos=0, at_s=link.clock()))
        link.run()
    assert len(link.outbox._refused) == 64


@pytest.mark.parametrize(("age_s", "num_sent"), [(5.0, 1), (31.0, 0)])
def test_a_fragment_that_may_have_ended_the_connection_is_sent_again_while_it_is_of_use(
    age_s: float, num_sent: int
) -> None:
    num_breaks = iter(range(1))
    link = Link(lambda _: Cause.OTHER if next(num_breaks, None) is not None else None)
    link.publish(outgoing(1, "stream/x", qos=0))
    assert not link.connect()
    link.clock.advance(age_s)
    link.run()
    assert link.taken[1] == num_sent
    assert 1 not in link.reported


def test_a_newer_retained_message_takes_the_place_of_one_that_waits() -> None:
    link = Link(chosen(set(), Cause.OTHER))
    link.publish(outgoing(1, "info", retain=True))
    link.publish(outgoing(2, "info", retain=False))
    link.publish(outgoing(3, "info", retain=True))
    link.run()
    replaced = "replaced by a newer one"
    assert [link.reported[handle] for handle in (1, 2, 3)] == [replaced, None, None]
    assert link.taken[1] == 0


def test_what_cannot_be_sent_is_reported_and_delays_nothing() -> None:
    link = Link(chosen(set(), Cause.OTHER))
    link.publish(outgoing(1, "unsendable"))
    link.publish(outgoing(2))
    link.run()
    assert (link.reported[1], link.reported[2]) == ("larger than the broker accepts", None)


def test_the_topic_of_what_is_given_up_is_reported_escaped_and_cut() -> None:
    link = Link(chosen({1}, Cause.MESSAGE))
    link.publish(outgoing(1, "reply/\x85\n\u202e" + "x" * 200))
    link.run()
    reported = link.reported[1]
    assert reported is not None
    assert reported.isprintable()
    assert "topic 'reply/\\x85\\n\\u202ex" in reported
    assert len(reported) < 200
