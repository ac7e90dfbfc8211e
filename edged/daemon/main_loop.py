"""The main thread: one event at a time from one inbox, and the watchdog fed from progress.

Rule: the watchdog is fed, between any two events if it is due, only while paho's thread lives, the
inference thread lives, and a running answer took its last step not long ago; never by a timer of
its own.
"""

import contextlib
import logging
import queue
from dataclasses import dataclass

from edged.daemon.check import Reload
from edged.daemon.driver import Driver, Edges
from edged.daemon.group import FromGroup, Group
from edged.daemon.inbox import Inbox
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.reporting import Reporter
from edged.daemon.sdnotify import Notifier
from edged.errors import EdgedError
from edged.node.events import Abandon, Drain, Prepared, Synced, Tick
from edged.node.generation import Finished, Fragment, Paused
from edged.node.metrics import Count, Metrics
from edged.node.node import Node
from edged.node.pressure import PressureLevel
from edged.protocol import Delivery
from edged.protocol.event import (
    BrokerSessionLost,
    BrokerSessionTakenOver,
    NodeStalled,
    NodeStopping,
)
from edged.transport import (
    Connected,
    ConnectFailed,
    Disconnected,
    Published,
    Transport,
    TransportEvent,
)

_LOG = logging.getLogger(__name__)


class ConnectionLog:
    """Follow one connection through its ups and downs.

    Args:
        broker_name: The broker, without credentials, for people.
        reporter: Announces the node on each new connection.
        operator_events: Reports to operators.
        metrics: Counts.
        notifier: Shows the state in ``systemctl status``.
    """

    def __init__(
        self,
        broker_name: str,
        reporter: Reporter,
        operator_events: OperatorEvents,
        metrics: Metrics,
        notifier: Notifier,
    ) -> None:
        self._broker_name = broker_name
        self._reporter = reporter
        self._operator_events = operator_events
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
                    self._operator_events.report(BrokerSessionTakenOver(round(event.retry_in_s)))
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
            self._operator_events.report(BrokerSessionLost())
        self._was_connected = True
        self._metrics.count(Count.CONNECTS)


# A prefill chunk or a token that takes longer is a hang.
STALL_LIMIT_S = 30.0
# How long a stop waits for the running answer; then the broker keeps its request.
DRAIN_LIMIT_S = 10.0
# How long the loop sleeps at most with nothing to do.
LONGEST_WAIT_S = 10.0
# Without an event for so long, the loop looks after itself: before, it would only make wait who is
# at work on the same request.
QUIET_S = 0.001
# Events after which it does so in any case.
MAX_EVENTS = 64


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or SIGINT arrived."""

    signal_name: str


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """SIGHUP arrived."""


NodeEvent = Delivery | Prepared | Synced | Fragment | Finished | Paused
Event = TransportEvent | NodeEvent | FromGroup | StopRequested | ReloadRequested


def is_delivery(event: Event) -> bool:
    """Tell a delivered message from what happened to the node itself."""
    return isinstance(event.event if isinstance(event, FromGroup) else event, Delivery)


class StalledError(EdgedError):
    """A part of the process stands still; systemd, or whoever started it, must start it again."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop runs."""

    transport: Transport
    """The node's own connection."""
    edges: Edges
    node: Node
    driver: Driver
    reporter: Reporter
    notifier: Notifier
    broker_name: str
    group: Group | None = None
    reload: Reload | None = None
    """Says whether a changed configuration can be taken up."""


