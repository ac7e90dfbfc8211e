"""The broker: reachable, lets this node in, lets it write, answers without delay.

Rule: the daemon may be running meanwhile, so this is a client with a name of its own; nothing that
it publishes is retained or asks anybody anything.
"""

import queue
import socket
import ssl
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.config import BrokerConfig, Config
from edged.config.broker_url import BrokerAddress
from edged.daemon.invocation import read_password
from edged.errors import EdgedError
from edged.protocol import Encoded, Topics, WireProperties
from edged.transport import (
    BrokerSettings,
    Connected,
    ConnectFailed,
    Published,
    Transport,
    TransportEvent,
)

WAIT_S = 15.0
"""Longest wait for one word of the broker."""
_ROUNDS = 20
_BURST = 3
"""Messages sent at once: a broker without TCP_NODELAY holds its second answer back until the first
is acknowledged, which Linux does 40 ms later."""
_DELAY_S = 0.03
_SLOW_ROUNDS = 4
_SOON_S = 14 * 86400.0
_MESSAGE = b'{"v": 1, "doctor": true}'


@dataclass
class Probe:
    """A connection to the broker, and what came of it."""

    settings: BrokerSettings
    topics: Topics
    arrived: "queue.SimpleQueue[tuple[float, TransportEvent]]" = field(
        default_factory=queue.SimpleQueue
    )

    def __post_init__(self) -> None:
        self._transport = Transport(
            self.settings,
            subscriptions=[self.topics.request_filter],
            will=None,
            emit=lambda event: self.arrived.put((time.perf_counter(), event)),
        )

    def connect(self) -> Connected | str:
        """Connect and subscribe; the reason when that fails."""
        self._transport.start()
        try:
            while True:
                _, event = self.arrived.get(timeout=WAIT_S)
                if isinstance(event, Connected):
                    return event
                if isinstance(event, ConnectFailed):
                    return event.reason
        except queue.Empty:
            return f"{self.settings.url} does not answer"

    def publish(self, topic: str, number: int = 1) -> tuple[float, str | None]:
        """Publish at once and wait for all confirmations; return how long, and a refusal."""
        message = Encoded(topic, _MESSAGE, WireProperties())
        started_s = time.perf_counter()
        waiting = {self._transport.publish(message, qos=1) for _ in range(number)}
        refusal = None
        at_s = started_s
        while waiting:
            try:
                at_s, event = self.arrived.get(timeout=WAIT_S)
            except queue.Empty:
                return WAIT_S, "no confirmation"
            if isinstance(event, Published):
                waiting.discard(event.handle)
                refusal = refusal or event.failure
        return at_s - started_s, refusal

    def close(self) -> None:
        """Disconnect."""
        self._transport.stop(timeout_s=1.0)


def check_broker(config: Config) -> Iterator[Finding]:
    """Connect as the node would, under another client identifier."""
    broker = config.broker
    try:
        probe = Probe(_settings(config), Topics(config.prefix, config.node))
    except EdgedError as error:
        yield failure("broker", str(error), "correct the file that it names, or its owner")
        return
    if broker.tls:
        yield from _certificate(broker)
    try:
        connected = probe.connect()
        if isinstance(connected, str):
            yield failure("broker", connected, "correct broker.* in the configuration; see above")
            return
        yield good(
            "broker",
            f"{probe.settings.url} lets {_who(broker)} in, MQTT {connected.protocol_version}",
        )
        yield _identity(broker)
        yield from _permissions(probe, is_told=connected.protocol_version == "5")
        yield _delay(probe)
    finally:
        probe.close()


def _settings(config: Config) -> BrokerSettings:
    broker = config.broker
    return BrokerSettings(
        host=broker.host,
        port=broker.port,
        client_id=f"{config.client_id}-doctor",
        username=broker.username,
        password=read_password(broker),
        is_tls=broker.tls,
        ca_file=broker.ca_file,
        protocol=broker.protocol.value,
        session_expiry_s=0,
    )


def _who(broker: BrokerConfig) -> str:
    return "anybody" if broker.username is None else broker.username


def _identity(broker: BrokerConfig) -> Finding:
    is_local = broker.host in ("localhost", "127.0.0.1", "::1")
    if broker.username is None and not is_local:
        return warning(
            "authentication",
            "the broker is on another machine and takes edged without a password",
            "give every client an account: deploy/mosquitto/edged-lan.conf",
        )
    if broker.username is not None and not broker.tls and not is_local:
        return warning(
            "authentication",
            "the password crosses the network readable",
            "use TLS: broker.tls and broker.ca_file",
        )
    return good("authentication", "by password" if broker.username else "this machine only")


def _permissions(probe: Probe, *, is_told: bool) -> Iterator[Finding]:
    """Write where replies and fragments go; nobody listens under this name."""
    for kind in ("response", "stream"):
        topic = f"{probe.topics.root}/{kind}/doctor"
        _, refusal = probe.publish(topic)
        if refusal is not None:
            yield failure(
                f"access {kind}",
                f"{topic}: {refusal}",
                "let the node write there: deploy/mosquitto/edged.acl",
            )
        elif is_told:
            yield good(f"access {kind}", f"may write {probe.topics.root}/{kind}/#")
    if not is_told:
        yield warning(
            "access",
            "over MQTT 3.1.1 a broker does not say what it forbids",
            "ask a question over MQTT: edged ask; without a reply, look at the access list",
        )


def _delay(probe: Probe) -> Finding:
    """Time single messages and bursts: only a burst shows Nagle's algorithm in the broker."""
    topic = f"{probe.topics.root}/response/doctor"
    singles_s = [probe.publish(topic)[0] for _ in range(_ROUNDS)]
    bursts_s = [probe.publish(topic, _BURST)[0] for _ in range(_ROUNDS)]
    usual_s = statistics.median(singles_s)
    figures = {
        "echo_ms": round(usual_s * 1e3, 2),
        "worst_burst_ms": round(max(bursts_s) * 1e3, 2),
    }
    num_slow = sum(burst_s > usual_s + _DELAY_S for burst_s in bursts_s)
    # A machine or network that is busy delays single messages, too.
    num_noisy = sum(single_s > usual_s + _DELAY_S for single_s in singles_s)
    if num_slow - num_noisy >= _SLOW_ROUNDS:
        return warning(
            "delay",
            f"{num_slow} of {_ROUNDS} bursts took {figures['worst_burst_ms']:.0f} ms, one message"
            f" {figures['echo_ms']:.1f} ms: the broker waits before it sends",
            "set_tcp_nodelay true in mosquitto.conf: deploy/mosquitto/edged.conf",
            **figures,
        )
    return good(
        "delay", f"the broker confirms a message after {figures['echo_ms']:.1f} ms", **figures
    )


def _certificate(broker: BrokerConfig) -> Iterator[Finding]:
    """Read how long the broker's certificate holds; whether it holds now, ``connect`` tells."""
    place = BrokerAddress(broker.host, broker.port, is_tls=True).url
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        with (
            socket.create_connection((broker.host, broker.port), timeout=WAIT_S) as raw,
            context.wrap_socket(raw, server_hostname=broker.host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
            version = wrapped.version()
    except OSError:
        return
    until = str(certificate.get("notAfter", ""))
    left_s = ssl.cert_time_to_seconds(until) - time.time()
    days = int(left_s // 86400)
    if left_s < _SOON_S:
        yield warning(
            "certificate",
            f"{place}: valid for {days} more days",
            "renew the broker's certificate before then",
            days_left=days,
        )
    else:
        yield good("certificate", f"{place}: {version}, valid for {days} days", days_left=days)
