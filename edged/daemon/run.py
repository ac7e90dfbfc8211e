"""``edged run``: builds the parts, starts them in order, and ends with an exit code that tells.

Order: configuration → bundle → budget → model → first answer → READY → broker → serve → drain.
Only a wrong configuration ends the start (78). Memory, files or a broker that are not there are
waited for.
"""

import argparse
import logging
import os
import queue
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import edged
from edged.config import Config, LogFormat
from edged.daemon import memory, sensors
from edged.daemon.check import Reload
from edged.daemon.driver import Driver, Edges
from edged.daemon.group import FromGroup, Group, Lines, group_filters
from edged.daemon.inbox import Inbox
from edged.daemon.invocation import (
    add_config_arguments,
    check_broker_files,
    read_config,
)
from edged.daemon.journal_file import JournalFile
from edged.daemon.latency_file import known_cost
from edged.daemon.loader import ModelLanguage, ResidentModel, load
from edged.daemon.logs import configure_logging
from edged.daemon.main_loop import (
    Event,
    MainLoop,
    Parts,
    ReloadRequested,
    StalledError,
    StopRequested,
    is_delivery,
)
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.preparer import Preparer
from edged.daemon.reporting import OFFLINE, Identity, Reporter
from edged.daemon.sdnotify import Notifier
from edged.daemon.sensors import read_device
from edged.daemon.startup import Startup, WaitingReport
from edged.daemon.wiring import (
    broker_settings,
    energy_model,
    group_settings,
    limits_of,
    status_topic,
    topics_of,
)
from edged.daemon.worker import Meter, Worker
from edged.errors import EdgedError, ExitCode
from edged.node.events import Synced
from edged.node.node import Node
from edged.protocol.event import NodeStarted
from edged.scheduling.latency_model import LatencyModel
from edged.transport import Transport, Will

_LOG = logging.getLogger(__name__)

# How long the farewell may take.
STOP_LIMIT_S = 3.0


@dataclass(frozen=True, slots=True)
class _Lines:
    """The connections to the broker."""

    own: Transport
    group: Transport | None = None

    def close(self, farewell: Will) -> None:
        """Say goodbye and disconnect; blocks for a moment."""
        if self.group is not None:
            self.group.stop(timeout_s=1.0)
        self.own.stop([farewell], STOP_LIMIT_S)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged run``."""
    add_config_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is stopped; return its exit code.

    Raises:
        UsageError: If neither a configuration nor a model is given.
        EdgedError: If the configuration is wrong, or its model can never fit.
    """
    configure_logging("info", LogFormat.AUTO)  # until it is known what is configured
    try:
        # Without a file there is nothing that could have changed.
        is_reloadable = arguments.config is not None
        return serve(partial(read_config, arguments), is_reloadable=is_reloadable)
    except EdgedError as error:
        Notifier().status(str(error))
        raise


def serve(
    read: Callable[[], Config],
    load_model: Callable[[Config], ResidentModel] = load,
    *,
    is_reloadable: bool = False,
) -> int:
    """Load the model, connect and answer until a stop is requested; blocks.

    Args:
        read: Reads all settings.
        load_model: What makes the model resident; a measurement of the wire brings its own.
        is_reloadable: Whether the settings are read anew at SIGHUP; else the signal is ignored.

    Raises:
        ConfigError: If the configuration is wrong, or its model can never fit.
    """
    notifier = Notifier()
    inbox: Inbox[Event] = Inbox(is_delivery)
    _catch_signals(inbox, is_reloadable=is_reloadable)
    started = _start(read, load_model, partial(_is_stopped, inbox, read), notifier)
    if started is None:
        return ExitCode.OK
    config, model = started
    notifier.ready()

    lines = _connect(config, inbox)
    reload = Reload(read, model.bundle) if is_reloadable else None
    parts = _assemble(config, model, inbox, lines, notifier, reload)
    parts.edges.worker.start_thread()
    parts.edges.preparer.start_thread()
    loop = MainLoop(inbox, parts)
    code = _run(loop)
    lines.close(Will(topics_of(config).availability, OFFLINE))
    is_idle = parts.edges.worker.stop(STOP_LIMIT_S)
    if loop.is_reloading:
        _start_anew()
    if not is_idle:
        # A run of the model cannot be broken off, and leaving under it ends in a crash.
        os._exit(code)
    return code


