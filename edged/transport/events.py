"""The events of the transport: plain data, no paho.

Rule: the consumer can act on each event alone; an event about a connection carries its epoch.
"""

from dataclasses import dataclass
from enum import Enum, StrEnum

from edged.protocol.wire import Delivery


class Cause(Enum):
    """Why a connection ended or was refused, as far as the broker states it."""

    MESSAGE = "message"
    """A packet of ours: the broker's reason code says so."""
    UNKNOWN = "unknown"
    """The connection just closed."""
    TAKEN_OVER = "taken over"
    """Reconnecting at once would only take the session back from the other client."""
    VERSION = "version"
    """The broker does not support this version of MQTT."""
    UNANSWERED = "unanswered"
    """Closed before CONNACK: some brokers do so with a version they do not support."""
    OTHER = "other"
    """Not a packet of ours: a shutdown, a keep-alive timeout, a refused subscription."""


class BrokerProblem(StrEnum):
    """What is wrong with the connection to the broker, as ``state`` has it."""

    UNREACHABLE = "unreachable"
    """There is none: the broker or the network is down, or the broker refuses this client."""
    BROKEN = "broken"
    """It broke, or the broker ended it for a reason of its own."""
    TAKEN_OVER = "taken_over"
    """Another client connected with the node's client identifier, the broker says."""
    CLOSED_SOON = "closed_soon"
    """The broker accepts connections and closes each soon after, without a reason: as some do when
    another client takes the session."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection and the subscriptions; deliveries follow."""

    epoch: int
    """Number of this connection; its deliveries carry it as ``connection_epoch``."""
    is_session_present: bool
    """False on a reconnect means that the broker has lost the session."""
    protocol_version: str
    """``5`` or ``3.1.1``."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An established connection ended; the transport reconnects by itself."""

    reason: str
    retry_in_s: float
    is_taken_over: bool = False
    """Another client connected with the same client identifier, the broker says."""
    num_closed: int = 0
    """Connections in a row that the broker accepted and closed soon after, without a reason.
    Mosquitto 2.0.11 does so when another client takes the session."""


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

    handle: int
    """Identifies one published message for the life of the process; never reused."""
    failure: str | None = None
    """Why the broker does not have it: refused, too large, expired while queued, replaced by a
    newer retained message, or given up because the broker closes the connection on it."""
    has_subscribers: bool = True
    """False when the broker reports no matching subscribers (MQTT 5)."""


TransportEvent = Connected | Disconnected | ConnectFailed | Delivery | Published
