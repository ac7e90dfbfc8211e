"""The parameters of a connection to a broker, and the files they name."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from edged.config.broker_url import BrokerAddress
from edged.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """The parameters of a connection to a broker."""

    address: BrokerAddress
    client_id: str
    """The broker keeps the session under this identifier, and gives it to whoever connects with
    it: ``edged.daemon.client_id`` makes one that others cannot guess."""
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
    unwanted_filters: tuple[str, ...] = ()
    """Subscriptions of a session that was kept, ended as soon as there is a connection."""
    wants_retained: bool = False
    """Receive the retained messages of the subscribed topics."""
    handshake_timeout_s: float = 10.0
    """For TCP and TLS, and again from CONNECT to SUBACK."""
    retry_min_s: float = 1.0
    retry_max_s: float = 60.0
    """The pause between attempts doubles from the minimum to the maximum, with jitter."""


@dataclass(frozen=True, slots=True)
class Will:
    """A message the broker publishes when the client is gone; also the farewell at a stop."""

    topic: str
    payload: bytes
    retain: bool = True
    qos: int = 1


def read_password_file(path: Path, name: str) -> str:
    """Return the first line of a password file; ``name`` is the key or option that names it.

    Raises:
        UnavailableError: It cannot be read, or is not UTF-8; the text starts with ``name``.
    """
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        raise UnavailableError(f"{name}: cannot be read: {error}") from error


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return the TLS parameters for a CA file; None trusts the system's authorities.

    Raises:
        UnavailableError: The file cannot be read, or is not PEM.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        problem = f"broker.ca_file: {ca_file}: not a readable PEM certificate"
        raise UnavailableError(problem) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
