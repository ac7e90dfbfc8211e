"""The transport against real brokers: nothing is lost, nothing hangs, it always reconnects."""

import queue
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import pytest

from edged.commands.local_broker import Broker, free_port, iotcore, mosquitto, running
from edged.errors import UnavailableError
from edged.protocol.wire import Delivery, Encoded, WireProperties
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published, TransportEvent
from edged.transport.network import Transport
from edged.transport.settings import Will
from tests.system.broker.conftest import require_iotcore, require_mosquitto
from tests.system.broker.wire_ends import WAIT_S, Peer, connected, settings

REQUESTS = "edged/kitchen/request/+"
TOPIC = "edged/kitchen/request/generate"
REPLY = "edged/kitchen/response/generate"
NONE = WireProperties()


def message(topic: str, payload: bytes = b"x", properties: WireProperties = NONE) -> Encoded:
    return Encoded(topic, payload, properties)


def test_a_request_is_answered_and_acknowledged_after_its_reply_is_confirmed(
    broker: Broker,
) -> None:
    with (
        connected(settings(broker, "node"), REQUESTS) as node,
        connected(settings(broker, "asker"), REPLY) as asker,
    ):
        properties = WireProperties(
            REPLY, b"\x00\xff", "text/plain", payload_format=1, message_expiry_s=60
        )
        asked = asker.transport.publish(message(TOPIC, b"hello", properties))
        assert asker.expect(Published).handle == asked
        request = node.expect(Delivery)
        assert (request.topic, request.payload, request.qos) == (TOPIC, b"hello", 1)
        assert not request.is_redelivery
        is_5 = broker.protocol == "5"
        assert request.properties == (properties if is_5 else NONE)
        status = WireProperties(correlation_data=b"\x00\xff", user_properties=(("status", "200"),))
        replied = node.transport.publish(message(REPLY, b"hi", status))
        assert node.expect(Published) == Published(replied)
        node.transport.acknowledge(request)
        reply = asker.expect(Delivery)
        assert (reply.payload, reply.properties) == (b"hi", status if is_5 else NONE)
        asker.transport.acknowledge(reply)


def test_unacknowledged_requests_are_redelivered_to_the_next_process(broker: Broker) -> None:
    with connected(settings(broker, "asker")) as asker:
        with connected(settings(broker, "node"), REQUESTS) as node:
            for payload in (b"1", b"2"):
                asker.transport.publish(message(TOPIC, payload))
            first = node.expect(Delivery)
            node.expect(Delivery)
            node.transport.acknowledge(first)
        with connected(settings(broker, "node"), REQUESTS) as node:
            again = node.expect(Delivery)
            assert again.payload == b"2"
            node.transport.acknowledge(again)
            connection = node.seen[0]
            assert isinstance(connection, Connected)
            assert connection.is_session_present


def test_a_request_acknowledged_out_of_order_is_not_redelivered_after_a_stop(
    mosquitto: Broker,
) -> None:
    with connected(settings(mosquitto, "asker")) as asker:
        with connected(settings(mosquitto, "node"), REQUESTS) as node:
            for payload in (b"1", b"2", b"3"):
                asker.transport.publish(message(TOPIC, payload))
            deliveries = [node.expect(Delivery) for _ in range(3)]
            node.transport.acknowledge(deliveries[1])
        with connected(settings(mosquitto, "node"), REQUESTS) as node:
            assert [node.expect(Delivery).payload for _ in range(2)] == [b"1", b"3"]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_after_a_broker_restart_requests_are_redelivered_and_stale_acknowledgements_ignored(
    mosquitto: Broker, protocol: str
) -> None:
    mosquitto.protocol = protocol
    with (
        connected(settings(mosquitto, "node"), REQUESTS) as node,
        connected(settings(mosquitto, "asker")) as asker,
    ):
        for payload in (b"1", b"2", b"3"):
            asker.transport.publish(message(TOPIC, payload))
        old = [node.expect(Delivery) for _ in range(3)]
        mosquitto.restart()
        node.expect(Disconnected)
        node.expect(Connected)
        new = [node.expect(Delivery) for _ in range(3)]
        for delivery in old:
            node.transport.acknowledge(delivery)
        assert {delivery.connection_epoch for delivery in old} == {1}
        assert {delivery.connection_epoch for delivery in new} == {2}
        assert all(delivery.is_redelivery for delivery in new)
        assert [delivery.payload for delivery in new] == [b"1", b"2", b"3"]
        node.transport.acknowledge(new[0])
        node.transport.publish(message(REPLY))  # confirmed after the acknowledgement was sent
        node.expect(Published)
        mosquitto.restart()
        node.expect(Connected)
        assert [node.expect(Delivery).payload for _ in range(2)] == [b"2", b"3"]
        assert node.transport.num_stale_acknowledgements == 3


