"""The order of the node's effects: what is promised before something else comes before it."""

import json
from typing import Any

import pytest

from edged.node.crash_journal import INTAKE_PAGE, STARTS_PAGE
from edged.node.effects import (
    Acknowledge,
    Cancel,
    Decode,
    Effect,
    Prepare,
    Publish,
    Start,
    SyncJournal,
    WriteJournal,
)
from edged.node.events import (
    Abandon,
    Confirmed,
    Decoded,
    Drain,
    Prepared,
    Readings,
    Synced,
    Tick,
)
from edged.node.generation import Finished, Fragment, Generation, Paused
from edged.node.node import Event, Node
from edged.protocol.decode import decode
from edged.protocol.request import Answer, FinishReason
from edged.protocol.wire import Delivery
from edged.scheduling.latency_model import LatencyModel
from tests.fakes import COST, LIMITS, ROOMY
from tests.make_request import make_request


class Journaled:
    """A node, and the pages of its crash journal as they are written."""

    def __init__(self) -> None:
        self.node = Node(LIMITS, LatencyModel(COST), (b"", b""))
        self.pages: dict[int, Any] = {}
        self.num_delivered = 0
        self.now_s = 0.0

    def take(self, event: Event) -> list[Effect]:
        effects = self.node.handle(event, self.now_s, Readings(ROOMY))
        self.write(effects)
        return effects

    def write(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, WriteJournal):
                self.pages[effect.page] = json.loads(effect.content)

    def deliver(self, name: str, operation: str = "generate") -> list[Effect]:
        """Deliver a message and let it be decoded; return the effects of both."""
        self.num_delivered += 1
        topic = LIMITS.defaults.topics.request(operation)
        payload = json.dumps({"id": name} | ({"prompt": "x"} if operation == "generate" else {}))
        delivery = Delivery(topic, payload.encode(), qos=1, packet_id=self.num_delivered)
        effects = self.take(delivery)
        (asked,) = (effect for effect in effects if isinstance(effect, Decode))
        result = decode(asked.delivery, LIMITS.defaults, asked.received_s)
        return [*effects, *self.take(Decoded(result))]

    def start(self, name: str = "a") -> Generation:
        """Let a request run."""
        self.deliver(name)
        effects = self.take(Prepared(self.num_delivered, [1]))
        (sync,) = (effect for effect in effects if isinstance(effect, SyncJournal))
        (start,) = (effect for effect in self.take(Synced(sync.key)) if isinstance(effect, Start))
        return start.generation


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects if not isinstance(effect, WriteJournal)]


def marked(effects: list[Effect], kind: type) -> Any:  # noqa: ANN401
    """What the intake page says when an effect of this kind is carried out."""
    at = [isinstance(effect, kind) for effect in effects].index(True)
    written = [
        json.loads(effect.content)["marked"]
        for effect in effects[:at]
        if isinstance(effect, WriteJournal) and effect.page == INTAKE_PAGE
    ]
    return written[-1] if written else None


def fingerprint(name: str) -> str:
    payload = json.dumps({"id": name, "prompt": "x"}).encode()
    return Delivery(LIMITS.defaults.topics.request("generate"), payload).fingerprint


def test_a_delivery_is_marked_before_it_is_decoded_and_while_it_is_prepared() -> None:
    it = Journaled()
    assert marked(it.deliver("a"), Decode) == [fingerprint("a")]
    assert it.pages[INTAKE_PAGE]["marked"] == [fingerprint("a")]
    it.take(Prepared(1, [1]))
    assert it.pages[INTAKE_PAGE]["marked"] == []


def test_beside_the_one_that_is_prepared_only_the_one_that_is_decoded_is_marked() -> None:
    it = Journaled()
    it.deliver("a")
    effects = it.deliver("b")
    assert marked(effects, Decode) == sorted([fingerprint("a"), fingerprint("b")])
    assert it.pages[INTAKE_PAGE]["marked"] == [fingerprint("a")]


