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

from edged.config.broker_url import BrokerAddress
from edged.transport.events import Cause

_LOG = logging.getLogger(__name__)
# Reason codes of MQTT 5, section 2.4.
_UNSUPPORTED_VERSION = 0x84
# The causes that the codes of a DISCONNECT state; a client's packet may be why the first are sent.
_ABOUT_A_PACKET = (0x81, 0x82, 0x83, 0x87, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B)
_CAUSES = dict.fromkeys(_ABOUT_A_PACKET, Cause.MESSAGE) | {
    0x00: Cause.UNKNOWN,
    0x80: Cause.UNKNOWN,
    0x8E: Cause.TAKEN_OVER,
}
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
    cause: Cause = Cause.OTHER
    is_closed: bool = False
    """The broker closed the connection, without a reason."""


def explain_connack(reason: ReasonCode, properties: Properties | None) -> Failure:
    """Explain a refused CONNECT."""
    text = _with_advice("the broker refuses the connection", reason, properties)
    is_version = reason.value == _UNSUPPORTED_VERSION
    return Failure(text, Cause.VERSION if is_version else Cause.OTHER)


def explain_suback(
    filters: Sequence[str], reasons: Sequence[ReasonCode], optional: Collection[str] = ()
) -> Failure | None:
    """Name the subscriptions the broker refused; None when it granted all required ones."""
    answers = zip(filters, reasons, strict=False)
    refused = [topic_filter for topic_filter, reason in answers if reason.is_failure]
    required = [topic_filter for topic_filter in refused if topic_filter not in optional]
    if required:
        text = f"the broker refuses the subscription to {', '.join(required)}; "
        return Failure(text + "allow it in the broker's access list")
    if refused:
        _LOG.info("the broker refuses the subscription to %s; going on without", ", ".join(refused))
    return None


def explain_disconnect(
    reason: ReasonCode, properties: Properties | None, *, is_from_broker: bool, was_closed: bool
) -> Failure:
    """Explain the end of an established connection, by the broker's DISCONNECT or without one."""
    if not is_from_broker:
        if _is_keepalive_timeout(reason):
            return Failure("the broker went silent")
        if was_closed:
            text = "the broker closed the connection without a reason"
            return Failure(text, Cause.UNKNOWN, is_closed=True)
        return Failure("the connection broke", Cause.UNKNOWN)
    text = _with_advice("the broker ended the connection", reason, properties)
    return Failure(text, _CAUSES.get(reason.value, Cause.OTHER))


def explain_unanswered(reason: ReasonCode, broker: BrokerAddress, version: str) -> Failure:
    """Explain the end of a connection before CONNACK."""
    # Silence is a host that is not there; only a close may mean that the version is unsupported.
    if _is_keepalive_timeout(reason):
        return explain_silence(broker)
    text = f"{broker.url} closed the connection without an answer to MQTT {version}"
    return Failure(text, Cause.UNANSWERED)


def explain_silence(broker: BrokerAddress) -> Failure:
    """Explain a handshake that timed out after the socket was open."""
    return Failure(f"{broker.url} did not complete the MQTT handshake in time")


def explain_error(error: OSError | UnicodeError, broker: BrokerAddress) -> Failure:
    """Explain why no socket could be opened."""
    place = broker.url
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(
            f"the certificate of {place} is not accepted: {error.verify_message}; "
            "set the CA file to the authority that signed it, and the host to its name"
        )
    if isinstance(error, ConnectionRefusedError):
        return Failure(f"nothing listens at {place}; start the broker, or correct host and port")
    if isinstance(error, ssl.SSLError) or (broker.is_tls and isinstance(error, ConnectionError)):
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