def test_replies_published_while_the_broker_is_down_arrive_when_it_is_back(broker: Broker) -> None:
    with (
        connected(settings(broker, "node")) as node,
        connected(settings(broker, "asker"), REPLY) as asker,
    ):
        broker.stop()
        node.expect(Disconnected)
        asker.expect(Disconnected)
        handles = {node.transport.publish(message(REPLY, b"%d" % i)) for i in range(40)}
        lost = node.transport.publish(message(REPLY, b"lost"), qos=0)
        node.expect(ConnectFailed)
        broker.start()
        confirmed = {node.expect(Published).handle for _ in handles}
        assert confirmed == handles
        assert lost not in handles
        if broker.name == "mosquitto":  # the other broker keeps no sessions
            for i in range(40):
                reply = asker.expect(Delivery)
                assert reply.payload == b"%d" % i
                asker.transport.acknowledge(reply)
            node.transport.publish(message(REPLY, b"after the lost one"))
            assert asker.expect(Delivery).payload == b"after the lost one"


def test_a_reply_that_expires_while_the_broker_is_down_is_not_sent(mosquitto: Broker) -> None:
    with connected(settings(mosquitto, "node")) as node:
        mosquitto.stop()
        node.expect(Disconnected)
        late = node.transport.publish(message(REPLY, b"", WireProperties(message_expiry_s=0)))
        kept = node.transport.publish(message(REPLY, b"", WireProperties(message_expiry_s=60)))
        mosquitto.start()
        failed = node.expect(Published)
        assert failed == Published(late, "expired while it waited for the broker")
        assert node.expect(Published).handle == kept


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_every_message_of_a_burst_is_confirmed_once_despite_a_broken_connection(
    mosquitto: Broker, protocol: str
) -> None:
    mosquitto.protocol = protocol
    with connected(settings(mosquitto, "node")) as node:
        handles = [node.transport.publish(message(REPLY, b"x" * 1000)) for _ in range(100)]
        mosquitto.stop(signal.SIGKILL)
        handles += [node.transport.publish(message(REPLY)) for _ in range(20)]
        mosquitto.start()
        confirmed = [node.expect(Published).handle for _ in handles]
        assert sorted(confirmed) == handles


WILLING = """
import sys
from edged.config.broker_url import BrokerAddress
from edged.transport.events import Connected
from edged.transport.network import Transport
from edged.transport.settings import BrokerSettings, Will
will = Will("edged/kitchen/availability", b"offline")
def emit(event):
    print(type(event).__name__, flush=True)
settings = BrokerSettings(BrokerAddress("127.0.0.1", int(sys.argv[1])), "node")
Transport(settings, subscriptions=[], will=will, emit=emit).start()
sys.stdin.read()
"""


