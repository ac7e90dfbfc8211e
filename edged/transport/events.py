"""The inputs and events of the transport: plain data, no paho.

Rule: the consumer can act on each event alone; an event about a connection carries its epoch.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edged.config.broker_url import BrokerAddress
from edged.protocol import Delivery

PublishHandle = int
"""Identifies one published message for the life of the process; never reused."""


class Blame(Enum):
    """The cause of a broken connection, as far as the broker states it."""

    MESSAGE = "message"
    """A packet of ours: the broker's reason code says so."""
    UNKNOWN = "unknown"
    """The connection just closed."""
    OTHER = "other"
    """Not a packet of ours: a session taken over, a shutdown, a keep-alive timeout."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Address of the broker, and the parameters of the connection."""

    host: str
    port: int
    client_id: str
    """Fixed for a node: the broker keeps its session under this identifier."""
    username: str | None = None
    password: str | None = None
    is_tls: bool = False
    ca_file: Path | None = None
    """CA certificates (PEM) to verify the broker with; None uses the system's."""
    protocol: str = "auto"
    """``5``, ``3.1.1``, or ``auto``: 5 first, 3.1.1 if the broker does not support it."""
    keepalive_s: int = 30
    receive_maximum: int = 20
    """Deliveries the broker may have unacknowledged at a time (MQTT 5)."""
    max_packet_bytes: int = 65536
    """The broker discards larger packets instead of delivering them (MQTT 5)."""
    session_expiry_s: int = 3600
    """How long the broker keeps the session of a disconnected client; 0 starts a clean one."""
    optional_filters: frozenset[str] = frozenset()
    """Subscriptions that the broker may refuse; logged, and the connection stays."""
    wants_retained: bool = False
    """Receive the retained messages of the subscribed topics."""
    handshake_timeout_s: float = 10.0
    """For TCP and TLS, and again from CONNECT to SUBACK."""
    retry_min_s: float = 1.0
    retry_max_s: float = 60.0
    """The pause between attempts doubles from the minimum to the maximum, with jitter."""

    @property
    def url(self) -> str:
        """The broker's URL without credentials, for messages."""
        return BrokerAddress(self.host, self.port, self.is_tls).url


@dataclass(frozen=True, slots=True)
class Will:
    """A message the broker publishes when the client is gone; also the farewell at a stop."""

    topic: str
    payload: bytes
    retain: bool = True
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection and the subscriptions; deliveries follow."""

    epoch: int
    """Number of this connection; its deliveries carry it as ``connection_epoch``."""
    is_session_present: bool
    """False on a reconnect means that the broker has lost the session."""
    protocol_version: str
    """``5`` or ``3.1.1``."""
    receive_maximum: int
    """Unacknowledged messages that the broker accepts from this client at a time."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An established connection ended; the transport reconnects by itself."""

    reason: str
    retry_in_s: float
    is_taken_over: bool = False
    """Another client connected with the same client identifier."""


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """An attempt to connect failed; the transport retries without end."""

    reason: str
    """What is wrong and what to do about it."""
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Published:
    """The broker confirmed a message of QoS 1, or it is certain that it never will.

    A message of QoS 0 has one only if it was given up (see ``edged.transport.outbox``).
    """

    handle: PublishHandle
    failure: str | None = None
    """Why the broker does not have it: refused, too large, expired while queued, replaced by a
    newer retained message, or given up because the broker closes the connection on it."""
    has_subscribers: bool = True
    """False when the broker reports no matching subscribers (MQTT 5)."""


TransportEvent = Connected | Disconnected | ConnectFailed | Delivery | Published