class MainLoop:
    """Run the node until a stop is requested.

    Args:
        inbox: Where the other threads and the signals put events.
        parts: What takes them.
    """

    def __init__(self, inbox: Inbox[Event], parts: Parts) -> None:
        self._inbox = inbox
        self._parts = parts
        self._operator_events = parts.edges.operator_events
        self._stop_limit_s: float | None = None
        self._fed_s = float("-inf")
        self._connection = ConnectionLog(
            parts.broker_name,
            parts.reporter,
            self._operator_events,
            parts.node.metrics,
            parts.notifier,
        )
        self.is_reloading = False
        """Whether the loop ended to be started anew with a changed configuration."""

    def run(self) -> None:
        """Serve until the stop is complete; blocks.

        Raises:
            StalledError: A thread died or the engine hangs.
        """
        try:
            self._serve()
        except StalledError as error:
            self._operator_events.report(NodeStalled(str(error)))
            raise
        self._parts.driver.take(Abandon())

    def _serve(self) -> None:
        clock, parts = self._parts.edges.clock, self._parts
        while not self._is_stopped(clock()):
            self._take_all(self._wait_s(clock()))
            parts.driver.take(Tick())
            self._operator_events.tick()
            if parts.group is not None:
                parts.group.tick()
            self._connection.count_stale_acknowledgements(parts.transport)
            parts.reporter.tick()
            self._supervise(clock())

    def _take_all(self, wait_s: float) -> None:
        """Wait for an event, and take what follows it closely."""
        with contextlib.suppress(queue.Empty):
            for _ in range(MAX_EVENTS):
                self._take(self._inbox.get(wait_s))
                self._supervise(self._parts.edges.clock())
                wait_s = QUIET_S

    def _take(self, event: Event) -> None:
        parts = self._parts
        match event:
            case Delivery() if event.topic == parts.reporter.status_topic:
                parts.reporter.take_status(event)
            case Delivery() | Prepared() | Synced() | Fragment() | Finished() | Paused():
                parts.driver.take(event)
            case Published():
                self._take_published(event)
            case FromGroup():
                if parts.group is not None:
                    parts.group.take(event.event)
            case StopRequested():
                self._begin_stop(event)
            case ReloadRequested():
                self._begin_reload()
            case _:
                self._connection.take(event)

    def _take_published(self, event: Published) -> None:
        is_reply = self._parts.driver.confirm(event.handle, event.failure)
        is_event = not is_reply and self._operator_events.confirm(event.handle)
        if event.failure is not None and not (is_reply or is_event):
            _LOG.warning("message %d is not delivered: %s", event.handle, event.failure)

    def _begin_stop(self, event: StopRequested) -> None:
        is_asked_twice = self._stop_limit_s is not None and not self.is_reloading
        if is_asked_twice:
            self._stop_limit_s = float("-inf")  # at once
            return
        _LOG.info("%s: stopping", event.signal_name)
        self.is_reloading = False
        self._parts.notifier.stopping()
        self._operator_events.report(NodeStopping(event.signal_name))
        self._drain()

    def _begin_reload(self) -> None:
        reload, notifier = self._parts.reload, self._parts.notifier
        if reload is None or self._stop_limit_s is not None:
            return
        problem = reload.problem()
        if problem is not None:
            _LOG.error("the configuration is not taken up, the old one stays: %s", problem)
            notifier.status(f"serving with the old configuration: {problem}")
            return
        _LOG.info("the configuration is in order: starting anew with it")
        self.is_reloading = True
        notifier.reloading(round(self._parts.edges.clock() * 1e6))
        self._drain()

    def _drain(self) -> None:
        self._stop_limit_s = self._parts.edges.clock() + DRAIN_LIMIT_S
        self._parts.driver.take(Drain())
        self._operator_events.flush()
        self._parts.reporter.is_stopping = True
        self._parts.reporter.tick(is_forced=True)

    def _is_stopped(self, now_s: float) -> bool:
        if self._stop_limit_s is None:
            return False
        node = self._parts.node
        is_done = not node.scheduler.running and not node.num_unconfirmed
        return is_done or now_s >= self._stop_limit_s

    def _wait_s(self, now_s: float) -> float:
        times_s = [now_s + LONGEST_WAIT_S, self._parts.reporter.next_tick_s()]
        next_tick_s = self._parts.node.next_tick_s()
        if next_tick_s is not None:
            times_s.append(next_tick_s)
        if self._stop_limit_s is not None:
            times_s.append(self._stop_limit_s)
        if self._parts.group is not None:
            times_s.append(self._parts.group.next_tick_s())
        interval_s = self._parts.notifier.watchdog_interval_s
        if interval_s is not None:
            times_s.append(self._fed_s + interval_s / 3)
        return max(0.0, min(times_s) - now_s)

    def _supervise(self, now_s: float) -> None:
        problem = self._problem(now_s)
        if problem is not None:
            raise StalledError(problem)
        notifier = self._parts.notifier
        interval_s = notifier.watchdog_interval_s
        if interval_s is not None and now_s - self._fed_s >= interval_s / 3:
            self._fed_s = now_s
            notifier.watchdog()

    def _problem(self, now_s: float) -> str | None:
        """Say which part of the process stands still; None when all is well."""
        parts, worker, preparer = self._parts, self._parts.edges.worker, self._parts.edges.preparer
        threads = (
            ("MQTT thread", parts.transport.is_alive()),
            ("MQTT thread of the group", parts.group is None or parts.group.is_alive),
            ("inference thread", worker.is_alive),
            ("preparing thread", preparer.is_alive),
        )
        for name, is_alive in threads:
            if not is_alive:
                return f"the {name} is dead"
        if parts.node.guard.level is PressureLevel.RESTART:
            return "memory stays over budget.memory"
        if (stalled_s := worker.stalled_s(now_s)) > STALL_LIMIT_S:
            return f"the engine took no step for {stalled_s:.0f} s"
        if (busy_s := preparer.busy_s(now_s)) > STALL_LIMIT_S:
            return f"a request was prepared for {busy_s:.0f} s"
        return None