def test_the_will_is_published_when_the_process_is_killed(mosquitto: Broker) -> None:
    command = [sys.executable, "-c", WILLING, str(mosquitto.port)]
    with (
        connected(settings(mosquitto, "watcher"), "edged/kitchen/availability") as watcher,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"Connected\n"
        process.kill()
        assert watcher.expect(Delivery).payload == b"offline"


def test_a_stop_publishes_offline_and_not_the_will(broker: Broker) -> None:
    will = Will("edged/kitchen/availability", b"offline")
    with connected(settings(broker, "watcher"), "edged/#") as watcher:
        with connected(settings(broker, "node"), will=will) as node:
            node.stop([Will(will.topic, b"farewell")])
            assert not node.transport.is_alive()
        watcher.transport.publish(message("edged/end"))
        assert watcher.expect(Delivery).payload == b"farewell"
        assert watcher.expect(Delivery).topic == "edged/end"


def test_two_clients_with_the_same_client_id_back_off(
    mosquitto: Broker,
) -> None:
    # Long, so that a slow connection on a busy machine does not count as several pauses.
    pauses_s = {"retry_min_s": 0.2, "retry_max_s": 60.0}
    with (
        connected(settings(mosquitto, "node", **pauses_s)) as first,
        connected(settings(mosquitto, "node", **pauses_s)) as second,
    ):
        pauses = [peer.expect(Disconnected).retry_in_s for peer in (first, second) * 4]
        assert pauses[-1] > 4 * pauses[0]


def test_a_port_that_opens_later_is_connected_to(tmp_path: Path) -> None:
    require_mosquitto()
    broker = mosquitto(tmp_path)
    peer = Peer(settings(broker, "node"))
    try:
        for _ in range(3):
            failed = peer.expect(ConnectFailed)
            assert failed.reason.startswith(f"nothing listens at {broker.url}; start the broker")
            assert 0 < failed.retry_in_s <= 0.2
        with running(broker):
            peer.expect(Connected)
    finally:
        peer.stop()


def test_a_wrong_password_is_reported_and_retried(tmp_path: Path) -> None:
    require_mosquitto()
    right, wrong = ({"username": "node", "password": word} for word in ("right", "wrong"))
    with running(mosquitto(tmp_path, users={"node": "right"})) as broker:
        for protocol in ("5", "3.1.1"):
            broker.protocol = protocol
            peer = Peer(settings(broker, "node", **wrong))
            for _ in range(2):
                assert "user name and" in peer.expect(ConnectFailed).reason
            assert peer.transport.is_alive()
            peer.stop()
        with connected(settings(broker, "node", **right)) as node:
            assert node.seen


def test_a_reply_that_is_refused_or_has_no_subscriber_is_reported(tmp_path: Path) -> None:
    require_mosquitto()
    rules = tmp_path / "acl"
    rules.write_text("topic readwrite edged/#\n")
    with (
        running(mosquitto(tmp_path, extra=[f"acl_file {rules}"])) as broker,
        connected(settings(broker, "node")) as node,
    ):
        handle = node.transport.publish(message("elsewhere"))
        refused = node.expect(Published)
        assert refused.handle == handle
        assert refused.failure == "refused by the broker: Not authorized"
        heard = node.transport.publish(message("edged/nobody"))
        assert node.expect(Published) == Published(heard, None, has_subscribers=False)


def test_requests_finished_out_of_order_are_acknowledged_in_order(broker: Broker) -> None:
    """rumqttd, the broker in the iotcore wheel, disconnects at a PUBACK out of order."""
    with (
        connected(settings(broker, "node"), REQUESTS) as node,
        connected(settings(broker, "client")) as client,
    ):
        topic = "edged/kitchen/request/generate"
        for payload in (b"slow", b"quick", b"last"):
            client.transport.publish(message(topic, payload))
        slow, quick, last = (node.expect(Delivery) for _ in range(3))
        for delivery in (quick, slow, last):
            node.transport.acknowledge(delivery)
        client.transport.publish(message(topic, b"after"))
        assert node.expect(Delivery).payload == b"after"
        assert not any(isinstance(event, Disconnected) for event in node.seen)


def test_auto_falls_back_to_3_1_1_and_says_so_in_connected(tmp_path: Path) -> None:
    require_iotcore()
    with (
        running(iotcore(tmp_path)) as broker,
        connected(settings(broker, "node", protocol="auto"), REQUESTS) as node,
    ):
        assert node.seen == [Connected(1, False, "3.1.1")]
        broker.restart()
        again = node.expect(Connected)
        assert (again.epoch, again.protocol_version) == (2, "3.1.1")


def test_auto_takes_5_from_a_broker_that_speaks_it(mosquitto: Broker) -> None:
    with connected(settings(mosquitto, "node", protocol="auto")) as node:
        assert node.seen == [Connected(1, False, "5")]


class ScriptedBroker(threading.Thread):
    """Sends one scripted answer to each CONNECT, reads on if it accepted, and closes."""

    def __init__(self, answers: list[bytes]) -> None:
        super().__init__(daemon=True)
        self.answers = answers
        self.versions: list[int] = []
        self.received = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.place = Broker("scripted", self.listener.getsockname()[1], [], "auto")

    def run(self) -> None:
        for answer in self.answers:
            connection, _ = self.listener.accept()
            with connection:
                self.versions.append(connection.recv(4096)[8])
                connection.sendall(answer)
                if answer.startswith((ACCEPTED, ACCEPTED_5)) and not answer.endswith(TAKEN_OVER):
                    self.received += connection.recv(4096)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.join(WAIT_S)
        self.listener.close()


ACCEPTED = b"\x20\x02\x00\x00"
ACCEPTED_5 = b"\x20\x03\x00\x00\x00"
VERSION_REFUSED = b"\x20\x02\x00\x01"
TAKEN_OVER = b"\xe0\x02\x8e\x00"


def test_a_version_refused_with_a_reason_code_is_not_retried() -> None:
    with ScriptedBroker([VERSION_REFUSED, ACCEPTED, b"\xff" * 8, ACCEPTED]) as old:
        peer = Peer(settings(old.place, "node"))
        peer.expect(Connected)
        peer.transport.publish(message(REPLY))  # never confirmed, so it is sent again
        peer.expect(Disconnected)
        peer.expect(Connected)
        peer.stop()
    assert old.versions == [5, 4, 4, 4]


def test_a_version_without_a_response_is_retried_after_the_other() -> None:
    with ScriptedBroker([b"", ACCEPTED, ACCEPTED_5]) as broker:
        peer = Peer(settings(broker.place, "node"))
        assert peer.expect(Connected).protocol_version == "3.1.1"
        late = peer.transport.publish(message(REPLY))
        assert peer.expect(Connected).protocol_version == "5"
        peer.stop()
        assert late not in {e.handle for e in peer.seen if isinstance(e, Published)}
    assert broker.versions == [5, 4, 5]


def test_a_refused_subscription_is_reported_and_retried() -> None:
    refused = ACCEPTED_5 + b"\x90\x04\x00\x01\x00\x87"
    with ScriptedBroker([refused, refused]) as broker:
        peer = Peer(settings(broker.place, "node"), REQUESTS)
        for _ in range(2):
            reason = peer.expect(ConnectFailed).reason
            assert reason.startswith(f"the broker refuses the subscription to {REQUESTS}; allow")
        peer.stop()


def test_a_subscription_refused_in_a_resumed_session_is_reported() -> None:
    with ScriptedBroker([b"\x20\x03\x01\x00\x00" + b"\x90\x04\x00\x01\x00\x87"]) as broker:
        peer = Peer(settings(broker.place, "node"), REQUESTS)
        assert peer.expect(Connected).is_session_present
        reason = peer.expect(Disconnected).reason
        assert reason.startswith(f"the broker refuses the subscription to {REQUESTS}; allow")
        peer.stop()


def test_a_message_with_an_invalid_utf_8_topic_is_acknowledged() -> None:
    with ScriptedBroker([ACCEPTED + b"\x32\x06\x00\x01\xff\x00\x07x"]) as broker:
        peer = Peer(settings(broker.place, "node", protocol="3.1.1"))
        peer.expect(Disconnected)
        peer.stop()
    assert broker.received == b"\x40\x02\x00\x07"
    assert not any(isinstance(event, Delivery) for event in peer.seen)


def test_connections_that_a_client_with_the_same_identifier_ends_are_counted(
    mosquitto: Broker,
) -> None:
    """Mosquitto 2.0.11 gives no reason; a broker that is away is another thing."""
    with connected(settings(mosquitto, "node")) as first:
        for number in (1, 2, 3):
            with connected(settings(mosquitto, "node", retry_min_s=60.0, retry_max_s=60.0)):
                event = first.expect(Disconnected)
                assert (event.num_closed, event.is_taken_over) == (number, False)
                assert event.reason == "the broker closed the connection without a reason"
                first.expect(Connected)
        mosquitto.stop(signal.SIGKILL)
        first.expect(ConnectFailed)
        mosquitto.start()
        first.expect(Connected)
        with connected(settings(mosquitto, "node", retry_min_s=60.0, retry_max_s=60.0)):
            assert first.expect(Disconnected).num_closed == 1


def test_a_connection_that_breaks_within_a_packet_was_not_closed_by_the_broker() -> None:
    with ScriptedBroker([ACCEPTED_5 + b"\x30"]) as broker:
        peer = Peer(settings(broker.place, "node"))
        peer.expect(Connected)
        peer.transport.publish(message(REPLY))  # the broker closes when it has read something
        event = peer.expect(Disconnected)
        peer.stop()
    assert (event.num_closed, event.reason) == (0, "the connection broke")


def test_after_a_session_takeover_the_reconnect_is_delayed() -> None:
    with ScriptedBroker([ACCEPTED_5 + TAKEN_OVER]) as broker:
        peer = Peer(settings(broker.place, "node"))
        event = peer.expect(Disconnected)
        peer.stop()
    assert event.is_taken_over
    assert event.retry_in_s >= 60
    assert "give each its own" in event.reason


def test_a_silent_port_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = Broker("silent", silent.getsockname()[1], [], "5")
        peer = Peer(settings(place, "node", handshake_timeout_s=0.1))
        reason = peer.expect(ConnectFailed).reason
        assert reason.endswith("did not complete the MQTT handshake in time")
        peer.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"host": "no-such-host.invalid"}, "the host name cannot be resolved"),
        ({"host": "x" * 70}, "the host name cannot be resolved"),
        ({"is_tls": True}, "the TLS handshake with"),
    ],
)
def test_a_wrong_address_is_explained(
    mosquitto: Broker, changes: dict[str, object], reason: str
) -> None:
    peer = Peer(settings(mosquitto, "node", **changes))
    assert reason in peer.expect(ConnectFailed).reason
    peer.stop()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for ``localhost``."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *curve, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_works_with_the_right_ca_and_explains_a_wrong_one(
    tmp_path: Path,
) -> None:
    require_mosquitto()
    key, certificate = make_certificate(tmp_path)
    extra = [f"certfile {certificate}", f"keyfile {key}"]
    large = b"x" * 40_000
    with running(mosquitto(tmp_path, extra=extra)) as broker:
        right = {"is_tls": True, "host": "localhost", "ca_file": certificate}
        with connected(settings(broker, "node", **right), TOPIC) as node:
            node.transport.publish(message(TOPIC, large))
            assert node.expect(Delivery).payload == large
        stranger = Peer(settings(broker, "node", **(right | {"ca_file": None})))
        reason = stranger.expect(ConnectFailed).reason
        assert reason.startswith(f"the certificate of mqtts://localhost:{broker.port} is not")
        assert "set the CA file" in reason
        stranger.stop()


