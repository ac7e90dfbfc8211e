"""What the transport is told and what it tells; plain data, no paho.

Rule: the consumer can act on each event alone; an event about a connection carries its epoch.
"""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from edged.protocol import Delivery

PublishHandle = int
"""Names one published message for the life of the process; never reused."""


class Blame(Enum):
    """What ended a connection, as far as the broker says so."""

    MESSAGE = "message"
    """Something that it was sent, by its own words."""
    UNKNOWN = "unknown"
    """It only closed, or the network did."""
    OTHER = "other"
    """Nothing that it was sent: a take-over, a shutdown, silence."""


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is, and the terms of the connection."""

    host: str
    port: int
    client_id: str
    """Fixed for a node: the broker keeps the unacknowledged requests under this name."""
    username: str | None = None
    password: str | None = None
    is_tls: bool = False
    ca_file: Path | None = None
    """Authority (PEM) that signed the broker's certificate; None takes the system's."""
    protocol: str = "auto"
    """``5``, ``3.1.1``, or ``auto``: 5 first, 3.1.1 with a broker that does not speak it."""
    keepalive_s: int = 30
    receive_maximum: int = 20
    """Deliveries the broker may have unacknowledged at a time (MQTT 5)."""
    max_packet_bytes: int = 65536
    """Larger ones never arrive (MQTT 5): the broker discards them."""
    session_expiry_s: int = 3600
    """How long the broker keeps the session of a client that is away; 0 starts a new one."""
    optional_filters: frozenset[str] = frozenset()
    """Subscriptions that the broker may refuse; it is logged, and the connection stays."""
    wants_retained: bool = False
    """Receive the retained messages of the subscribed topics."""
    handshake_timeout_s: float = 10.0
    """For each of: TCP and TLS; CONNECT to the answered SUBSCRIBE."""
    retry_min_s: float = 1.0
    retry_max_s: float = 60.0
    """Pause between attempts: doubles from the first to the second, jittered by up to a half."""

    @property
    def url(self) -> str:
        """Where the broker is, without credentials, for messages."""
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Will:
    """A message for the broker to publish when the client is gone; also a last word at a stop."""

    topic: str
    payload: bytes
    retain: bool = True
    qos: int = 1


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection and has the subscriptions; deliveries come after this."""

    epoch: int
    """Number of this connection; its deliveries carry it as ``connection_epoch``."""
    is_session_present: bool
    """False after a first connection means that the broker has forgotten the session."""
    protocol_version: str
    """``5`` or ``3.1.1``."""
    receive_maximum: int
    """Messages that may be on the way to the broker, unconfirmed, at a time."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A connection that stood is over; the next attempt follows by itself."""

    reason: str
    retry_in_s: float
    is_taken_over: bool = False
    """Another client connected under the same client identifier."""


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """An attempt to connect failed; the next one follows by itself, for ever."""

    reason: str
    """What is wrong and what to do about it."""
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class Published:
    """The broker confirmed a message of QoS 1, or it is certain that it never will."""

    handle: PublishHandle
    failure: str | None = None
    """Why the broker did not take it: refused, too large, expired while it waited, replaced by a
    newer retained one, or given up because the broker ended the connection at it each time. The
    last is told of messages of QoS 0 as well."""
    has_subscribers: bool = True
    """False when the broker says that nobody listens (MQTT 5)."""


TransportEvent = Connected | Disconnected | ConnectFailed | Delivery | Published
