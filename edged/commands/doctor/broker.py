"""Check the broker: reachable, accepts this node, lets it publish, confirms without delay.

Rule: the daemon may be running at the same time, so this client has an identifier of its own, and
publishes nothing that is retained, and no request that costs anything.
"""

import socket
import ssl
import statistics
import time
from collections.abc import Iterator, Sequence

from edged.commands.doctor.accounts import NOBODY, check_accounts
from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.commands.doctor.offline import open_listener
from edged.commands.doctor.probe import WAIT_S, Probe
from edged.commands.sync_client import SyncClient
from edged.config.broker_url import BrokerAddress
from edged.config.keys import IDENTITY_REQUIRED, BrokerConfig, Config
from edged.daemon.client_id import passing_id
from edged.daemon.invocation import configured_broker
from edged.daemon.wiring import own_filters, topics_of
from edged.errors import EdgedError
from edged.protocol.wire import ClientTopics
from edged.transport.settings import BrokerSettings

_ROUNDS = 20
# Messages sent at once: a broker without TCP_NODELAY holds back its second answer until the first
# one's TCP ACK, which Linux delays by 40 ms.
_BURST = 3
_DELAY_S = 0.03
_SLOW_ROUNDS = 4
_SOON_S = 14 * 86400.0


def check_broker(config: Config) -> Iterator[Finding]:
    """Connect as the node would, under another client identifier."""
    broker, filters = config.broker, own_filters(config)[:2]
    try:
        client = SyncClient(_settings(config, filters), filters)
    except EdgedError as error:
        yield failure("broker", str(error), "correct the file that it names, or its owner")
        return
    if broker.tls:
        yield from _certificate(broker)
    with client:
        probe = Probe(client, _nobody(config))
        connected = probe.connect()
        if isinstance(connected, str):
            yield failure("broker", connected, "correct broker.* in the configuration; see above")
            return
        who = broker.username or "clients without a password"
        version = connected.protocol_version
        yield good("broker", f"{client.settings.address.url} accepts {who}, MQTT {version}")
        yield _authentication(broker)
        yield from check_accounts(config, probe)
        yield from _permissions(probe, has_reasons=version == "5")
        yield _delay(probe)


def _nobody(config: Config) -> ClientTopics:
    """Return topics that the node may publish to, and that nobody subscribes to."""
    has_accounts = config.broker.username or config.security.identity == IDENTITY_REQUIRED
    return topics_of(config).client(NOBODY if has_accounts else None)


def _settings(config: Config, filters: Sequence[str]) -> BrokerSettings:
    broker = config.broker
    return BrokerSettings(
        address=configured_broker(broker),
        client_id=passing_id(config, "doctor"),
        ca_file=broker.ca_file,
        protocol=broker.protocol,
        session_expiry_s=0,
        optional_filters=frozenset(filters[1:]),
    )


def _authentication(broker: BrokerConfig) -> Finding:
    if broker.username is None and not broker.is_local:
        return warning(
            "authentication",
            "the broker is on another machine and accepts edged without a password",
            "give every client an account: deploy/mosquitto/edged-lan.conf",
        )
    if broker.username is not None and not broker.tls and not broker.is_local:
        return warning(
            "authentication",
            "the password crosses the network in clear text",
            "use TLS: broker.tls and broker.ca_file",
        )
    if broker.username is not None:
        return good("authentication", "by password")
    place = open_listener(broker.port)
    if place is not None:
        return warning(
            "authentication",
            f"the broker accepts clients without a password, and listens for others on {place}",
            "have it listen for this machine only: deploy/mosquitto/edged.conf; or give every"
            " client an account: deploy/mosquitto/edged-lan.conf",
        )
    return good("authentication", "local connections only")


def _permissions(probe: Probe, *, has_reasons: bool) -> Iterator[Finding]:
    """Publish to the topics of replies and fragments, below a name that nobody subscribes to."""
    for kind in ("response", "stream"):
        topic = f"{probe.topics.root}/{kind}/doctor"
        _, refusal = probe.publish(topic)
        if refusal is not None:
            yield failure(
                f"access {kind}",
                f"{topic}: {refusal}",
                "let the node publish there: deploy/mosquitto/edged.acl",
            )
        elif has_reasons:
            yield good(f"access {kind}", f"may publish to {probe.topics.root}/{kind}/#")
    if not has_reasons:
        yield warning(
            "access",
            "over MQTT 3.1.1 a broker does not report what it denies",
            "ask a question with edged ask; if no reply comes, check the broker's access list",
        )


def _delay(probe: Probe) -> Finding:
    """Time single messages and bursts: only a burst reveals Nagle's algorithm in the broker."""
    topic = f"{probe.topics.root}/response/doctor"
    singles_s = [probe.publish(topic)[0] for _ in range(_ROUNDS)]
    bursts_s = [probe.publish(topic, _BURST)[0] for _ in range(_ROUNDS)]
    usual_s = statistics.median(singles_s)
    figures = {
        "echo_ms": round(usual_s * 1e3, 2),
        "worst_burst_ms": round(max(bursts_s) * 1e3, 2),
    }
    num_slow = sum(burst_s > usual_s + _DELAY_S for burst_s in bursts_s)
    # A busy machine or network delays single messages as well.
    num_noisy = sum(single_s > usual_s + _DELAY_S for single_s in singles_s)
    if num_slow - num_noisy >= _SLOW_ROUNDS:
        return warning(
            "delay",
            f"{num_slow} of {_ROUNDS} bursts took {figures['worst_burst_ms']:.0f} ms, one message"
            f" {figures['echo_ms']:.1f} ms: the broker delays its packets",
            "put set_tcp_nodelay true into mosquitto.conf: deploy/mosquitto/edged.conf",
            **figures,
        )
    return good(
        "delay", f"the broker confirms a message after {figures['echo_ms']:.1f} ms", **figures
    )


def _certificate(broker: BrokerConfig) -> Iterator[Finding]:
    """Check how long the broker's certificate is valid; ``connect`` checks whether it is now."""
    place = BrokerAddress(broker.host, broker.port, is_tls=True).url
    try:
        context = ssl.create_default_context(cafile=broker.ca_file)
        with (
            socket.create_connection((broker.host, broker.port), timeout=WAIT_S) as raw,
            context.wrap_socket(raw, server_hostname=broker.host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
            version = wrapped.version()
    except (OSError, UnicodeError):  # ``connect`` says why; the second is a host that is no name
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
