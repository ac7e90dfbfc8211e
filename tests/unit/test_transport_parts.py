"""The parts of the transport that need no broker: back-off, errors, outbox, acknowledgements."""

import time

import pytest

from edged.config.broker_url import BrokerAddress
from edged.protocol.wire import Encoded, WireProperties
from edged.transport.clock import boot_s
from edged.transport.connection import ROOM, STOCK_WINDOW, Acknowledgements
from edged.transport.events import Cause
from edged.transport.explain import explain_error
from edged.transport.network import Backoff
from edged.transport.outbox import Outbox, Outgoing
from edged.transport.settings import BrokerSettings

NOW_S = 100.0
SETTINGS = BrokerSettings(BrokerAddress("localhost", 1883), "node")


def test_pauses_after_broken_connections_double_with_jitter_up_to_the_longest() -> None:
    backoff = Backoff(SETTINGS)
    for top_s in (1, 2, 4, 8, 16, 32, 60, 60):
        assert top_s / 2 <= backoff.next_s(was_connected=True) <= top_s


def test_a_broker_that_is_away_is_looked_for_every_few_seconds_however_long_it_takes() -> None:
    backoff = Backoff(SETTINGS)
    for top_s in (1, 2, 4, 8, 8, 8):
        assert top_s / 2 <= backoff.next_s(was_connected=False) <= top_s
    backoff.next_s(was_connected=True)
    assert backoff.next_s(was_connected=False) <= 1.0


@pytest.mark.parametrize(
    ("num_pauses", "stood_s", "top_s"),
    [(7, 119.0, 60.0), (7, 120.0, 1.0), (2, 7.9, 4.0), (2, 16.0, 1.0)],
)
def test_only_a_connection_that_stood_starts_anew(
    num_pauses: int, stood_s: float, top_s: float
) -> None:
    backoff = Backoff(SETTINGS)
    for _ in range(num_pauses):
        backoff.next_s(was_connected=True)
    backoff.note_connection(stood_s)
    assert top_s / 2 <= backoff.next_s(was_connected=True) <= top_s


def test_a_taken_over_session_waits_a_minute() -> None:
    assert Backoff(SETTINGS).next_s(was_connected=True, is_taken_over=True) == 60.0


def test_a_message_that_is_put_to_the_test_costs_the_shortest_pause_and_no_longer_ones() -> None:
    backoff = Backoff(SETTINGS)
    for _ in range(10):
        assert backoff.next_s(was_connected=True, is_probing=True) == SETTINGS.retry_min_s
    assert backoff.next_s(was_connected=True) <= SETTINGS.retry_min_s


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError("timed out"), "mqtt://localhost:1883 does not answer"),
        (
            OSError(113, "No route to host"),
            "mqtt://localhost:1883 cannot be reached: No route to host",
        ),
        (OSError("odd"), "mqtt://localhost:1883 cannot be reached: odd"),
    ],
)
def test_an_error_of_the_network_is_explained(error: OSError, reason: str) -> None:
    assert explain_error(error, SETTINGS.address).reason == reason


class FakeConnection:
    """Takes what the script says; the part of ``Connection`` that the outbox uses."""

    def __init__(self, *takes: bool) -> None:
        self.takes = list(takes)
        self.sent: list[Outgoing] = []

    @property
    def window(self) -> int:
        return 20 if self.takes else 0

    def send(self, outgoing: Outgoing) -> bool:
        is_taken = self.takes.pop(0)
        if is_taken:
            self.sent.append(outgoing)
        return is_taken


def outgoing(handle: int, expiry_s: int | None = None, age_s: float = 0.0) -> Outgoing:
    message = Encoded("t", b"", WireProperties(message_expiry_s=expiry_s))
    return Outgoing(handle, message, 1, retain=False, queued_s=NOW_S - age_s)


def test_a_message_whose_packet_id_is_taken_keeps_its_place() -> None:
    outbox, connection = Outbox(), FakeConnection(False, True, True)
    for handle in (1, 2):
        outbox.append(outgoing(handle))
    assert list(outbox.send(connection, NOW_S)) == []
    assert (len(outbox), connection.sent) == (2, [])
    assert list(outbox.send(connection, NOW_S)) == []
    assert [sent.handle for sent in connection.sent] == [1, 2]


def test_time_spent_waiting_is_taken_off_the_expiry() -> None:
    outbox, connection = Outbox(), FakeConnection(True, True)
    outbox.append(outgoing(1, expiry_s=10, age_s=7.5))
    outbox.append(outgoing(2, expiry_s=5, age_s=5.0))
    [late] = outbox.send(connection, NOW_S)
    assert late.handle == 2
    assert late.failure is not None
    assert connection.sent[0].message.properties.message_expiry_s == 3


def test_what_was_on_its_way_goes_to_the_front_in_its_order() -> None:
    outbox, connection = Outbox(), FakeConnection(True, True)
    for handle in (1, 2, 3):
        outbox.append(outgoing(handle))
    assert list(outbox.send(connection, NOW_S)) == []
    assert outbox.broken(Cause.OTHER, NOW_S) == []
    connection = FakeConnection(True, True, True)
    for handle in (1, 2, 3):
        assert list(outbox.send(connection, NOW_S)) == []
        assert outbox.confirm(handle, is_taken=True, now_s=NOW_S)
    assert [sent.handle for sent in connection.sent] == [1, 2, 3]


def test_deliveries_are_acknowledged_as_they_came_whatever_is_done_first() -> None:
    sent: list[int] = []
    acknowledgements = Acknowledgements(20, sent.append)
    for packet_id in (7, 8, 9):
        acknowledgements.note_delivery(packet_id)
    acknowledgements.finish(8)
    assert sent == []
    acknowledgements.finish(7)
    assert sent == [7, 8]
    acknowledgements.finish(9)
    assert sent == [7, 8, 9]


@pytest.mark.parametrize(("receive_maximum", "kept"), [(ROOM + 2, 2), (100, STOCK_WINDOW - ROOM)])
def test_near_the_receive_maximum_what_is_done_waits_no_longer(
    receive_maximum: int, kept: int
) -> None:
    """Else a cancel would not come through behind the slow request that it is meant for."""
    sent: list[int] = []
    acknowledgements = Acknowledgements(receive_maximum, sent.append)
    for packet_id in range(kept + 1):
        acknowledgements.note_delivery(packet_id)
    acknowledgements.finish(kept)
    assert sent == [kept]
    acknowledgements.finish(kept - 1)
    assert sent == [kept]


def test_at_the_end_what_is_answered_is_acknowledged_though_it_came_behind_what_is_not() -> None:
    sent: list[int] = []
    acknowledgements = Acknowledgements(20, sent.append)
    for packet_id in (1, 2, 3):
        acknowledgements.note_delivery(packet_id)
    acknowledgements.finish(2)
    assert sent == []
    acknowledgements.flush()
    assert sent == [2]


def test_the_clock_of_deadlines_goes_on_while_the_machine_is_suspended() -> None:
    before_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before_s <= boot_s() <= time.clock_gettime(time.CLOCK_BOOTTIME)
