"""The main thread: one event at a time from one inbox, and the watchdog fed from progress.

Rule: the watchdog is fed only while paho's thread lives, the inference thread lives, and a running
answer took its last step not long ago; never by a timer of its own.
"""

import logging
import queue
from dataclasses import dataclass

from edged.errors import EdgedError
from edged.generation import Fragment
from edged.messages import Delivery
from edged.metrics import Count, Metrics
from edged.ports import Edges
from edged.reporting import Reporter
from edged.sdnotify import Notifier
from edged.service import Service
from edged.transport import (
    Connected,
    ConnectFailed,
    Disconnected,
    Published,
    Transport,
    TransportEvent,
)
from edged.worker import Finished, Worker

_LOG = logging.getLogger(__name__)

STALL_LIMIT_S = 30.0
"""A prefill chunk or a token that takes longer is a hang."""
DRAIN_LIMIT_S = 10.0
"""How long a stop waits for the running answer; then the broker keeps its request."""
LONGEST_WAIT_S = 10.0
"""How long the loop sleeps at most with nothing to do."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """SIGTERM or SIGINT arrived."""

    signal_name: str


Event = TransportEvent | Delivery | Fragment | Finished | StopRequested


class StalledError(EdgedError):
    """A part of the process stands still; systemd, or whoever started it, must start it again."""


@dataclass(frozen=True, slots=True)
class Threads:
    """The parts that have a thread of their own."""

    transport: Transport
    worker: Worker


@dataclass(frozen=True, slots=True)
class Tools:
    """What the loop needs besides the service."""

    edges: Edges
    metrics: Metrics
    notifier: Notifier
    broker_name: str


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
        inbox: "queue.SimpleQueue[Event]",
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
        self._was_connected = False
        self._num_stale = 0

    def run(self) -> None:
        """Serve until the stop is complete; blocks.

        Raises:
            StalledError: A thread died or the engine hangs.
        """
        clock = self._tools.edges.clock
        while not self._is_stopped(clock()):
            try:
                event = self._inbox.get(timeout=self._wait_s(clock()))
            except queue.Empty:
                pass
            else:
                self._take(event)
            self._service.tick()
            self._count_stale_acknowledgements()
            self._reporter.tick()
            self._supervise(clock())
        self._service.abandon()

    def _take(self, event: Event) -> None:
        match event:
            case Delivery():
                self._service.deliver(event)
            case Published():
                if event.failure is not None:
                    _LOG.warning("message %d is not delivered: %s", event.handle, event.failure)
                self._service.confirm(event.handle)
            case Fragment():
                self._service.fragment(event)
            case Finished():
                self._service.finish(event)
            case StopRequested():
                self._begin_stop(event)
            case _:
                self._note_connection(event)

    def _note_connection(self, event: Connected | ConnectFailed | Disconnected) -> None:
        broker = self._tools.broker_name
        match event:
            case Connected():
                self._count_connection(event)
                _LOG.info("connected to %s over MQTT %s", broker, event.protocol_version)
                self._tools.notifier.status(f"serving on {broker}")
                self._reporter.announce()
            case Disconnected():
                _LOG.warning("disconnected from %s: %s", broker, event.reason)
                self._tools.notifier.status(f"waiting for {broker}: {event.reason}")
            case ConnectFailed():
                _LOG.warning(
                    "no broker at %s: %s; next try in %.0f s",
                    broker,
                    event.reason,
                    event.retry_in_s,
                )
                self._tools.notifier.status(f"waiting for {broker}: {event.reason}")

    def _count_connection(self, event: Connected) -> None:
        metrics = self._tools.metrics
        if not event.is_session_present and self._was_connected:
            metrics.count(Count.LOST_SESSIONS)
        self._was_connected = True
        metrics.count(Count.CONNECTS)

    def _count_stale_acknowledgements(self) -> None:
        number = self._threads.transport.num_stale_acknowledgements
        self._tools.metrics.count(Count.STALE_ACKS, number - self._num_stale)
        self._num_stale = number

    def _begin_stop(self, event: StopRequested) -> None:
        if self._stop_limit_s is not None:
            self._stop_limit_s = float("-inf")  # asked twice: at once
            return
        _LOG.info("%s: stopping", event.signal_name)
        self._stop_limit_s = self._tools.edges.clock() + DRAIN_LIMIT_S
        self._tools.notifier.stopping()
        self._service.drain()
        self._reporter.is_stopping = True
        self._reporter.tick(is_forced=True)

    def _is_stopped(self, now_s: float) -> bool:
        if self._stop_limit_s is None:
            return False
        is_done = not self._service.is_running and not self._service.num_unconfirmed
        return is_done or now_s >= self._stop_limit_s

    def _wait_s(self, now_s: float) -> float:
        times_s = [now_s + LONGEST_WAIT_S, self._reporter.next_tick_s()]
        next_tick_s = self._service.next_tick_s()
        if next_tick_s is not None:
            times_s.append(next_tick_s)
        if self._stop_limit_s is not None:
            times_s.append(self._stop_limit_s)
        interval_s = self._tools.notifier.watchdog_interval_s
        if interval_s is not None:
            times_s.append(self._fed_s + interval_s / 3)
        return max(0.0, min(times_s) - now_s)

    def _supervise(self, now_s: float) -> None:
        if not self._threads.transport.is_alive():
            raise StalledError("the MQTT thread is dead")
        if not self._threads.worker.is_alive:
            raise StalledError("the inference thread is dead")
        stalled_s = self._threads.worker.stalled_s(now_s)
        if stalled_s > STALL_LIMIT_S:
            raise StalledError(f"the engine took no step for {stalled_s:.0f} s")
        interval_s = self._tools.notifier.watchdog_interval_s
        if interval_s is not None and now_s - self._fed_s >= interval_s / 3:
            self._fed_s = now_s
            self._tools.notifier.watchdog()
