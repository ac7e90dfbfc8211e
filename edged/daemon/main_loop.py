"""The main thread: one event at a time from one inbox, and the watchdog fed from progress.

Rule: the watchdog is fed, between any two events if it is due, only while the other threads live
and a running answer took its last step not long ago; never by a timer of its own.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass

from edged.daemon.check import Checked
from edged.daemon.connection_log import ConnectionLog
from edged.daemon.driver import Driver
from edged.daemon.former_session import FormerSession, FromFormer
from edged.daemon.group import Group
from edged.daemon.inbox import Event, FromGroup, FromOther, Inbox, ReloadRequested, StopRequested
from edged.daemon.model_trial import ModelTrial
from edged.daemon.reporting import Reporter
from edged.daemon.sdnotify import Notifier
from edged.errors import EdgedError, UnavailableError
from edged.node.events import (
    Abandon,
    CorrectionKept,
    Drain,
    EscalationReplied,
    Prepared,
    Probed,
    Synced,
    Tick,
)
from edged.node.generation import Finished, Fragment, Paused
from edged.node.pressure import PressureLevel
from edged.protocol.escalation import decode_escalation, is_escalation_reply
from edged.protocol.event import NodeStalled, NodeStopping
from edged.protocol.wire import Delivery
from edged.transport.events import Connected, ConnectFailed, Disconnected, Published

_LOG = logging.getLogger(__name__)


# A prefill chunk or a token that takes longer is a hang.
STALL_LIMIT_S = 30.0
# Between two looks at the threads; a longer time is a pause of the whole process or machine.
PAUSE_S = 20.0
# How long a stop waits for the running answers; the broker keeps the requests of the others.
DRAIN_LIMIT_S = 10.0
# The longest sleep with nothing to do.
LONGEST_WAIT_S = 10.0
# Ticks are due after so long without an event. Before, they would delay the events of one request,
# which follow each other closely.
QUIET_S = 0.001
# Events after which they are due in any case.
MAX_EVENTS = 64


class StalledError(EdgedError):
    """A thread is dead or hangs; systemd, or whoever started the process, must start it again."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the loop runs."""

    driver: Driver
    connection: ConnectionLog
    reporter: Reporter
    notifier: Notifier
    trial: ModelTrial
    group: Group | None = None
    former: FormerSession | None = None


