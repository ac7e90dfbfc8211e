"""The changes of the node's own connection: logged, counted, and reported with what to do.

Rule: a connection that another client ends is told apart from a broker or a network that is down.
"""

import logging

from edged.daemon.driver import Driver
from edged.daemon.reporting import Reporter
from edged.daemon.sdnotify import Notifier
from edged.node.metrics import Count
from edged.protocol.event import BrokerSessionLost, BrokerSessionTakenOver
from edged.transport.events import BrokerProblem, Connected, ConnectFailed, Disconnected
from edged.transport.network import Transport

_LOG = logging.getLogger(__name__)

# Connections in a row that the broker accepts and closes soon after, from which on it is no chance.
MIN_CLOSED = 3
_ADVICE = {
    BrokerProblem.TAKEN_OVER: "stop the second edged that runs for this node, or give this one"
    " another broker.client_id",
    BrokerProblem.CLOSED_SOON: f"at least {MIN_CLOSED} times in a row, each soon after it was"
    " accepted: another client may have taken the session (a second edged for this node?), or"
    " something on the way closes connections; the broker's log says which",
}


class ConnectionLog:
    """Log, count and report the changes of the node's own connection.

    ``broker_name`` is shown to people, so it has no credentials.
    """

    def __init__(
        self,
        transport: Transport,
        broker_name: str,
        driver: Driver,
        reporter: Reporter,
        notifier: Notifier,
    ) -> None:
        self.transport = transport
        self._broker_name = broker_name
        self._metrics = driver.node.metrics
        self._operator_events = driver.edges.operator_events
        self._reporter = reporter
        self._notifier = notifier
        self._was_connected = False
        self._num_stale = 0

    def take(self, event: Connected | ConnectFailed | Disconnected) -> None:
        """Handle a change of the connection."""
        broker = self._broker_name
        match event:
            case Connected():
                if not event.is_session_present and self._was_connected:
                    self._metrics.count(Count.LOST_SESSIONS)
                    self._operator_events.report(BrokerSessionLost())
                self._was_connected = True
                self._metrics.count(Count.CONNECTS)
                _LOG.info("connected to %s over MQTT %s", broker, event.protocol_version)
                self._show(f"serving on {broker}")
                self._reporter.announce()
            case Disconnected():
                problem = self._count_broken(event)
                advice = _ADVICE.get(problem)
                reason = f"{event.reason}; {advice}" if advice else event.reason
                _LOG.warning("disconnected from %s: %s", broker, reason)
                self._show(f"waiting for {broker}: {reason}", reason, problem)
            case ConnectFailed():
                # Most reasons name the broker themselves.
                reason = event.reason if broker in event.reason else f"{broker}: {event.reason}"
                _LOG.warning("no broker: %s; next try in %.0f s", reason, event.retry_in_s)
                problem = BrokerProblem.UNREACHABLE
                self._show(f"waiting for a broker: {reason}", reason, problem)

    def tick(self) -> None:
        """Count the acknowledgements that could not be sent since the last call."""
        number = self.transport.num_stale_acknowledgements
        self._metrics.count(Count.STALE_ACKS, number - self._num_stale)
        self._num_stale = number

    def _count_broken(self, event: Disconnected) -> BrokerProblem:
        if event.is_taken_over:
            self._metrics.count(Count.TAKEN_OVER)
            self._operator_events.report(BrokerSessionTakenOver(round(event.retry_in_s)))
            return BrokerProblem.TAKEN_OVER
        if event.num_closed >= MIN_CLOSED:
            self._metrics.count(Count.CLOSED_SOON)
            return BrokerProblem.CLOSED_SOON
        return BrokerProblem.BROKEN

    def _show(
        self, status: str, error: str | None = None, problem: BrokerProblem | None = None
    ) -> None:
        self._notifier.status(status)
        self._reporter.broker_error, self._reporter.broker_problem = error, problem