def test_an_unreadable_ca_file_is_named_and_may_appear_later(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.pem"
    place = Broker("none", free_port(), [], "5")
    with pytest.raises(UnavailableError, match=r"broker.ca_file: .*nothing.pem: not a readable"):
        Peer(settings(place, "node", is_tls=True, ca_file=nothing), is_started=False)


def test_only_the_message_above_the_brokers_size_limit_fails(tmp_path: Path) -> None:
    require_mosquitto()
    with (
        running(mosquitto(tmp_path, extra=["max_packet_size 4096"])) as broker,
        connected(settings(broker, "node")) as node,
    ):
        handle = node.transport.publish(message(REPLY, b"x" * 5000))
        assert node.expect(Published) == Published(handle, "larger than the broker accepts")
        # By its size on the wire: all of the limit is used, and properties count as well.
        fitting = message(REPLY, b"x" * (4096 - 7 - 2 - len(REPLY) - 1))
        small = node.transport.publish(fitting)
        published = node.expect(Published)
        assert (published.handle, published.failure) == (small, None)
        properties = WireProperties(correlation_data=bytes(1000))
        handle = node.transport.publish(message(REPLY, fitting.payload, properties))
        assert node.expect(Published) == Published(handle, "larger than the broker accepts")


def test_a_retained_request_is_not_delivered_over_mqtt_5(mosquitto: Broker) -> None:
    with connected(settings(mosquitto, "asker")) as asker:
        asker.transport.publish(message(TOPIC, b"stored"), retain=True)
        asker.expect(Published)
    with connected(settings(mosquitto, "node"), REQUESTS) as node:
        node.transport.publish(message(TOPIC, b"new"))
        assert node.expect(Delivery).payload == b"new"
    with connected(settings(mosquitto, "other", wants_retained=True), REQUESTS) as other:
        stored = other.expect(Delivery)
        assert (stored.payload, stored.retain) == (b"stored", True)


def test_nagles_algorithm_is_off(mosquitto: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[tuple[int, int, int]] = []
    original = socket.socket.setsockopt

    def record(self: socket.socket, *given: int) -> None:
        options.append(given)  # type: ignore[arg-type]
        original(self, *given)

    monkeypatch.setattr(socket.socket, "setsockopt", record)
    with connected(settings(mosquitto, "node")):
        assert (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1) in options


def test_an_exception_in_the_consumer_ends_the_thread_and_is_reported(
    mosquitto: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: queue.SimpleQueue[object] = queue.SimpleQueue()
    monkeypatch.setattr(threading, "excepthook", lambda hook: raised.put(hook.exc_type))

    def fail(event: TransportEvent) -> None:
        raise RuntimeError(event)

    transport = Transport(settings(mosquitto, "node"), subscriptions=[], will=None, emit=fail)
    transport.start()
    assert raised.get(timeout=WAIT_S) is RuntimeError
    transport._thread.join(WAIT_S)
    assert not transport.is_alive()
    transport.stop()


def test_a_stop_without_a_broker_does_not_wait(tmp_path: Path) -> None:
    place = Broker("none", free_port(), [], "5")
    peer = Peer(settings(place, "node", retry_min_s=60.0, retry_max_s=60.0))
    peer.expect(ConnectFailed)
    peer.stop([Will("t", b"bye")])
    assert not peer.transport.is_alive()
    never = Peer(settings(place, "node"), is_started=False)
    never.stop()
    assert not never.transport.is_alive()