class MainLoop:
    """Run the node until a stop is requested.

    Args:
        inbox: Has the events of the other threads and of signals.
        parts: Handle them.
        read_changed: Reads the configuration again, and raises ``EdgedError`` where it must not be
            used; None where there is no file.
        exchange_specialists: Takes up a change that needs no restart; returns whether it was one,
            and raises ``UnavailableError`` where there is no room for it.
    """

    def __init__(
        self,
        inbox: Inbox,
        parts: Parts,
        read_changed: Callable[[], Checked] | None = None,
        exchange_specialists: Callable[[Checked], bool] = lambda _: False,
    ) -> None:
        self._inbox = inbox
        self._parts = parts
        self._read_changed = read_changed
        self._exchange_specialists = exchange_specialists
        self._clock = parts.driver.edges.clock
        self._operator_events = parts.driver.edges.operator_events
        self._stop_limit_s: float | None = None
        self._fed_s = self._paused_s = float("-inf")
        self._supervised_s = self._clock()
        self.is_reloading = False
        """Whether the loop ended to be started again with a changed configuration."""

    def run(self) -> None:
        """Serve until the stop is complete; blocks.

        Raises:
            StalledError: A thread died or the engine hangs.
            TrialFailedError: What came on trial at a reload does not serve.
        """
        try:
            self._serve()
        except StalledError as error:
            self._operator_events.report(NodeStalled(str(error)))
            raise
        self._parts.driver.take(Abandon())

    def _serve(self) -> None:
        parts = self._parts
        while not self._is_stopped(self._clock()):
            self._take_all(self._wait_s(self._clock()))
            parts.driver.take(Tick())
            for event in parts.trial.tick(parts.driver.node.metrics.served):
                self._operator_events.report(event)
            self._operator_events.tick()
            if parts.group is not None:
                parts.group.tick()
            if parts.former is not None:
                parts.former.tick(self._clock())
            parts.connection.tick()
            parts.reporter.tick()
            self._supervise(self._clock())

    def _take_all(self, wait_s: float) -> None:
        """Wait for an event, and take those that follow it closely."""
        with contextlib.suppress(queue.Empty):
            for _ in range(MAX_EVENTS):
                self._take(self._inbox.get(wait_s))
                self._supervise(self._clock())
                wait_s = QUIET_S

    def _take(self, event: Event) -> None:
        parts = self._parts
        match event:
            case Delivery():
                self._take_delivery(event)
            case Prepared() | Synced() | CorrectionKept():
                parts.driver.take(event)
            case Fragment() | Finished() | Paused() | Probed():
                parts.driver.take(event)
            case Published():
                self._take_published(event)
            case FromGroup() | FromFormer():
                self._take_other(event)
            case StopRequested():
                self._begin_stop(event)
            case ReloadRequested():
                self._begin_reload()
            case _:
                self._take_change(event)

    def _take_change(self, event: Connected | ConnectFailed | Disconnected) -> None:
        parts = self._parts
        parts.connection.take(event)
        if isinstance(event, Connected) and parts.former is not None:
            parts.former.begin(self._clock())

    def _take_other(self, event: FromOther) -> None:
        parts = self._parts
        if isinstance(event, FromGroup):
            if parts.group is not None:
                parts.group.take(event.event)
        elif isinstance(event.event, Delivery):
            self._take_delivery(event.event)
        elif parts.former is not None:
            parts.former.take(event, self._clock())

    def _take_delivery(self, event: Delivery) -> None:
        parts = self._parts
        if event.topic == parts.reporter.status_topic:
            parts.reporter.discovery.take(event)
        elif is_escalation_reply(event.topic, parts.reporter.topics.node):
            parts.driver.edges.transport.acknowledge(event)
            parts.driver.take(EscalationReplied(*decode_escalation(event)))
        else:
            parts.driver.take(event)

    def _take_published(self, event: Published) -> None:
        is_reply = self._parts.driver.confirm(event.handle, event.failure)
        is_event = not is_reply and self._operator_events.confirm(event.handle)
        if event.failure is not None and not (is_reply or is_event):
            _LOG.warning("message %d is not delivered: %s", event.handle, event.failure)

    def _begin_stop(self, event: StopRequested) -> None:
        if self._stop_limit_s is not None and not self.is_reloading:
            self._stop_limit_s = float("-inf")  # asked twice: at once
            return
        _LOG.info("%s: stopping", event.signal_name)
        self.is_reloading = False
        self._parts.notifier.stopping()
        self._operator_events.report(NodeStopping(event.signal_name))
        self._drain()

    def _begin_reload(self) -> None:
        notifier = self._parts.notifier
        if self._read_changed is None or self._stop_limit_s is not None:
            return
        try:
            # Read once: the file may change at any moment.
            changed = self._read_changed()
        except EdgedError as error:
            self._keep_configuration(error)
            return
        notifier.reloading(time.monotonic_ns() // 1000)
        try:
            is_exchanged = self._exchange_specialists(changed)
        except UnavailableError as error:
            notifier.ready()
            self._parts.trial.refuse(changed.config, str(error))
            self._keep_configuration(error)
            return
        if is_exchanged:
            notifier.ready()
            return
        _LOG.info("the configuration is in order: restarting with it")
        self.is_reloading = True
        self._drain()

    def _keep_configuration(self, error: EdgedError) -> None:
        _LOG.error("the configuration is not taken up, the old one stays: %s", error)
        self._parts.notifier.status(f"serving with the old configuration: {error}")

    def _drain(self) -> None:
        self._stop_limit_s = self._clock() + DRAIN_LIMIT_S
        self._parts.driver.take(Drain())
        self._operator_events.flush()
        self._parts.reporter.is_stopping = True
        self._parts.reporter.tick(is_forced=True)

    def _is_stopped(self, now_s: float) -> bool:
        if self._stop_limit_s is None:
            return False
        node = self._parts.driver.node
        is_done = not node.scheduler.running and not node.num_unconfirmed
        return is_done or now_s >= self._stop_limit_s

    def _wait_s(self, now_s: float) -> float:
        times_s = [now_s + LONGEST_WAIT_S, self._parts.reporter.next_tick_s()]
        next_tick_s = self._parts.driver.node.next_tick_s()
        if next_tick_s is not None:
            times_s.append(next_tick_s)
        if self._stop_limit_s is not None:
            times_s.append(self._stop_limit_s)
        if self._parts.group is not None:
            times_s.append(self._parts.group.next_tick_s())
        if self._parts.former is not None:
            times_s.append(self._parts.former.next_tick_s())
        interval_s = self._parts.notifier.watchdog_interval_s
        if interval_s is not None:
            times_s.append(self._fed_s + interval_s / 3)
        return max(0.0, min(times_s) - now_s)

    def _supervise(self, now_s: float) -> None:
        if now_s - self._supervised_s > PAUSE_S:
            _LOG.warning("paused for %.0f s", now_s - self._supervised_s)
            self._paused_s = now_s
        self._supervised_s = now_s
        problem = self._problem(now_s)
        if problem is not None:
            raise StalledError(problem)
        notifier = self._parts.notifier
        interval_s = notifier.watchdog_interval_s
        if interval_s is not None and now_s - self._fed_s >= interval_s / 3:
            self._fed_s = now_s
            notifier.watchdog()

    def _problem(self, now_s: float) -> str | None:
        """Return which part of the process is dead or hangs; None when all is well."""
        parts, edges = self._parts, self._parts.driver.edges
        threads = (
            ("MQTT thread", parts.connection.transport.is_alive()),
            ("MQTT thread of the group", parts.group is None or parts.group.is_alive),
            ("MQTT thread of a former session", parts.former is None or parts.former.is_alive),
            ("inference thread", edges.worker.is_alive),
            ("preparing thread", edges.preparer.is_alive),
        )
        for name, is_alive in threads:
            if not is_alive:
                return f"the {name} is dead"
        if parts.driver.node.guard.level is PressureLevel.RESTART:
            return "memory stays over budget.memory"
        if now_s - self._paused_s < STALL_LIMIT_S:
            return None  # the other threads go on just now
        if (stalled_s := edges.worker.stalled_s(now_s)) > STALL_LIMIT_S:
            return f"the engine took no step for {stalled_s:.0f} s"
        if (busy_s := edges.preparer.busy_s(now_s)) > STALL_LIMIT_S:
            return f"a request was prepared for {busy_s:.0f} s"
        return None
