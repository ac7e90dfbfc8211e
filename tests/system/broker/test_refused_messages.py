"""Messages over which a broker disconnects: the node recovers, other clients are answered."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edged.commands.local_broker import Broker
from edged.protocol.topic import MAX_LEVELS, MAX_TOPIC_BYTES, refuse_topic
from edged.protocol.wire import Encoded, WireProperties
from edged.transport.events import Connected, Disconnected, Published
from edged.transport.settings import Will
from tests.system.broker.closing_broker import ClosingBroker
from tests.system.broker.daemons import daemon, serve_arguments
from tests.system.broker.peer import new_id, peer
from tests.system.broker.test_events import next_event
from tests.system.broker.wire_ends import Peer, connected, settings
from tests.tiny_model import write_tiny_bundle

AVAILABILITY = "edged/kitchen/availability"
REPLY = "edged/kitchen/response/generate"
NO_PROPERTIES = WireProperties()
MALFORMED, SHUTTING_DOWN = 0x81, 0x8B
QUICK = {"retry_min_s": 0.01, "retry_max_s": 0.02}


def message(topic: str, payload: bytes = b"x") -> Encoded:
    return Encoded(topic, payload, NO_PROPERTIES)


def node_at(place: Broker, *filters: str) -> Peer:
    """Return a transport that publishes its availability on each connection, as a node does."""
    peer = Peer(
        settings(place, "node", **QUICK),
        *filters,
        will=Will(AVAILABILITY, b"offline"),
        is_started=False,
    )
    take = peer.transport._emit

    def emit(event: object) -> None:
        if isinstance(event, Connected):
            peer.transport.publish(message(AVAILABILITY, b"online"), retain=True)
        take(event)  # type: ignore[arg-type]

    peer.transport._emit = emit
    peer.transport.start()
    return peer


def outcomes(node: Peer, handles: list[int]) -> dict[int, str | None]:
    """Wait until each message is reported, except those of the availability."""
    told: dict[int, str | None] = {}
    while len(told) < len(handles):
        published = node.expect(Published, lambda event: event.handle in handles)
        assert published.handle not in told, "reported twice"
        told[published.handle] = published.failure
    return told


@pytest.mark.parametrize("filters", [(), ("edged/kitchen/request/+",)])
@pytest.mark.parametrize(("protocol", "reason"), [("5", MALFORMED), ("5", None), ("3.1.1", None)])
def test_a_message_over_which_the_broker_disconnects_is_given_up(
    protocol: str, reason: int | None, filters: tuple[str, ...]
) -> None:
    with ClosingBroker(protocol, lambda _, payload: payload == b"7", reason) as broker:
        node = node_at(broker.place, *filters)
        handles = [node.transport.publish(message(REPLY, b"%d" % i)) for i in range(30)]
        told = outcomes(node, handles)
        last = node.transport.publish(message(REPLY, b"last"))
        assert outcomes(node, [last]) == {last: None}
        node.stop()
        num_breaks = 2 if reason else 10
        assert told.pop(handles[7]) == (
            f"given up: the broker ended the connection on it {num_breaks} times; topic '{REPLY}'"
        )
        assert set(told.values()) == {None}
        assert num_breaks <= broker.num_closed <= num_breaks + 2
        taken = Counter(broker.taken)
        assert all(taken[b"%d" % i] >= 1 for i in range(30) if i != 7)
        assert not any(isinstance(it, Disconnected) and it.retry_in_s > 0.02 for it in node.seen)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_random_disconnects_lose_no_message(protocol: str) -> None:
    chance = random.Random(11)
    with ClosingBroker(protocol, lambda *_: chance.random() < 0.4) as broker:
        node = node_at(broker.place)
        handles = [node.transport.publish(message(REPLY, b"%d" % i)) for i in range(30)]
        assert set(outcomes(node, handles).values()) == {None}
        node.stop()
        assert set(broker.taken) >= {b"%d" % i for i in range(30)}
        assert broker.num_closed > 10


def test_repeated_broker_shutdowns_lose_no_message() -> None:
    num_left = iter(range(30))
    closes = lambda _, payload: payload == b"x" and next(num_left, None) is not None  # noqa: E731
    with ClosingBroker("5", closes, SHUTTING_DOWN) as broker:
        node = node_at(broker.place)
        handle = node.transport.publish(message(REPLY))
        assert outcomes(node, [handle]) == {handle: None}
        node.stop()
        assert broker.num_closed == 30


def test_messages_in_flight_expire_while_disconnected() -> None:
    closes = lambda _, payload: payload == b"x"  # noqa: E731
    with ClosingBroker("5", closes, SHUTTING_DOWN) as broker:
        node = node_at(broker.place)
        reply = Encoded(REPLY, b"x", WireProperties(message_expiry_s=1))
        handle = node.transport.publish(reply)
        assert outcomes(node, [handle]) == {handle: "expired while it waited for the broker"}
        node.stop()


@pytest.mark.parametrize("retain", [False, True])
def test_a_refused_state_message_does_not_cause_endless_reconnects(retain: bool) -> None:
    state = "edged/kitchen/state"
    with ClosingBroker("3.1.1", lambda topic, _: topic == state) as broker:
        node = node_at(broker.place)
        node.expect(Connected)
        while True:
            node.transport.publish(message(state), qos=0, retain=retain)
            event = node.expect(Published, lambda event: event.handle != 0)
            if event.failure is not None and event.failure.startswith("given up"):
                break
        num_closed = broker.num_closed
        node.transport.publish(message(state), qos=0, retain=retain)
        last = node.transport.publish(message(REPLY))
        assert outcomes(node, [last]) == {last: None}
        node.stop()
        assert broker.num_closed == num_closed


@pytest.mark.parametrize("topic", ["reply/\x85", "reply/\uffff", "reply/\ufdd0", "a/" * 240 + "a"])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_mosquitto_refuses_one_message_and_accepts_those_before_and_after_it(
    mosquitto: Broker, protocol: str, topic: str
) -> None:
    assert refuse_topic(topic) is not None
    mosquitto.protocol = protocol
    node = node_at(mosquitto)
    topics = [REPLY, REPLY, topic, REPLY, REPLY]
    handles = [node.transport.publish(message(topic)) for topic in topics]
    told = list(outcomes(node, handles).items())
    node.stop()
    [(handle, failure)] = [(handle, failure) for handle, failure in told if failure is not None]
    assert handle == handles[2]
    assert (failure or "").startswith("given up: ")


@pytest.mark.parametrize("topic", ["a/+", "#", "reply/\ud800", "a" * 70_000])
@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_message_that_mqtt_cannot_encode_is_reported_and_never_sent(
    mosquitto: Broker, protocol: str, topic: str
) -> None:
    mosquitto.protocol = protocol
    with connected(settings(mosquitto, "node")) as node:
        bad, good = (node.transport.publish(message(name)) for name in (topic, REPLY))
        told = outcomes(node, [bad, good])
        assert told[good] is None
        assert (told[bad] or "").startswith("not a valid MQTT message: ")
        assert not any(isinstance(event, Disconnected) for event in node.seen)


CHARACTERS = st.one_of(
    st.characters(), st.sampled_from("/ \x7f\x85\x9f\xa0\ufdd0\ufeff\ufffd\ufffe\U0010ffff")
)
TOPICS = st.one_of(
    st.text(CHARACTERS, max_size=40),
    st.lists(st.text(CHARACTERS, max_size=6), max_size=MAX_LEVELS + 2).map("/".join),
    st.text(CHARACTERS, min_size=1, max_size=4).map(lambda text: (text * 256)[:MAX_TOPIC_BYTES]),
)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_mosquitto_accepts_every_allowed_topic(mosquitto: Broker, protocol: str) -> None:
    mosquitto.protocol = protocol
    tried: set[str] = set()
    with connected(settings(mosquitto, "node")) as node:

        @hypothesis_settings(
            max_examples=500, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(TOPICS.filter(lambda topic: refuse_topic(topic) is None))
        def take(topic: str) -> None:
            tried.add(topic)
            handle = node.transport.publish(message(topic))
            assert outcomes(node, [handle]) == {handle: None}

        take()
        assert not any(isinstance(event, Disconnected) for event in node.seen)
    assert len(tried) > 100


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_reply_topic_that_no_broker_accepts_affects_no_other_request(
    mosquitto: Broker, protocol: str, tmp_path: Path
) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    request = "edged/kitchen/request/generate"
    topics = ["reply/\x85", "reply/\uffff", "reply/\ufdd0", "reply/" + "a/" * 240]
    with (
        daemon(tmp_path, *serve_arguments(bundle, mosquitto.url)) as process,
        peer(mosquitto.port, protocol, "edged/kitchen/response/#", "edged/kitchen/event") as client,
    ):
        process.until("STATUS=serving")
        for topic in topics:
            client.publish(request, {"prompt": "x", "max_tokens": 1, "response_topic": topic})
            assert next_event(client, "dropped")["reason"] == "forbidden_topic"
        name = new_id()
        client.publish(request, {"id": name, "prompt": "x", "max_tokens": 1})
        while (came := client.message()).topic != REPLY:
            pass
        reply = json.loads(came.payload)
        assert (reply["id"], reply["status"]) == (name, "ok")
        assert process.stop() == 0
        assert "disconnected" not in process.log
