"""MQTT messages: topics, properties and bytes, before any JSON is parsed.

Rule: an MQTT 5 property has the property's own name here.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from edged.protocol.request import Rejected, ReplyAddress

# Member ``v`` of every JSON message that edged sends, except fragments.
PROTOCOL_VERSION = 1
# The operations of a node: the last level of a request topic.
OPERATIONS = ("generate", "cancel", "correct")
# For a character class of a regular expression: characters that MQTT 5 (§1.5.4) lets a broker
# refuse, as Mosquitto does: control characters, halves of surrogate pairs, noncharacters.
_NONCHARACTERS = "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
UNSENDABLE = rf"\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}"
# Of a user name that is one level of a topic.
_USER_PATTERN = f"[^/+#{UNSENDABLE}]+"
# Of the user name of an account; with it, all of a node's topics fit into the limit of a topic.
MAX_USER_BYTES = 64
# Of one request. A node has no use for them, so they must cost it nothing.
MAX_USER_PROPERTIES = 64
# They come back with each reply, which is kept until the broker has it. Libraries send 16 bytes.
MAX_CORRELATION_BYTES = 1024
# Of the topic of a delivery, kept until it is acknowledged.
_MAX_RECEIPT_TOPIC = 256


@dataclass(frozen=True, slots=True)
class WireProperties:
    """The MQTT 5 properties edged reads or writes; all None over MQTT 3.1.1."""

    response_topic: str | None = None
    correlation_data: bytes | None = None
    content_type: str | None = None
    payload_format: int | None = None
    """1: the payload is UTF-8; 0 or None: unspecified bytes."""
    message_expiry_s: int | None = None
    # When received, at most one more than ``MAX_USER_PROPERTIES``: the message is refused then.
    user_properties: tuple[tuple[str, str], ...] = ()

    @property
    def returned_data(self) -> bytes | None:
        """The Correlation Data as they come back with a reply; too long ones do not."""
        data = self.correlation_data
        return data if data is None or len(data) <= MAX_CORRELATION_BYTES else None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message from the broker, and what is needed to acknowledge it."""

    topic: str
    payload: bytes
    retain: bool = False
    """The broker stored it before this subscription."""
    qos: int = 0
    is_redelivery: bool = False
    """The DUP flag: an earlier delivery was not acknowledged."""
    properties: WireProperties = WireProperties()
    packet_id: int = 0
    """Identifies the delivery within its connection only; 0 for QoS 0."""
    connection_epoch: int = 0
    """Number of the connection that ``packet_id`` belongs to."""
    client_id: str = ""
    """Under which the connection was made: each has packet ids and epochs of its own."""

    @property
    def fingerprint(self) -> str:
        """A digest of topic, payload and properties that every redelivery has in common."""
        # Without the Message Expiry Interval, which the broker counts down, and without the DUP
        # flag, which only later deliveries have.
        properties = self.properties
        if properties.message_expiry_s is not None:
            properties = replace(properties, message_expiry_s=None)
        content = (self.topic, properties, hashlib.sha256(self.payload).digest())
        return hashlib.sha256(repr(content).encode(errors="replace")).hexdigest()[:32]

    @property
    def num_bytes(self) -> int:
        """Memory that it holds, about."""
        properties = self.properties
        pairs = sum(len(name) + len(value) for name, value in properties.user_properties)
        texts = (properties.response_topic, properties.content_type, properties.correlation_data)
        return len(self.topic) + len(self.payload) + pairs + sum(len(it or b"") for it in texts)

    @property
    def receipt(self) -> "Delivery":
        """The delivery without payload and properties: all that an acknowledgement needs."""
        return Delivery(
            self.topic[:_MAX_RECEIPT_TOPIC],
            b"",
            qos=self.qos,
            is_redelivery=self.is_redelivery,
            packet_id=self.packet_id,
            connection_epoch=self.connection_epoch,
            client_id=self.client_id,
        )


class Encoded(NamedTuple):
    """One message ready to be published."""

    topic: str
    payload: bytes
    properties: WireProperties


