"""Events: each kind has its limit, and what is held back is told later."""

import pytest

from edged.daemon.operator_events import BURST, MAX_UNCONFIRMED, REFILL_S, SUMMARY_S, OperatorEvents
from edged.errors import ErrorCode
from edged.node.metrics import Metrics
from edged.protocol.event import Event, MemoryRecovered, NodeStopping, RequestRefused
from edged.protocol.wire import Topics
from tests.fakes import FakeClock, FakeTransport


class Stage:
    """Events on a fake transport."""

    def __init__(self) -> None:
        self.transport, self.clock, self.metrics = FakeTransport(), FakeClock(), Metrics()
        topics = Topics("edged", "kitchen")
        self.events = OperatorEvents(self.transport, topics, self.metrics, self.clock)

    def tell(self, event: Event, times: int = 1, *, is_confirmed: bool = True) -> None:
        for _ in range(times):
            self.events.report(event)
            if is_confirmed:
                self.confirm_all()

    def confirm_all(self) -> None:
        for sent in self.transport.sent:
            self.events.confirm(sent.handle)

    @property
    def kinds(self) -> list[str]:
        return [sent.json["event"] for sent in self.transport.sent]


BAD, FULL = RequestRefused(ErrorCode.BAD_REQUEST), RequestRefused(ErrorCode.QUEUE_FULL)


def test_an_event_is_published_with_its_members(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    with caplog.at_level("INFO"):
        stage.tell(BAD)
    (sent,) = stage.transport.sent
    assert (sent.message.topic, sent.qos, sent.retain) == ("edged/kitchen/event", 1, False)
    assert sent.json == {"v": 1, "node": "kitchen", "event": "refused", "code": "bad_request"}
    assert "refused: code=bad_request" in caplog.text
    assert stage.metrics.snapshot()["events"] == 1


def test_many_of_one_sort_are_held_back_and_do_not_hide_another_sort() -> None:
    stage = Stage()
    stage.tell(BAD, BURST + 5)
    stage.tell(FULL)
    stage.tell(MemoryRecovered())
    assert stage.kinds == ["refused"] * (BURST + 1) + ["recovered"]
    assert stage.metrics.snapshot()["events_suppressed"] == 5


def test_after_a_while_there_is_one_more() -> None:
    stage = Stage()
    stage.tell(BAD, BURST + 1)
    stage.clock.advance(REFILL_S)
    stage.tell(BAD, 2)
    assert len(stage.kinds) == BURST + 1


def test_what_was_held_back_is_told_once_within_a_minute() -> None:
    stage = Stage()
    stage.tell(BAD, BURST + 2)
    stage.tell(NodeStopping("SIGTERM"), BURST + 1)
    stage.events.tick()
    assert "suppressed" not in stage.kinds
    stage.clock.advance(SUMMARY_S)
    stage.events.tick()
    stage.events.tick()
    summary = stage.transport.sent[-1].json
    assert (summary["count"], summary["by_event"]) == (3, {"refused": 2, "stopping": 1})
    assert stage.kinds.count("suppressed") == 1


def test_without_a_broker_events_do_not_pile_up() -> None:
    stage = Stage()
    for _ in range(MAX_UNCONFIRMED + 10):
        stage.tell(BAD, is_confirmed=False)
        stage.clock.advance(REFILL_S)
    assert len(stage.kinds) == MAX_UNCONFIRMED
    stage.confirm_all()
    stage.tell(BAD)
    assert len(stage.kinds) == MAX_UNCONFIRMED + 1


def test_a_flush_without_anything_held_back_says_nothing() -> None:
    stage = Stage()
    stage.events.flush()
    assert stage.kinds == []
    assert stage.events.confirm(99) is False