def test_the_next_request_is_marked_before_it_is_prepared() -> None:
    it = Journaled()
    it.deliver("a")
    it.deliver("b")
    effects = it.take(Prepared(1, [1]))
    assert marked(effects, Prepare) == [fingerprint("b")]


def test_equal_messages_are_one_mark() -> None:
    it = Journaled()
    it.deliver("a")
    assert marked(it.deliver("a"), Decode) is None, "it stood there already"
    assert it.pages[INTAKE_PAGE]["marked"] == [fingerprint("a")]


def test_a_start_is_written_then_synced_and_only_then_made() -> None:
    it = Journaled()
    it.deliver("a")
    effects = it.take(Prepared(1, [1]))
    assert kinds(effects) == [SyncJournal]
    writes = [effect.page for effect in effects[:-1] if isinstance(effect, WriteJournal)]
    assert writes[-1] == STARTS_PAGE
    assert list(it.pages[STARTS_PAGE]["starts"].values()) == [1]
    assert kinds(it.take(Synced(1))) == [Start]


def test_an_end_is_written_before_the_reply_which_is_confirmed_before_the_acknowledgement() -> None:
    it = Journaled()
    run = it.start()
    effects = it.take(Finished(run, Answer("x", FinishReason.STOP), 1.0))
    assert isinstance(effects[0], WriteJournal)
    written = json.loads(effects[0].content)
    assert (len(written["starts"]), len(written["answered"])) == (0, 1)
    assert kinds(effects) == [Publish]
    (reply,) = (effect for effect in effects if isinstance(effect, Publish))
    assert reply.handle is not None
    assert kinds(it.take(Confirmed(reply.handle))) == [Acknowledge]


def unknown_events(run: Generation) -> list[Event]:
    """Every event about a request, for one that has ended."""
    return [
        Decoded(make_request()),
        Prepared(run.key, [1]),
        Synced(run.key),
        Fragment(run.key, 0, "x"),
        Finished(run, Answer("x", FinishReason.STOP), 1.0),
        Paused(run),
        Confirmed(7),
        Confirmed(7, failure="refused"),
    ]


@pytest.mark.parametrize("index", range(8))
def test_an_event_about_what_has_ended_or_is_unknown_changes_nothing(index: int) -> None:
    it = Journaled()
    run = it.start()
    it.take(Finished(run, Answer("x", FinishReason.STOP), 1.0))
    before = it.node.metrics.snapshot()
    assert it.take(unknown_events(run)[index]) == []
    assert it.node.metrics.snapshot() == before
    assert it.node.num_unconfirmed == 1


def test_only_the_request_that_is_prepared_can_have_been() -> None:
    it = Journaled()
    it.deliver("a")
    it.deliver("b")
    assert it.take(Prepared(2, [1])) == []
    assert kinds(it.take(Prepared(1, [1]))) == [Prepare, SyncJournal]


def test_an_abandoned_node_blames_nobody_and_starts_nothing() -> None:
    it = Journaled()
    it.start("runs")
    it.deliver("prepared")
    effects = it.take(Abandon())
    assert kinds(effects) == []
    assert it.pages[INTAKE_PAGE]["marked"] == []
    assert it.pages[STARTS_PAGE]["starts"] == {}
    assert kinds(it.take(Prepared(2, [1]))) == []
    assert kinds(it.take(Tick())) == []


def test_while_it_drains_nothing_further_is_prepared() -> None:
    it = Journaled()
    it.deliver("a")
    it.deliver("b")
    it.take(Drain())
    assert kinds(it.take(Prepared(1, [1]))) == []
    assert it.pages[INTAKE_PAGE]["marked"] == []


def test_a_cancel_goes_to_the_generation_that_runs() -> None:
    it = Journaled()
    run = it.start("a")
    assert Cancel(run.key) in it.deliver("a", "cancel")
