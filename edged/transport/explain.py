"""Why a connection failed, in words that say what to do.

Rule: every text stands alone in a log line and in systemd's status; none holds a password.
"""

import logging
import socket
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged.transport.events import Blame, BrokerSettings

_LOG = logging.getLogger(__name__)
_UNSUPPORTED_VERSION = 0x84
_TAKEN_OVER = 0x8E
_OF_MESSAGES = {0x81, 0x82, 0x83, 0x87, 0x90, 0x94, 0x95, 0x99, 0x9A, 0x9B}
"""Reasons to end a connection that can be about a message that the client sent."""
_OF_ANYTHING = {0x00, 0x80}
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
    """Why a connection is over, or never stood."""

    reason: str
    is_version_refused: bool = False
    """The broker does not speak this version of MQTT."""
    is_unanswered: bool = False
    """The connection was closed before CONNECT was answered: perhaps the version, perhaps not."""
    is_taken_over: bool = False
    """Connecting again at once would only take the session back, for ever."""
    blame: Blame = Blame.OTHER


def explain_connack(reason: ReasonCode, properties: Properties | None) -> Failure:
    """Explain the broker's refusal to connect."""
    text = _with_advice("the broker refuses the connection", reason, properties)
    return Failure(text, is_version_refused=reason.value == _UNSUPPORTED_VERSION)


def explain_suback(
    filters: Sequence[str], reasons: Sequence[ReasonCode], optional: Collection[str] = ()
) -> Failure | None:
    """Say which subscriptions the broker refuses; None when it grants all that are needed."""
    answers = zip(filters, reasons, strict=False)
    refused = [topic_filter for topic_filter, reason in answers if reason.is_failure]
    for topic_filter in refused:
        if topic_filter in optional:
            _LOG.info("the broker refuses the subscription to %s; going on without", topic_filter)
    refused = [topic_filter for topic_filter in refused if topic_filter not in optional]
    if not refused:
        return None
    return Failure(
        f"the broker refuses the subscription to {', '.join(refused)}; "
        "allow it in the broker's access list"
    )


def explain_disconnect(
    reason: ReasonCode, properties: Properties | None, *, is_told: bool
) -> Failure:
    """Explain the end of a connection; ``is_told`` when the broker itself gave the reason."""
    if not is_told:
        if _is_silence(reason):
            return Failure("the broker went silent")
        return Failure("the connection broke", blame=Blame.UNKNOWN)
    text = _with_advice("the broker ended the connection", reason, properties)
    return Failure(text, is_taken_over=reason.value == _TAKEN_OVER, blame=_blame_of(reason))


def explain_unanswered(reason: ReasonCode, settings: BrokerSettings, version: str) -> Failure:
    """Explain the end of a connection whose CONNECT got no answer.

    A broker that does not speak this version closes it; one that says nothing is just not there.
    """
    if _is_silence(reason):
        return explain_silence(settings)
    what = f"closed the connection without an answer to MQTT {version}"
    return Failure(f"{settings.url} {what}", is_unanswered=True)


def explain_silence(settings: BrokerSettings) -> Failure:
    """Explain why a connection that opened was given up before the broker granted everything."""
    return Failure(f"{settings.url} does not speak MQTT in time")


def explain_error(error: OSError | UnicodeError, settings: BrokerSettings) -> Failure:
    """Explain why no connection could be opened."""
    place = settings.url
    if isinstance(error, ssl.SSLCertVerificationError):
        return Failure(
            f"the certificate of {place} is not accepted: {error.verify_message}; "
            "set the CA file to the authority that signed it, and the host to its name"
        )
    if isinstance(error, ConnectionRefusedError):
        return Failure(f"nothing listens at {place}; start the broker, or correct host and port")
    if isinstance(error, ssl.SSLError) or (settings.is_tls and isinstance(error, ConnectionError)):
        return Failure(f"{place} does not speak TLS as expected: {error.strerror or error}")
    if isinstance(error, socket.gaierror | UnicodeError):
        return Failure(f"{place}: the host name cannot be resolved; correct the host")
    if isinstance(error, TimeoutError):
        return Failure(f"{place} does not answer")
    return Failure(f"{place} cannot be reached: {error.strerror or error}")


def _blame_of(reason: ReasonCode) -> Blame:
    if reason.value in _OF_MESSAGES:
        return Blame.MESSAGE
    return Blame.UNKNOWN if reason.value in _OF_ANYTHING else Blame.OTHER


def _is_silence(reason: ReasonCode) -> bool:
    return "Keep alive" in str(reason)


def _with_advice(what: str, reason: ReasonCode, properties: Properties | None) -> str:
    told = getattr(properties, "ReasonString", None)
    advice = _ADVICE.get(reason.value)
    parts = [f"{what}: {reason}", f"({told})" if told else "", f"; {advice}" if advice else ""]
    return " ".join(part for part in parts if part).replace(" ;", ";")
