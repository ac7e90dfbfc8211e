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
from edged.daemon.group import FromGroup, Group
from edged.daemon.inbox import Inbox
from edged.daemon.reporting import Reporter
from edged.daemon.sdnotify import Notifier
from edged.daemon.worker import Worker
from edged.engine.generation import Finished, Fragment, Paused
from edged.errors import EdgedError
from edged.node.events import Events
from edged.node.metrics import Count, Metrics
from edged.node.node import Service
from edged.node.ports import Edges
from edged.node.pressure import Rung
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


STALL_LIMIT_S = 30.0
"""A prefill chunk or a token that takes longer is a hang."""
DRAIN_LIMIT_S = 10.0
"""How long a stop waits for the running answer; then the broker keeps its request."""
LONGEST_WAIT_S = 10.0
"""How long the loop sleeps at most with nothing to do."""
QUIET_S = 0.001
"""Without an event for so long, the loop looks after itself: before, it would only make wait who is
at work on the same request."""
MAX_EVENTS = 64
"""Events after which it does so in any case."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or SIGINT arrived."""

    signal_name: str


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """SIGHUP arrived."""


Asked = StopRequested | ReloadRequested
Told = TransportEvent | Delivery
Event = Told | FromGroup | Fragment | Finished | Paused | Asked


def is_delivery(event: Event) -> bool:
    """Tell a delivered message from what happened to the node itself."""
    return isinstance(event.event if isinstance(event, FromGroup) else event, Delivery)


class StalledError(EdgedError):
    """A part of the process stands still; systemd, or whoever started it, must start it again."""


@dataclass(frozen=True, slots=True)
class Threads:
    """The parts that have a thread of their own."""

    transport: Transport
    worker: Worker
    group: Group | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """What the loop needs besides the service."""

    edges: Edges
    metrics: Metrics
    notifier: Notifier
    broker_name: str
    reload: Reload | None = None
    """Says whether a changed configuration can be taken up."""


class MainLoop:
    """Run the service until a stop is requested.

    Args:
        inbox: Where the other threads and the signals put events.
        threads: The transport and the worker, to supervise and to stop.
        service: Takes the events.
        reporter: Tells how the node is.
        tools: Clock, metrics, and systemd.
    """

    def __init__(
        self,
        inbox: Inbox[Event],
        threads: Threads,
        service: Service,
        reporter: Reporter,
        tools: Tools,
    ) -> None:
        self._inbox = inbox
        self._threads = threads
        self._service = service
        self._reporter = reporter
        self._tools = tools
        self._stop_limit_s: float | None = None
        self._fed_s = float("-inf")
        self._connection = ConnectionLog(
            tools.broker_name, reporter, service.events, tools.metrics, tools.notifier
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
            self._service.events.tell(NodeStalled(str(error)))
            raise
        self._service.abandon()

    def _serve(self) -> None:
        clock = self._tools.edges.clock
        while not self._is_stopped(clock()):
            self._take_all(self._wait_s(clock()))
            self._service.tick()
            self._service.events.tick()
            if self._threads.group is not None:
                self._threads.group.tick()
            self._connection.count_stale_acknowledgements(self._threads.transport)
            self._reporter.tick()
            self._supervise(clock())

    def _take_all(self, wait_s: float) -> None:
        """Wait for an event, and take what follows it closely."""
        with contextlib.suppress(queue.Empty):
            for _ in range(MAX_EVENTS):
                self._take(self._inbox.get(wait_s))
                self._supervise(self._tools.edges.clock())
                wait_s = QUIET_S

    def _take(self, event: Event) -> None:
        match event:
            case FromGroup():
                if self._threads.group is not None:
                    self._threads.group.take(event.event)
            case Fragment():
                self._service.fragment(event)
            case Finished() | Paused():
                self._service.finish(event)
            case StopRequested():
                self._begin_stop(event)
            case ReloadRequested():
                self._begin_reload()
            case _:
                self._take_told(event)

    def _take_told(self, event: Told) -> None:
        match event:
            case Delivery():
                if not self._reporter.take(event):
                    self._service.deliver(event)
            case Published():
                is_reply = self._service.confirm(event.handle, event.failure)
                if event.failure is not None and not is_reply:
                    _LOG.warning("message %d is not delivered: %s", event.handle, event.failure)
            case _:
                self._connection.take(event)

    def _begin_stop(self, event: StopRequested) -> None:
        is_asked_twice = self._stop_limit_s is not None and not self.is_reloading
        if is_asked_twice:
            self._stop_limit_s = float("-inf")  # at once
            return
        _LOG.info("%s: stopping", event.signal_name)
        self.is_reloading = False
        self._tools.notifier.stopping()
        self._service.events.tell(NodeStopping(event.signal_name))
        self._drain()

    def _begin_reload(self) -> None:
        reload, notifier = self._tools.reload, self._tools.notifier
        if reload is None or self._stop_limit_s is not None:
            return
        problem = reload.problem()
        if problem is not None:
            _LOG.error("the configuration is not taken up, the old one stays: %s", problem)
            notifier.status(f"serving with the old configuration: {problem}")
            return
        _LOG.info("the configuration is in order: starting anew with it")
        self.is_reloading = True
        notifier.reloading(round(self._tools.edges.clock() * 1e6))
        self._drain()

    def _drain(self) -> None:
        self._stop_limit_s = self._tools.edges.clock() + DRAIN_LIMIT_S
        self._service.drain()
        self._service.events.flush()
        self._reporter.is_stopping = True
        self._reporter.tick(is_forced=True)

    def _is_stopped(self, now_s: float) -> bool:
        if self._stop_limit_s is None:
            return False
        is_done = not self._service.num_running and not self._service.num_unconfirmed
        return is_done or now_s >= self._stop_limit_s

    def _wait_s(self, now_s: float) -> float:
        times_s = [now_s + LONGEST_WAIT_S, self._reporter.next_tick_s()]
        next_tick_s = self._service.next_tick_s()
        if next_tick_s is not None:
            times_s.append(next_tick_s)
        if self._stop_limit_s is not None:
            times_s.append(self._stop_limit_s)
        if self._threads.group is not None:
            times_s.append(self._threads.group.next_tick_s())
        interval_s = self._tools.notifier.watchdog_interval_s
        if interval_s is not None:
            times_s.append(self._fed_s + interval_s / 3)
        return max(0.0, min(times_s) - now_s)

    def _supervise(self, now_s: float) -> None:
        if not self._threads.transport.is_alive():
            raise StalledError("the MQTT thread is dead")
        if self._threads.group is not None and not self._threads.group.is_alive:
            raise StalledError("the MQTT thread of the group is dead")
        if not self._threads.worker.is_alive:
            raise StalledError("the inference thread is dead")
        if self._service.guard.rung is Rung.RESTART:
            raise StalledError("memory stays over budget.memory")
        stalled_s = self._threads.worker.stalled_s(now_s)
        if stalled_s > STALL_LIMIT_S:
            raise StalledError(f"the engine took no step for {stalled_s:.0f} s")
        interval_s = self._tools.notifier.watchdog_interval_s
        if interval_s is not None and now_s - self._fed_s >= interval_s / 3:
            self._fed_s = now_s
            self._tools.notifier.watchdog()
