"""Why a connection failed, as a message that says what to do.

Rule: each message stands alone in a log line and in systemd's status; none contains a password.
"""

import logging
import socket
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged.transport.events import Blame
from edged.transport.settings import BrokerSettings

_LOG = logging.getLogger(__name__)
# Reason codes of MQTT 5, section 2.4.
_UNSUPPORTED_VERSION = 0x84
# Codes of a DISCONNECT that may be caused by a packet the client sent.
_TAKEN_OVER = 0x8E
_ABOUT_A_PACKET = {0x81, 0x82, 0x83, 0x87, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B}
_UNSPECIFIC = {0x00, 0x80}
_ADVICE = {
    0x84: "set the protocol to 3.1.1",
    0x85: "choose another client identifier",
    0x86: "correct the user name and the password",
    0x87: "set a user name and password that this broker accepts",
    0x8A: "the broker has banned this client",
    0x8E: "another client uses the same client identifier; give each its own",
    0x95: "a message was larger than the broker accepts",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection ended or could not be established."""

    reason: str
    is_version_refused: bool = False
    """The broker does not support this version of MQTT."""
    is_unanswered: bool = False
    """Closed before CONNACK: some brokers do so with a version they do not support."""
    is_taken_over: bool = False
    """Reconnecting at once would only take the session back from the other client."""
    blame: Blame = Blame.OTHER


def explain_connack(reason: ReasonCode, properties: Properties | None) -> Failure:
    """Explain a refused CONNECT."""
    text = _with_advice("the broker refuses the connection", reason, properties)
    return Failure(text, is_version_refused=reason.value == _UNSUPPORTED_VERSION)


def explain_suback(
    filters: Sequence[str], reasons: Sequence[ReasonCode], optional: Collection[str] = ()
) -> Failure | None:
    """Name the subscriptions the broker refused; None when it granted all required ones."""
    answers = zip(filters, reasons, strict=False)
    refused = [topic_filter for topic_filter, reason in answers if reason.is_failure]
    for topic_filter in refused:
        if topic_filter in optional:
            _LOG.info("the broker refuses the subscription to %s; going on without", topic_filter)
    required = [topic_filter for topic_filter in refused if topic_filter not in optional]
    if not required:
        return None
    return Failure(
        f"the broker refuses the subscription to {', '.join(required)}; "
        "allow it in the broker's access list"
    )


def explain_disconnect(
    reason: ReasonCode, properties: Properties | None, *, is_from_broker: bool
) -> Failure:
    """Explain the end of an established connection, by the broker's DISCONNECT or without one."""
    if not is_from_broker:
        if _is_keepalive_timeout(reason):
            return Failure("the broker went silent")
        return Failure("the connection broke", blame=Blame.UNKNOWN)
    text = _with_advice("the broker ended the connection", reason, properties)
    blame = Blame.UNKNOWN if reason.value in _UNSPECIFIC else Blame.OTHER
    if reason.value in _ABOUT_A_PACKET:
        blame = Blame.MESSAGE
    return Failure(text, is_taken_over=reason.value == _TAKEN_OVER, blame=blame)


def explain_unanswered(reason: ReasonCode, settings: BrokerSettings, version: str) -> Failure:
    """Explain the end of a connection before CONNACK."""
    # Silence is a host that is not there; only a close may mean that the version is unsupported.
    if _is_keepalive_timeout(reason):
        return explain_silence(settings)
    what = f"closed the connection without an answer to MQTT {version}"
    return Failure(f"{settings.url} {what}", is_unanswered=True)


def explain_silence(settings: BrokerSettings) -> Failure:
    """Explain a handshake that timed out after the socket was open."""
    return Failure(f"{settings.url} did not complete the MQTT handshake in time")


def explain_error(error: OSError | UnicodeError, settings: BrokerSettings) -> Failure:
    """Explain why no socket could be opened."""
    place = settings.url
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(
            f"the certificate of {place} is not accepted: {error.verify_message}; "
            "set the CA file to the authority that signed it, and the host to its name"
        )
    if isinstance(error, ConnectionRefusedError):
        return Failure(f"nothing listens at {place}; start the broker, or correct host and port")
    if isinstance(error, ssl.SSLError) or (settings.is_tls and isinstance(error, ConnectionError)):
        return Failure(f"the TLS handshake with {place} failed: {error.strerror or error}")
    if isinstance(error, socket.gaierror | UnicodeError):
        return Failure(f"{place}: the host name cannot be resolved; correct the host")
    if isinstance(error, TimeoutError):
        return Failure(f"{place} does not answer")
    return Failure(f"{place} cannot be reached: {error.strerror or error}")


def _is_keepalive_timeout(reason: ReasonCode) -> bool:
    return "Keep alive" in str(reason)


def _with_advice(what: str, reason: ReasonCode, properties: Properties | None) -> str:
    detail = getattr(properties, "ReasonString", None)
    advice = _ADVICE.get(reason.value)
    return f"{what}: {reason}{f' ({detail})' if detail else ''}{f'; {advice}' if advice else ''}"
