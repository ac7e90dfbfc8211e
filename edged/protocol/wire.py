"""Messages as MQTT carries them: bytes, properties and topics, before any JSON is read.

Rule: what MQTT 5 calls a property stays here under the property's own name.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from edged.protocol.request import Rejected, ReplyAddress

PROTOCOL_VERSION = 1
"""Version of the wire contract: member ``v`` of every JSON message that edged sends."""
OPERATIONS = ("generate", "cancel")
"""The operations a node answers, as they stand at the end of the request topic."""
MAX_USER_PROPERTIES = 64
"""Of one request; they mean nothing to a node, and must not cost it anything."""


@dataclass(frozen=True, slots=True)
class WireProperties:
    """The MQTT 5 properties edged reads or writes; all absent over MQTT 3.1.1."""

    response_topic: str | None = None
    correlation_data: bytes | None = None
    content_type: str | None = None
    payload_format: int | None = None
    """1: the payload is UTF-8; 0 or None: bytes of unknown kind."""
    message_expiry_s: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    """Of what arrives at most ``MAX_USER_PROPERTIES`` and one more, which says that it has more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that the broker delivered, and what is needed to acknowledge it."""

    topic: str
    payload: bytes
    retain: bool = False
    """The broker sent a stored message, not a new one."""
    qos: int = 0
    is_redelivery: bool = False
    """The DUP flag: an earlier delivery of this message was not acknowledged."""
    properties: WireProperties = WireProperties()
    packet_id: int = 0
    """Names the delivery inside its connection only; 0 for QoS 0."""
    connection_epoch: int = 0
    """Counts the connections of this process; a packet id of an earlier one means nothing."""

    @property
    def fingerprint(self) -> str:
        """A digest that is the same each time the broker brings the message; nothing is decoded.

        The Message Expiry Interval is left out: the broker counts it down.
        """
        properties = replace(self.properties, message_expiry_s=None)
        content = (self.topic, properties, hashlib.sha256(self.payload).digest())
        return hashlib.sha256(repr(content).encode(errors="replace")).hexdigest()[:32]

    @property
    def receipt(self) -> "Delivery":
        """The delivery without its words: what its acknowledgement takes."""
        return replace(self, payload=b"", properties=WireProperties())


class Encoded(NamedTuple):
    """One message ready to be published."""

    topic: str
    payload: bytes
    properties: WireProperties


class DropReason(StrEnum):
    """Why a delivery is acknowledged without a reply."""

    RETAINED = "retained"
    """It would run again at every reconnect."""
    EXPIRED = "expired"
    """Nobody waits for the answer any more."""
    FORBIDDEN_TOPIC = "forbidden_topic"
    """The reply topic is outside the allow-list; a reply would be the harm."""
    UNKNOWN_TOPIC = "unknown_topic"
    """It did not come through the request topic of this node."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A delivery that must not be answered; it is counted, and acknowledged."""

    reason: DropReason
    detail: str
    """For the event and the log; never prompt text."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A delivery whose content cannot be accepted, and where to say so."""

    reply_to: ReplyAddress
    rejected: Rejected


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one node."""

    prefix: str
    node: str
    group: str | None = None
    """Group whose requests the node takes beside its own."""

    @property
    def root(self) -> str:
        """Everything of this node is below it."""
        return f"{self.prefix}/{self.node}"

    @property
    def availability(self) -> str:
        """Retained ``online`` or ``offline``; the will."""
        return f"{self.root}/availability"

    @property
    def info(self) -> str:
        """Retained JSON: versions, model, limits."""
        return f"{self.root}/info"

    @property
    def state(self) -> str:
        """Retained JSON: load, memory, speed, counters."""
        return f"{self.root}/state"

    @property
    def event(self) -> str:
        """JSON: refusals, drops, restarts."""
        return f"{self.root}/event"

    @property
    def request_filter(self) -> str:
        """Topic filter that a node subscribes to."""
        return f"{self.root}/request/+"

    @property
    def group_root(self) -> str:
        """Everything of the node's group is below it; meaningless without a group."""
        return f"{self.prefix}/group/{self.group}"

    @property
    def group_filter(self) -> str:
        """Shared subscription to the requests of the group."""
        return f"$share/edged-{self.group}/{self.group_root}/request/+"

    def request(self, operation: str) -> str:
        """Name the topic where requests for ``operation`` are sent."""
        return f"{self.root}/request/{operation}"

    def response(self, operation: str) -> str:
        """Name the topic of replies whose request did not choose one."""
        return f"{self.root}/response/{operation}"

    def stream(self, request_id: str) -> str:
        """Name the topic of the fragments of one streamed answer."""
        return f"{self.root}/stream/{request_id}"

    def operation_of(self, topic: str) -> str | None:
        """Return what follows the request topic of this node or of its group; None elsewhere."""
        roots = [self.root] if self.group is None else [self.root, self.group_root]
        start = next((f"{root}/request/" for root in roots if topic.startswith(root + "/")), "#")
        return topic[len(start) :] if topic.startswith(start) and topic != start else None


@dataclass(frozen=True, slots=True)
class RequestDefaults:
    """Limits of this node, and what a request leaves open."""

    node: str
    prefix: str = "edged"
    timeout_s: float = 30.0
    """Deadline of a request that sets neither ``timeout_ms`` nor a Message Expiry Interval."""
    max_timeout_s: float = 300.0
    """Longest deadline; what a request asks for beyond it is cut."""
    max_tokens: int = 128
    max_payload_bytes: int = 16384
    max_readable_bytes: int = 65536
    """Up to here the id of a payload over the limit is still read, so that 413 can carry it."""
    is_system_allowed: bool = True
    """Whether a request may bring its own system text."""
    system: str | None = None
    """System text of requests that bring none."""
    reply_prefixes: Sequence[str] = ("edged/", "reply/")
    """Beginnings of the reply topics that requests may ask for."""
    discovery_prefix: str = "homeassistant"
    has_sessions: bool = True
    """Whether dialogues are held."""
    group: str | None = None
    """Group whose requests this node takes, too."""

    @property
    def topics(self) -> Topics:
        """The topics of this node."""
        return Topics(self.prefix, self.node, self.group)
