"""The connection to the broker: what is counted and told of its ups and downs."""

from typing import TYPE_CHECKING, cast

import pytest

from edged.daemon.connection_log import MIN_CLOSED, ConnectionLog
from edged.daemon.sdnotify import Notifier
from edged.transport.events import BrokerProblem, Connected, ConnectFailed, Disconnected
from tests.fakes import Bench, FakeTransport

if TYPE_CHECKING:
    from edged.daemon.reporting import Reporter
    from edged.transport.network import Transport

UP = Connected(1, is_session_present=False, protocol_version="5")


class FakeReporter:
    """Counts the announcements."""

    num_announced = 0
    broker_error: str | None = "not connected yet"
    broker_problem: BrokerProblem | None = None

    def announce(self) -> None:
        self.num_announced += 1


class Stage:
    """A connection's log, with fakes around."""

    def __init__(self) -> None:
        self.bench, self.reporter = Bench(), FakeReporter()
        reporter, transport = cast("Reporter", self.reporter), cast("Transport", FakeTransport())
        self.log = ConnectionLog(
            transport, "mqtt://b:1883", self.bench.driver, reporter, Notifier({})
        )

    @property
    def events(self) -> list[dict[str, object]]:
        return [sent.json for sent in self.bench.transport.on("/event")]


def test_a_session_that_is_there_at_a_reconnect_is_no_event() -> None:
    stage = Stage()
    stage.log.take(UP)
    stage.log.take(Connected(2, is_session_present=True, protocol_version="5"))
    assert stage.events == []
    assert stage.reporter.num_announced == 2
    assert stage.bench.metrics.snapshot()["connects"] == 2


def test_a_session_that_is_gone_at_a_reconnect_is_told() -> None:
    stage = Stage()
    stage.log.take(UP)
    stage.log.take(UP)
    assert [event["event"] for event in stage.events] == ["broker_session_lost"]
    assert stage.bench.metrics.snapshot()["lost_sessions"] == 1


def test_another_client_under_the_same_identifier_is_told() -> None:
    stage = Stage()
    stage.log.take(Disconnected("taken over", 60.0, is_taken_over=True))
    (event,) = stage.events
    assert (event["event"], event["retry_in_s"]) == ("broker_session_taken_over", 60)
    assert stage.bench.metrics.snapshot()["taken_over"] == 1


def test_the_reporter_is_told_why_there_is_no_broker_and_that_there_is_one_again() -> None:
    stage = Stage()
    told = []
    for event in (ConnectFailed("nothing listens", 1.0), UP, Disconnected("silence", 1.0)):
        stage.log.take(event)
        told.append(stage.reporter.broker_error)
    assert told == ["mqtt://b:1883: nothing listens", None, "silence"]


def test_a_session_that_is_taken_is_told_from_a_network_that_is_down() -> None:
    stage = Stage()
    events: list[Connected | ConnectFailed | Disconnected] = [
        ConnectFailed("nothing listens", 1.0),
        UP,
        Disconnected("the connection broke", 1.0),
        Disconnected("closed", 1.0, num_closed=MIN_CLOSED - 1),
        Disconnected("closed", 1.0, num_closed=MIN_CLOSED),
        Disconnected("another client", 60.0, is_taken_over=True),
    ]
    told = []
    for event in events:
        stage.log.take(event)
        told.append(stage.reporter.broker_problem)
    assert told == ["unreachable", None, "broken", "broken", "closed_soon", "taken_over"]
    figures = stage.bench.metrics.snapshot()
    assert (figures["closed_soon"], figures["taken_over"]) == (1, 1)
    assert "another broker.client_id" in str(stage.reporter.broker_error)


def test_it_is_said_what_to_do_where_another_client_may_be_the_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.log.take(Disconnected("the broker closed the connection", 1.0, num_closed=MIN_CLOSED))
    assert "a second edged for this node?" in caplog.text
    assert "the broker's log says which" in caplog.text
