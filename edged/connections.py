"""What the loop does about the connection to the broker: announce, count, tell.

Rule: a connection that is not there is a state of its own, never an error; it is told when there is
one again.
"""

import logging

from edged.events import Events
from edged.messages.event import BrokerSessionLost, BrokerSessionTakenOver
from edged.metrics import Count, Metrics
from edged.reporting import Reporter
from edged.sdnotify import Notifier
from edged.transport import Connected, ConnectFailed, Disconnected, Transport

_LOG = logging.getLogger(__name__)


class ConnectionLog:
    """Follow one connection through its ups and downs.

    Args:
        broker_name: The broker, without credentials, for people.
        reporter: Announces the node on each new connection.
        events: Tells operators.
        metrics: Counts.
        notifier: Shows the state in ``systemctl status``.
    """

    def __init__(
        self,
        broker_name: str,
        reporter: Reporter,
        events: Events,
        metrics: Metrics,
        notifier: Notifier,
    ) -> None:
        self._broker_name = broker_name
        self._reporter = reporter
        self._events = events
        self._metrics = metrics
        self._notifier = notifier
        self._was_connected = False
        self._num_stale = 0

    def take(self, event: Connected | ConnectFailed | Disconnected) -> None:
        """Note what happened to the connection."""
        broker = self._broker_name
        match event:
            case Connected():
                self._count(event)
                _LOG.info("connected to %s over MQTT %s", broker, event.protocol_version)
                self._notifier.status(f"serving on {broker}")
                self._reporter.broker_error = None
                self._reporter.announce()
            case Disconnected():
                _LOG.warning("disconnected from %s: %s", broker, event.reason)
                self._notifier.status(f"waiting for {broker}: {event.reason}")
                self._reporter.broker_error = event.reason
                if event.is_taken_over:
                    self._metrics.count(Count.TAKEN_OVER)
                    self._events.tell(BrokerSessionTakenOver(round(event.retry_in_s)))
            case ConnectFailed():
                # Most reasons name the place themselves.
                reason = event.reason if broker in event.reason else f"{broker}: {event.reason}"
                _LOG.warning("no broker: %s; next try in %.0f s", reason, event.retry_in_s)
                self._notifier.status(f"waiting for a broker: {reason}")
                self._reporter.broker_error = reason

    def count_stale_acknowledgements(self, transport: Transport) -> None:
        """Count the acknowledgements that were not sent since the last call."""
        number = transport.num_stale_acknowledgements
        self._metrics.count(Count.STALE_ACKS, number - self._num_stale)
        self._num_stale = number

    def _count(self, event: Connected) -> None:
        if not event.is_session_present and self._was_connected:
            self._metrics.count(Count.LOST_SESSIONS)
            self._events.tell(BrokerSessionLost())
        self._was_connected = True
        self._metrics.count(Count.CONNECTS)
