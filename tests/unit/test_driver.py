"""The driver: each effect of the node is carried out, and each event comes with fresh readings."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from edged.daemon.driver import DECISION_INTERVAL_S, READING_INTERVAL_S, Driver, Edges
from edged.node.effects import (
    Acknowledge,
    Cancel,
    Decode,
    Effect,
    KeepCorrection,
    Pause,
    Prepare,
    Probe,
    Publish,
    ReleasePrefixCache,
    Report,
    Start,
    SyncJournal,
    WriteJournal,
)
from edged.node.events import Confirmed, Decoded, Prepared, Readings, Synced, Tick
from edged.node.generation import Generation
from edged.node.node import Event, Node
from edged.node.throttling import DeviceReading
from edged.protocol.event import MemoryRecovered
from edged.protocol.request import Correction, ReplyAddress, Request
from edged.protocol.wire import Delivery, Dropped, Encoded, RequestDefaults, Topics, WireProperties
from edged.scheduling.memory_budget import MemorySnapshot
from tests.fakes import FakeClock
from tests.make_request import make_request

KEEP = KeepCorrection(5, Correction(ReplyAddress("reply/me"), "lamp", "x", "on"), None)
REQUEST = Delivery("edged/kitchen/request/generate", b'{"prompt": "x"}', qos=1)
MESSAGE = Encoded("edged/kitchen/response/generate", b"{}", WireProperties())
PREPARED = Prepared(1)
PREPARE = Prepare(1, make_request(), None)
GENERATION = Generation(1, [1], make_request(), 8)
FIRST_HANDLE = 70


@dataclass
class ScriptedNode:
    """A node that answers each kind of event with given effects, once."""

    effects: dict[type, list[Effect]]
    at_start: list[Effect] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    readings: list[Readings] = field(default_factory=list)

    def start(self) -> list[Effect]:
        return self.at_start

    def handle(self, event: Event, now_s: float, readings: Readings) -> Sequence[Effect]:
        self.events.append(event)
        self.readings.append(readings)
        return self.effects.pop(type(event), [])


class Recorder:
    """Every edge at once: it records each call, and answers some of them."""

    num_touched = 5

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Any] = {"sync": True, "progress": {1: (2, 3)}}
        self.num_published = 0

    def publish(self, message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        self.calls.append(("publish", message, qos))
        self.num_published += 1
        return FIRST_HANDLE + self.num_published - 1

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any method
        def call(*arguments: object) -> Any:  # noqa: ANN401 - any result
            if name != "progress":
                self.calls.append((name, *arguments))
            return self.answers.get(name)

        return call


class Stage:
    """A driver between a scripted node and recorded edges."""

    def __init__(self, at_start: list[Effect] | None = None, **effects: list[Effect]) -> None:
        kinds = {"delivery": Delivery, "decoded": Decoded, "tick": Tick}
        self.node = ScriptedNode({kinds[k]: v for k, v in effects.items()}, at_start or [])
        self.recorder, self.clock = Recorder(), FakeClock()
        self.num_memory_readings = self.num_device_readings = 0
        edge = cast("Any", self.recorder)
        readings = self.clock, self.read_memory, self.read_device
        edges = Edges(edge, edge, edge, edge, edge, *readings, edge)
        self.driver = Driver(
            cast("Node", self.node), edges, RequestDefaults(Topics("edged", "kitchen"))
        )

    def read_memory(self) -> MemorySnapshot:
        self.num_memory_readings += 1
        return MemorySnapshot(self.num_memory_readings, 0)

    def read_device(self) -> DeviceReading:
        self.num_device_readings += 1
        return DeviceReading(temperature_c=self.num_device_readings)


def test_effects_are_carried_out_in_the_order_of_the_node() -> None:
    stage = Stage(
        tick=[
            WriteJournal(1, b"page"),
            SyncJournal(4),
            KEEP,
            Acknowledge(REQUEST),
            Publish(MESSAGE, handle=3),
            Publish(MESSAGE),
            Prepare(1, PREPARE.request, None),
            Start(GENERATION),
            Pause(1),
            Cancel(2),
            ReleasePrefixCache(),
            Probe(),
            Report(MemoryRecovered()),
        ]
    )
    stage.driver.take(Tick())
    assert stage.recorder.calls == [
        ("write", 1, b"page"),
        ("sync", 4),
        ("keep", KEEP),
        ("acknowledge", REQUEST),
        ("publish", MESSAGE, 1),
        ("publish", MESSAGE, 0),
        ("submit", PREPARE),
        ("start", GENERATION),
        ("pause", 1),
        ("cancel", 2),
        ("release",),
        ("probe",),
        ("report", MemoryRecovered()),
    ]
    assert stage.node.events == [Tick()]


def test_effects_of_the_start_are_carried_out_before_any_event() -> None:
    stage = Stage(at_start=[WriteJournal(0, b"starts"), WriteJournal(1, b"intake")])
    assert stage.recorder.calls == [("write", 0, b"starts"), ("write", 1, b"intake")]
    assert stage.node.events == []


def test_a_delivery_is_decoded_before_any_other_event() -> None:
    stage = Stage(
        delivery=[WriteJournal(1, b"intake"), Decode(REQUEST, 990.0)], decoded=[SyncJournal(9)]
    )
    stage.driver.take(REQUEST)
    delivery, decoded = stage.node.events
    assert delivery == REQUEST
    assert isinstance(decoded, Decoded)
    assert isinstance(decoded.result, Request)
    assert decoded.result.received_s == 990.0
    assert stage.recorder.calls == [("write", 1, b"intake"), ("sync", 9)]


def test_a_delivery_that_cannot_be_answered_is_decoded_as_dropped() -> None:
    unanswerable = Delivery("edged/kitchen/request/generate", b"", qos=1, retain=True)
    stage = Stage(delivery=[Decode(unanswerable, 0.0)])
    stage.driver.take(unanswerable)
    decoded = stage.node.events[1]
    assert isinstance(decoded, Decoded)
    assert isinstance(decoded.result, Dropped)


def test_events_that_follow_at_once_are_handled_in_the_order_of_their_effects() -> None:
    """As of a short prompt, which is prepared at once, and of a node without a journal file."""
    stage = Stage(tick=[PREPARE, SyncJournal(4)])
    stage.recorder.answers |= {"submit": PREPARED, "sync": False}
    stage.driver.take(Tick())
    assert stage.node.events == [Tick(), PREPARED, Synced(4)]


@pytest.mark.parametrize("failure", [None, "the broker is gone"])
def test_a_confirmed_reply_is_named_as_the_node_named_it_and_once(failure: str | None) -> None:
    stage = Stage(tick=[Publish(MESSAGE, handle=3), Publish(MESSAGE), Publish(MESSAGE, handle=4)])
    stage.driver.take(Tick())
    assert stage.driver.confirm(FIRST_HANDLE + 2, failure)
    assert stage.driver.confirm(FIRST_HANDLE)
    assert not stage.driver.confirm(FIRST_HANDLE)
    assert stage.node.events[1:] == [Confirmed(4, failure), Confirmed(3)]


def test_what_is_no_reply_is_not_confirmed_to_the_node() -> None:
    stage = Stage(tick=[Publish(MESSAGE)])
    stage.driver.take(Tick())
    assert not stage.driver.confirm(FIRST_HANDLE)
    assert not stage.driver.confirm(FIRST_HANDLE + 1)
    assert stage.node.events == [Tick()]


def test_readings_are_read_again_after_a_second() -> None:
    stage = Stage()
    for pause_s in (0.0, READING_INTERVAL_S / 2, READING_INTERVAL_S / 2, 0.0):
        stage.clock.advance(pause_s)
        stage.driver.take(Tick())
    assert [reading.memory.rss_bytes for reading in stage.node.readings] == [1, 1, 2, 2]
    assert [reading.device.temperature_c for reading in stage.node.readings] == [1, 1, 2, 2]
    assert all(reading.progress == {1: (2, 3)} for reading in stage.node.readings)
    assert all(reading.num_touched == 5 for reading in stage.node.readings)


def test_a_request_is_decided_on_with_a_reading_of_memory_a_hundredth_of_a_second_old() -> None:
    stage = Stage()
    for event, pause_s in (
        (Tick(), 0.0),
        (REQUEST, DECISION_INTERVAL_S / 2),
        (PREPARED, DECISION_INTERVAL_S),
        (Tick(), 2 * DECISION_INTERVAL_S),  # decides on nothing
        (REQUEST, 0.0),
    ):
        stage.clock.advance(pause_s)
        stage.driver.take(event)
    assert [reading.memory.rss_bytes for reading in stage.node.readings] == [1, 1, 2, 2, 3]
    assert stage.num_device_readings == 1
