"""A node as one of a group: requests that the broker hands to one of several nodes.

The group has a connection of its own: few requests at a time, and a session that ends soon after
its node, so that what a dead node held goes to another one. Not every broker that grants a shared
subscription delivers through it; so a message of our own must come back first.

Rule: as the service, on the main thread only; the broker alone decides which node gets a request.
"""

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edged.daemon.operator_events import OperatorEvents
from edged.protocol import Delivery, Encoded, Publisher, Topics, WireProperties
from edged.protocol.event import GroupJoined, GroupRefused
from edged.transport import (
    Connected,
    ConnectFailed,
    Disconnected,
    Published,
    Transport,
    TransportEvent,
)

_LOG = logging.getLogger(__name__)

# How long the broker keeps what was handed to a node that is gone.
SESSION_EXPIRY_S = 5
# How long a message to ourselves may take.
PROBE_LIMIT_S = 5.0
# In the reason of a failed connection: the subscription was refused, by name or as a kind.
_SIGNS_OF_REFUSAL = ("$share/", "Shared subscription")


@dataclass(frozen=True, slots=True)
class FromGroup:
    """Something that happened on the group's connection."""

    event: TransportEvent


class Membership(StrEnum):
    """How far the node is in its group, as ``state`` says it."""

    JOINING = "joining"
    """No connection yet, or the broker has not shown yet that it shares subscriptions."""
    JOINED = "joined"
    REFUSED = "refused"
    """The broker does not share subscriptions; requests of the group do not come."""


class Lines:
    """The node's two connections as one publisher: replies go out on the node's own.

    Args:
        own: The node's connection.
        group: The group's.
        topics: The topics of both.
    """

    def __init__(self, own: Publisher, group: Publisher, topics: Topics) -> None:
        self._own = own
        self._group = group
        self._group_start = f"{topics.group_root}/"

    def publish(self, message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        """Send a message on the node's own connection."""
        return self._own.publish(message, qos=qos, retain=retain)

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a delivery on the connection that brought it."""
        is_group = delivery.topic.startswith(self._group_start)
        (self._group if is_group else self._own).acknowledge(delivery)


def probe_topic(topics: Topics) -> str:
    """Name the topic on which a node sends a message to itself."""
    return f"{topics.group_root}/probe/{topics.node}"


def group_filters(topics: Topics) -> list[str]:
    """Give what the group's connection subscribes: its probe, alone in its share, and requests."""
    return [f"$share/edged-probe-{topics.node}/{probe_topic(topics)}", topics.group_filter]


class Group:
    """Take part in a group.

    Args:
        transport: The group's connection, with ``group_filters`` as its subscriptions.
        topics: The topics of the node and of the group.
        deliver: Takes the requests.
        operator_events: Where joining and leaving is reported.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        transport: Transport,
        topics: Topics,
        deliver: Callable[[Delivery], None],
        operator_events: OperatorEvents,
        clock: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._topics = topics
        self._deliver = deliver
        self._operator_events = operator_events
        self._clock = clock
        self._probe = b""
        self._limit_s = float("inf")
        self.membership = Membership.JOINING

    @property
    def is_alive(self) -> bool:
        """Whether its network thread lives; a refused group needs none."""
        return self.membership is Membership.REFUSED or self._transport.is_alive()

    def take(self, event: TransportEvent) -> None:
        """Take what happened on the group's connection."""
        match event:
            case Connected():
                self._send_probe()
            case Delivery() if event.topic == probe_topic(self._topics):
                self._transport.acknowledge(event)
                self._take_probe(event)
            case Delivery():
                self._deliver(event)
            case ConnectFailed() if any(sign in event.reason for sign in _SIGNS_OF_REFUSAL):
                self._leave(event.reason)
            case Disconnected() | ConnectFailed():
                _LOG.warning("group %s: %s", self._topics.group, event.reason)
                self.membership, self._limit_s = Membership.JOINING, float("inf")
            case Published() if event.failure is not None:
                _LOG.warning("group %s: the probe: %s", self._topics.group, event.failure)

    def next_tick_s(self) -> float:
        """Return when ``tick`` will have something to do."""
        return self._limit_s

    def tick(self) -> None:
        """Leave when the probe is not back in time."""
        if self._clock() >= self._limit_s:
            topic = probe_topic(self._topics)
            self._leave(f"the broker shares no subscriptions: {topic} did not come back")

    def _leave(self, detail: str) -> None:
        self.membership, self._limit_s = Membership.REFUSED, float("inf")
        self._operator_events.report(GroupRefused(self._topics.group or "", detail))
        self._transport.stop(timeout_s=0.0)

    def _send_probe(self) -> None:
        self._probe = secrets.token_hex(8).encode()
        self._limit_s = self._clock() + PROBE_LIMIT_S
        # Later it says nothing any more, and must not wait for a connection that comes then.
        properties = WireProperties(message_expiry_s=round(PROBE_LIMIT_S))
        message = Encoded(probe_topic(self._topics), self._probe, properties)
        self._transport.publish(message, qos=1)

    def _take_probe(self, delivery: Delivery) -> None:
        if delivery.payload == self._probe and self.membership is Membership.JOINING:
            self.membership, self._limit_s = Membership.JOINED, float("inf")
            self._operator_events.report(GroupJoined(self._topics.group or ""))