def _start(
    read: Callable[[], Config],
    load_model: Callable[[Config], ResidentModel],
    wait: Callable[[float], bool],
    notifier: Notifier,
) -> tuple[Config, ResidentModel] | None:
    """Read the settings and load the model, as often as it takes; None if asked to stop."""
    config = Startup(wait, WaitingReport(notifier).failed).attempt(read)
    if config is None:
        return None
    configure_logging(config.log.level, config.log.format)
    notifier.status(f"loading {config.model.path}")

    def load_all() -> ResidentModel:
        check_broker_files(config.broker)  # before the model is loaded for nothing
        return load_model(config)

    report = WaitingReport(notifier, config)
    try:
        model = Startup(wait, report.failed).attempt(load_all)
    finally:
        report.close()
    return None if model is None else (config, model)


def _is_stopped(inbox: Inbox[Event], read: Callable[[], Config], pause_s: float) -> bool:
    """Wait for the next attempt of a start; True if a stop is requested meanwhile."""
    try:
        event = inbox.get(pause_s)
    except queue.Empty:
        return False
    if isinstance(event, StopRequested):
        _LOG.info("%s: stopping before the start was complete", event.signal_name)
        return True
    try:
        read()
    except EdgedError as error:
        _LOG.error("the configuration is not taken up: %s", error)
    else:
        _start_anew()
    return False


def _catch_signals(inbox: Inbox[Event], *, is_reloadable: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        name = signal.Signals(number).name
        signal.signal(number, lambda *_, name=name: inbox.put(StopRequested(name)))
    # Never deadly: a terminal that closes does not end the service.
    catch = (lambda *_: inbox.put(ReloadRequested())) if is_reloadable else signal.SIG_IGN
    signal.signal(signal.SIGHUP, catch)


def _connect(config: Config, inbox: Inbox[Event]) -> _Lines:
    """Begin to connect, in the background.

    Raises:
        UnavailableError: If a file that the connection needs cannot be read.
    """
    topics, settings = topics_of(config), broker_settings(config)
    own = Transport(
        settings,
        subscriptions=[topics.request_filter, status_topic(config)],
        will=Will(topics.availability, OFFLINE),
        emit=inbox.put,
        backlog=inbox.qsize,
    )
    own.start()
    if topics.group is None:
        return _Lines(own)
    group = Transport(
        group_settings(settings, config),
        subscriptions=group_filters(topics),
        will=None,
        emit=lambda event: inbox.put(FromGroup(event)),
        backlog=inbox.qsize,
    )
    group.start()
    return _Lines(own, group)


def _assemble(
    config: Config,
    model: ResidentModel,
    inbox: Inbox[Event],
    lines: _Lines,
    notifier: Notifier,
    reload: Reload | None,
) -> Parts:
    """Build what the loop runs; nothing of it is started but the journal's thread."""
    topics, limits = topics_of(config), limits_of(config, model)
    journal = JournalFile(config.state.folder, lambda key: inbox.put(Synced(key)))
    node = Node(limits, LatencyModel(known_cost(config, model)), journal.read())
    transport = lines.own if lines.group is None else Lines(lines.own, lines.group, topics)
    meter = Meter(sensors.read_joules, energy_model(config))
    edges = Edges(
        transport,
        Worker(model.engine, model.tokenizer.detokenizer, inbox.put, meter=meter),
        Preparer(ModelLanguage(model.tokenizer), limits, inbox.put),
        journal,
        OperatorEvents(transport, topics, node.metrics, time.monotonic),
        time.monotonic,
        memory.snapshot,
        read_device,
    )
    driver = Driver(node, edges, limits.defaults)
    edges.operator_events.report(
        NodeStarted(edged.__version__, model.bundle.model_id, node.num_unfinished)
    )
    group = None
    if lines.group is not None:
        group = Group(lines.group, topics, driver.take, edges.operator_events, edges.clock)
    reporter = Reporter(Identity(config, model), node, edges, group)
    broker_name = broker_settings(config).url
    return Parts(lines.own, edges, node, driver, reporter, notifier, broker_name, group, reload)


def _run(loop: MainLoop) -> ExitCode:
    try:
        loop.run()
    except StalledError as error:
        _LOG.error("%s; leaving, to be started again", error)
        return ExitCode.SOFTWARE
    _LOG.info("stopped")
    return ExitCode.OK


def _start_anew() -> NoReturn:
    """Become a new process under the same id, with the command line this one was started with.

    Threads end without unwinding, so whatever must be told or written has been.
    """
    # Python's handlers do not survive: until the new process has its own, a second reload is lost
    # rather than deadly.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - its own program
