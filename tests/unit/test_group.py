"""A node in a group: joined when its own message comes back, refused when it does not."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from edged.daemon.group import (
    PROBE_LIMIT_S,
    Connections,
    Group,
    Membership,
    group_filters,
    probe_topic,
)
from edged.protocol.wire import Delivery, Topics
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published
from tests.fakes import Bench, FakeTransport

if TYPE_CHECKING:
    from edged.daemon.former_session import FormerSession
    from edged.transport.network import Transport

TOPICS = Topics("edged", "kitchen", "lab")
REQUEST = "edged/group/lab/request/generate"
PROBE = "edged/group/lab/probe/kitchen"
UP = Connected(1, is_session_present=False, protocol_version="5")


class FakeLine(FakeTransport):
    """A connection that can be stopped, without waiting for it."""

    is_running = True

    def request_stop(self, timeout_s: float) -> None:
        self.is_running = False

    def is_alive(self) -> bool:
        return self.is_running


class NamedLine(FakeTransport):
    """A connection under a client identifier."""

    def __init__(self, client_id: str) -> None:
        super().__init__()
        self.settings = SimpleNamespace(client_id=client_id)


class Stage:
    """A member of a group, with fakes all around."""

    def __init__(self) -> None:
        self.bench, self.line = Bench(), FakeLine()
        self.group = Group(cast("Transport", self.line), TOPICS, self.bench.driver)

    def probe_back(self, payload: bytes | None = None) -> None:
        sent = self.line.sent[-1].message
        assert sent.topic == PROBE
        self.group.take(Delivery(PROBE, payload or sent.payload, qos=1))

    @property
    def events(self) -> list[str]:
        return [sent.json["event"] for sent in self.bench.transport.on("/event")]


def test_the_probe_has_a_share_of_its_own() -> None:
    assert probe_topic(TOPICS) == PROBE
    assert group_filters(TOPICS) == [
        f"$share/edged-probe-kitchen/{PROBE}",
        "$share/edged-lab/edged/group/lab/client/+/request/+",
        "$share/edged-lab/edged/group/lab/request/+",
    ]


def test_a_probe_that_comes_back_makes_a_member() -> None:
    stage = Stage()
    assert stage.group.next_tick_s() == float("inf")
    stage.group.take(UP)
    assert stage.group.next_tick_s() == stage.bench.clock() + PROBE_LIMIT_S
    stage.probe_back()
    stage.bench.clock.advance(60)
    stage.group.tick()
    assert stage.group.membership is Membership.JOINED
    assert stage.events == ["group_joined"]
    assert [delivery.topic for delivery in stage.line.acknowledged] == [PROBE]


def test_a_probe_of_an_earlier_connection_is_not_the_one() -> None:
    stage = Stage()
    stage.group.take(UP)
    stage.probe_back(b"old")
    assert stage.group.membership is Membership.JOINING


def test_without_the_probe_the_group_is_left_and_the_node_lives() -> None:
    stage = Stage()
    stage.group.take(UP)
    stage.bench.clock.advance(PROBE_LIMIT_S)
    stage.group.tick()
    assert stage.group.membership is Membership.REFUSED
    assert stage.events == ["group_refused"]
    assert not stage.line.is_running
    assert stage.group.is_alive


def test_a_broker_that_has_shared_before_is_asked_again_and_not_left() -> None:
    """Its first probe after a reconnect may be late, for a stall of the network."""
    stage = Stage()
    stage.group.take(UP)
    stage.probe_back()
    stage.group.take(Disconnected("gone", 1.0))
    stage.group.take(UP)
    stage.bench.clock.advance(PROBE_LIMIT_S)
    stage.group.tick()
    assert stage.line.is_running
    stage.probe_back()
    assert stage.group.membership is Membership.JOINED
    assert stage.events == ["group_joined", "group_joined"]


@pytest.mark.parametrize(
    "reason",
    [
        "the broker refuses the subscription to $share/edged-lab/edged/group/lab/request/+",
        "the broker ended the connection: Shared subscription not supported",
    ],
)
def test_a_refused_subscription_is_no_reason_to_try_for_ever(reason: str) -> None:
    stage = Stage()
    stage.group.take(ConnectFailed(reason, 1.0))
    assert stage.group.membership is Membership.REFUSED
    (event,) = stage.bench.transport.on("/event")
    assert event.json["detail"] == reason
    assert not stage.line.is_running
    for late in (Disconnected("gone", 1.0), UP):
        stage.group.take(late)
    stage.group.tick()
    assert stage.group.is_alive, "what was in the inbox by then changes nothing"
    assert stage.events == ["group_refused"]


@pytest.mark.parametrize("event", [Disconnected("gone", 1.0), ConnectFailed("nobody there", 1.0)])
def test_without_a_connection_it_waits_and_joins_again(
    event: Disconnected | ConnectFailed, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.group.take(UP)
    stage.probe_back()
    stage.group.take(event)
    assert stage.group.membership is Membership.JOINING
    assert event.reason in caplog.text
    stage.bench.clock.advance(60)
    stage.group.tick()
    stage.group.take(UP)
    stage.probe_back()
    assert stage.events == ["group_joined", "group_joined"]


def test_a_probe_that_the_broker_does_not_take_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.group.take(Published(1))
    stage.group.take(Published(2, failure="Not authorized"))
    assert caplog.text.count("the probe") == 1


def test_a_request_of_the_group_is_acknowledged_where_it_came_from() -> None:
    own, shared = NamedLine("own"), NamedLine("shared")
    former = FakeTransport()
    lines = Connections(
        cast("Transport", own), cast("Transport", shared), cast("FormerSession", former)
    )
    topic = "edged/kitchen/request/generate"
    mine, ours = Delivery(topic, b"", client_id="own"), Delivery(REQUEST, b"", client_id="shared")
    older = Delivery(topic, b"", client_id="before")
    for delivery in (mine, ours, older):
        lines.acknowledge(delivery)
    assert (own.acknowledged, shared.acknowledged) == ([mine], [ours])
    assert former.acknowledged == [older]


def test_a_request_of_the_group_is_answered_by_the_node() -> None:
    stage = Stage()
    defaults = stage.bench.limits.defaults
    assert defaults.topics.read_request(REQUEST) is None
    assert TOPICS.read_request(REQUEST) == ("generate", None, "edged/group/lab")
    assert TOPICS.read_request("edged/kitchen/request/cancel") == ("cancel", None, "edged/kitchen")
    assert TOPICS.read_request("edged/group/lab/request/") is None
    assert TOPICS.read_request("edged/group/other/request/generate") is None
    stage.group.take(Delivery(REQUEST, b'{"prompt": "x"}', qos=1))
    assert stage.events == ["dropped"]  # a node without this group does not take it
