"""Membership in a group: requests that the broker delivers to one of several nodes.

The group has a connection of its own: few requests at a time, and a session that expires soon after
its node is gone, so that its requests go to another node. Some brokers grant a shared subscription
and never deliver through it; so a node joins when a probe, a message to itself, has come back.

Rule: on the main thread only; the broker alone decides which node gets a request.
"""

import logging
import secrets
from enum import StrEnum

from edged.daemon.driver import Driver
from edged.daemon.former_session import FormerSession
from edged.protocol.event import GroupJoined, GroupRefused
from edged.protocol.wire import Delivery, Encoded, Topics, WireProperties
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published, TransportEvent
from edged.transport.network import Transport
from edged.transport.settings import Will

_LOG = logging.getLogger(__name__)

# How long the broker keeps the requests that it delivered to a node that is gone.
SESSION_EXPIRY_S = 5
# How long a probe may take.
PROBE_LIMIT_S = 5.0
# How long the last messages of a stop may take.
STOP_LIMIT_S = 3.0
# In the reason of a failed connection: the subscription was refused, by its filter or its kind.
_SIGNS_OF_REFUSAL = ("$share/", "Shared subscription")


class Membership(StrEnum):
    """The node's membership, as ``state`` has it."""

    JOINING = "joining"
    """No connection yet, or the broker has not shown yet that it shares subscriptions."""
    JOINED = "joined"
    REFUSED = "refused"
    """The broker does not share subscriptions: the node gets no requests of the group."""


class Connections:
    """The connections to the broker as one publisher.

    Args:
        own: The node's own.
        group: Of its group, if it has one.
        former: Of client identifiers that it had before.
    """

    def __init__(
        self, own: Transport, group: Transport | None = None, former: FormerSession | None = None
    ) -> None:
        self.own = own
        self.group = group
        self.former = former
        self._own_id = own.settings.client_id
        self._group_id = None if group is None else group.settings.client_id

    def publish(self, message: Encoded, *, qos: int = 1, retain: bool = False) -> int:
        """Send a message on the node's own connection."""
        return self.own.publish(message, qos=qos, retain=retain)

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a delivery on the connection that brought it."""
        if self.group is not None and delivery.client_id == self._group_id:
            self.group.acknowledge(delivery)
        elif self.former is not None and delivery.client_id != self._own_id:
            self.former.acknowledge(delivery)
        else:
            self.own.acknowledge(delivery)

    def close(self, last: Will) -> None:
        """Publish a last message and disconnect; blocks for up to ``STOP_LIMIT_S``."""
        if self.former is not None:
            self.former.close()
        if self.group is not None:
            self.group.stop(timeout_s=1.0)
        self.own.stop([last], STOP_LIMIT_S)


def probe_topic(topics: Topics) -> str:
    """Name the topic of a node's probe."""
    return f"{topics.group_root}/probe/{topics.node}"


def group_filters(topics: Topics) -> list[str]:
    """Name the subscriptions of the group's connection."""
    # The probe is shared, too, in a share of this node alone: it shows that the broker delivers.
    return [f"$share/edged-probe-{topics.node}/{probe_topic(topics)}", *topics.group_filters]


class Group:
    """Take part in a group, whose connection has ``group_filters`` as its subscriptions."""

    def __init__(self, transport: Transport, topics: Topics, driver: Driver) -> None:
        self._transport = transport
        self._topics = topics
        self._driver = driver
        self._operator_events = driver.edges.operator_events
        self._clock = driver.edges.clock
        self._probe = b""
        self._limit_s = float("inf")
        self._was_joined = False
        self.membership = Membership.JOINING

    @property
    def is_alive(self) -> bool:
        """Whether its network thread lives; a refused group needs none."""
        return self.membership is Membership.REFUSED or self._transport.is_alive()

    def take(self, event: TransportEvent) -> None:
        """Handle an event of the group's connection."""
        if self.membership is Membership.REFUSED:
            return  # it was in the inbox when the connection was given up
        match event:
            case Connected():
                self._send_probe()
            case Delivery() if event.topic == probe_topic(self._topics):
                self._transport.acknowledge(event)
                self._take_probe(event)
            case Delivery():
                self._driver.take(event)
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
        """Leave the group if the probe is not back in time, and none ever was."""
        if self._clock() < self._limit_s:
            return
        if self._was_joined:
            self._send_probe()
        else:
            topic = probe_topic(self._topics)
            self._leave(f"the broker shares no subscriptions: {topic} did not come back")

    def _leave(self, detail: str) -> None:
        self.membership, self._limit_s = Membership.REFUSED, float("inf")
        self._operator_events.report(GroupRefused(self._topics.group or "", detail))
        self._transport.request_stop(timeout_s=0.0)

    def _send_probe(self) -> None:
        self._probe = secrets.token_hex(8).encode()
        self._limit_s = self._clock() + PROBE_LIMIT_S
        # It expires: a probe of this connection proves nothing about the next one.
        properties = WireProperties(message_expiry_s=round(PROBE_LIMIT_S))
        message = Encoded(probe_topic(self._topics), self._probe, properties)
        self._transport.publish(message, qos=1)

    def _take_probe(self, delivery: Delivery) -> None:
        if delivery.payload == self._probe and self.membership is Membership.JOINING:
            self.membership, self._limit_s = Membership.JOINED, float("inf")
            self._was_joined = True
            self._operator_events.report(GroupJoined(self._topics.group or ""))