class Publisher(Protocol):
    """A connection to the broker, as far as the node uses it; nothing of it blocks."""

    def publish(self, message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        """Send a message; a ``Published`` event with the returned handle follows for QoS 1."""

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a delivery, if its connection is still the current one."""


class DropReason(StrEnum):
    """Why a delivery is acknowledged without a reply."""

    # The broker would deliver it again at every reconnect.
    RETAINED = "retained"
    # The client does not wait for the answer any more.
    EXPIRED = "expired"
    # A reply would let a client publish where it may not; there is no other place for one.
    FORBIDDEN_TOPIC = "forbidden_topic"
    # Nothing says where a reply would go.
    UNKNOWN_TOPIC = "unknown_topic"
    # The node answers accounts only, and has said so to everybody within the last second.
    NO_IDENTITY = "no_identity"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A delivery that is counted and acknowledged, but not answered."""

    reason: DropReason
    detail: str
    """For the event and the log; never prompt text."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A delivery that is answered with an error."""

    reply_to: ReplyAddress
    rejected: Rejected


class RequestTopic(NamedTuple):
    """What the topic of a request says."""

    operation: str
    user: str | None
    """The account, where the topic is in its subtree: the broker lets nobody else publish there."""
    root: str
    """Of the topics that the client knows: of the node or its group, or of its subtree there."""


class ClientTopics:
    """The topics of a client at a node: below its root."""

    def __init__(self, root: str) -> None:
        self.root: Final = root

    def request(self, operation: str) -> str:
        """Return the topic of requests for ``operation``."""
        return f"{self.root}/request/{operation}"

    def response(self, operation: str) -> str:
        """Return the topic of replies whose request did not choose one."""
        return f"{self.root}/response/{operation}"

    def stream(self, request_id: str) -> str:
        """Return the topic of the fragments of one streamed answer."""
        return f"{self.root}/stream/{request_id}"


class Topics(ClientTopics):
    """The topics of one node; with a group, it answers the group's requests as well.

    Those of ``ClientTopics`` are for clients without an account.
    """

    def __init__(self, prefix: str, node: str, group: str | None = None) -> None:
        super().__init__(f"{prefix}/{node}")
        self.prefix: Final = prefix
        self.node: Final = node
        self.group: Final = group
        self.availability: Final = f"{self.root}/availability"
        """Retained ``online`` or ``offline``; the will."""
        self.info: Final = f"{self.root}/info"
        """Retained JSON: versions, model, limits."""
        self.state: Final = f"{self.root}/state"
        """Retained JSON: load, memory, speed, counters."""
        self.event: Final = f"{self.root}/event"
        """JSON: refusals, drops, restarts."""
        self.request_filters: Final = _request_filters(self.root)
        """Of requests from accounts, and without one."""
        self.group_root: Final = f"{prefix}/group/{group}"
        share = f"$share/edged-{group}"
        self.group_filters: Final = [f"{share}/{it}" for it in _request_filters(self.group_root)]
        """Shared subscriptions; only with a group, as ``group_root``."""
        self._roots = [self.root] if group is None else [self.root, self.group_root]

    def client(self, user: str | None) -> ClientTopics:
        """Return the topics of an account; None for a client without one."""
        return ClientTopics(self.root if user is None else f"{self.root}/client/{user}")

    def read_request(self, topic: str) -> RequestTopic | None:
        """Return what the topic of a request to this node or its group says; None for others."""
        for root in self._roots:
            if not topic.startswith(f"{root}/"):
                continue
            match topic[len(root) + 1 :].split("/", 4):
                case ["request", operation] if operation:
                    return RequestTopic(operation, None, root)
                case ["client", user, "request", operation] if operation and is_user(user):
                    return RequestTopic(operation, user, f"{root}/client/{user}")
        return None


def is_user(name: str) -> bool:
    """Return whether an account of this name has topics of its own.

    Its name is one level of them: without ``/``, which a broker may put into them as it is (as
    Mosquitto 2.0 does), and without wildcards.
    """
    is_short = len(name.encode(errors="replace")) <= MAX_USER_BYTES
    return is_short and re.fullmatch(_USER_PATTERN, name) is not None


def _request_filters(root: str) -> list[str]:
    return [f"{root}/client/+/request/+", f"{root}/request/+"]


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """Limits of this node, and the defaults of requests."""

    topics: Topics
    timeout_s: float = 30.0
    """Deadline of a request that sets neither ``timeout_ms`` nor a Message Expiry Interval."""
    max_timeout_s: float = 300.0
    """Longest deadline; longer ones are shortened to it."""
    max_tokens: int = 128
    max_payload_bytes: int = 16384
    is_system_allowed: bool = True
    """Whether a request may have its own system message."""
    system: str | None = None
    """System message of requests without one."""
    reply_prefixes: Sequence[str] = ("edged/", "reply/")
    """Prefixes of the reply topics that requests may choose."""
    discovery_prefix: str = "homeassistant"
    has_sessions: bool = True
    keeps_corrections: bool = False
    is_identity_required: bool = False
    """Whether only accounts are answered, on topics of their own."""
