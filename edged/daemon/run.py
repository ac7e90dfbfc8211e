"""``edged run``: build the parts, start them in order, and end with an exit code.

Order: configuration → bundle → budget → model → first answer → READY → broker → serve → drain.
Only a wrong configuration ends the start (78). It waits for memory, files and a broker.
"""

import argparse
import logging
import os
import queue
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NoReturn

import edged
from edged.config.keys import Config
from edged.daemon import memory
from edged.daemon.check import Checked, changed
from edged.daemon.client_id import client_ids, forget_former
from edged.daemon.confinement import Confinement
from edged.daemon.connection_log import ConnectionLog
from edged.daemon.corrections_file import CorrectionKeeper, CorrectionsFile
from edged.daemon.driver import Driver, Edges
from edged.daemon.former_session import FormerLines, FormerSession
from edged.daemon.group import STOP_LIMIT_S, Connections, Group, group_filters
from edged.daemon.inbox import FromGroup, Inbox, ReloadRequested, StopRequested
from edged.daemon.invocation import add_config_arguments, check_broker_files, read_config
from edged.daemon.journal_file import JournalFile
from edged.daemon.loader import ResidentModel, load
from edged.daemon.logs import configure_logging
from edged.daemon.main_loop import MainLoop, Parts, StalledError
from edged.daemon.measurements import known_cost
from edged.daemon.model_trial import ModelTrial, TrialFailedError
from edged.daemon.operator_events import OperatorEvents
from edged.daemon.preparer import Preparer
from edged.daemon.reporting import OFFLINE, ONLINE, Reporter
from edged.daemon.sdnotify import Notifier
from edged.daemon.sensors import read_device
from edged.daemon.specialist_folders import needs_adapters, planned_bytes
from edged.daemon.startup import WaitingReport, attempt
from edged.daemon.wiring import (
    broker_settings,
    energy_meter,
    group_settings,
    identity_advice,
    limits_of,
    own_filters,
    topics_of,
)
from edged.daemon.worker import Worker
from edged.engine.grammar import compile_format
from edged.engine.writer_prompts import WriterPrompts
from edged.errors import EdgedError, ExitCode, UnavailableError
from edged.node.events import Synced
from edged.node.ledger import Account
from edged.node.node import Node
from edged.protocol.event import NodeStarted
from edged.protocol.wire import Encoded, WireProperties
from edged.scheduling.latency_model import LatencyModel
from edged.specialists.corrections import FILE_NAME
from edged.transport.clock import boot_s
from edged.transport.network import Transport
from edged.transport.settings import Will

_LOG = logging.getLogger(__name__)

# What the messages of a former session may take beyond the longest deadline.
GRACE_S = 60.0

add_arguments = add_config_arguments


def main(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is stopped; return its exit code.

    Raises:
        EdgedError: If the configuration is wrong, or its model can never fit.
    """
    configure_logging("info", "auto")  # until the configuration is read
    confinement = Confinement()

    def read() -> Config:
        config = read_config(arguments)
        confinement.apply(config.broker)  # the first time, before there is another thread
        return config

    try:
        # Without a file there is nothing that could have changed.
        is_reloadable = arguments.config is not None
        return serve(read, is_reloadable=is_reloadable)
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
        load_model: Makes the model resident; ``benchmarks.wire`` has one that takes no time.
        is_reloadable: Whether SIGHUP has the settings read again; else it is ignored.
    """
    notifier = Notifier()
    inbox = Inbox()
    _catch_signals(inbox, is_reloadable=is_reloadable)
    started = _start(read, load_model, inbox, notifier)
    if started is None:
        return ExitCode.OK
    model, trial = started
    notifier.ready()

    connections = _connect(model.config, inbox)
    parts = _assemble(model, trial, inbox, connections, notifier)
    worker = parts.driver.edges.worker
    worker.start_thread()
    parts.driver.edges.preparer.start_thread()
    read_changed = partial(changed, read, model.bundle.sha256) if is_reloadable else None
    loop = MainLoop(inbox, parts, read_changed, partial(exchange_specialists, model, parts))
    code = _run(loop)
    connections.close(Will(topics_of(model.config).availability, OFFLINE))
    is_idle = worker.stop(STOP_LIMIT_S)
    if code is ExitCode.OK:
        trial.stop()
    if loop.is_reloading:
        _restart()
    if not is_idle:
        # A run of the model cannot be interrupted, and to unload the library under it crashes.
        os._exit(code)
    return code


def _start(
    read: Callable[[], Config],
    load_model: Callable[[Config], ResidentModel],
    inbox: Inbox,
    notifier: Notifier,
) -> tuple[ResidentModel, ModelTrial] | None:
    """Read the settings and load the model, as often as it takes; None if asked to stop.

    Raises:
        EdgedError: The configuration is wrong, or what is on trial cannot be loaded.
    """
    is_stopped = partial(_is_stopped, inbox, read, lambda: None)
    config = attempt(read, is_stopped, WaitingReport(notifier).failed)
    if config is None:
        return None
    configure_logging(config.log.level, config.log.format)
    notifier.status(f"loading {config.model.path}")
    trial = ModelTrial(config, boot_s)

    def load_all() -> ResidentModel:
        check_broker_files(config.broker)  # before the model is loaded for nothing
        loaded = trial.load(partial(load_model, config))
        trial.check(loaded.specialists.problems)
        return loaded

    report = WaitingReport(notifier, config)
    try:
        model = attempt(load_all, partial(_is_stopped, inbox, read, trial.stop), report.failed)
    finally:
        report.close()
    if model is None:
        trial.stop()
        return None
    return model, trial


def _is_stopped(
    inbox: Inbox, read: Callable[[], Config], leave: Callable[[], None], pause_s: float
) -> bool:
    """Wait for the next attempt of a start; True if a stop is requested meanwhile.

    ``leave`` is called before the process is replaced by a new one.
    """
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
        leave()
        _restart()
    return False


def _catch_signals(inbox: Inbox, *, is_reloadable: bool) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        name = signal.Signals(number).name
        signal.signal(number, lambda *_, name=name: inbox.put(StopRequested(name)))
    # Not the default, which ends the process: a terminal that is closed must not end the service.
    catch = (lambda *_: inbox.put(ReloadRequested())) if is_reloadable else signal.SIG_IGN
    signal.signal(signal.SIGHUP, catch)


def _connect(config: Config, inbox: Inbox) -> Connections:
    """Begin to connect, in the background."""
    advice = identity_advice(config)
    if advice is not None:
        _LOG.warning("the broker has accounts, and requests without one are answered: %s", advice)
    topics, settings, filters = topics_of(config), broker_settings(config), own_filters(config)
    ids = client_ids(config, settings.address.password)
    settings = replace(settings, client_id=ids.own)
    own = Transport(
        settings,
        subscriptions=filters,
        will=Will(topics.availability, OFFLINE),
        emit=inbox.put,
        backlog=inbox.qsize,
    )
    own.start()
    group = None
    if topics.group is not None:
        group = Transport(
            group_settings(settings, config),
            subscriptions=group_filters(topics),
            will=None,
            emit=lambda event: inbox.put(FromGroup(event)),
            backlog=inbox.qsize,
        )
        group.start()
    former = None
    if ids.former:
        former = FormerSession(
            ids.former,
            FormerLines(
                settings, tuple(filters), inbox.qsize, config.request.max_timeout_s + GRACE_S
            ),
            Encoded(topics.availability, ONLINE, WireProperties()),
            inbox.put,
            lambda left: forget_former(config, ids._replace(former=tuple(left))),
        )
    return Connections(own, group, former)


def _assemble(
    model: ResidentModel,
    trial: ModelTrial,
    inbox: Inbox,
    connections: Connections,
    notifier: Notifier,
) -> Parts:
    """Build the parts of the loop; only the journal's thread is started."""
    config, limits, tokenizer = model.config, limits_of(model), model.tokenizer
    topics = limits.defaults.topics
    journal = JournalFile(config.state.folder, lambda key: inbox.put(Synced(key)))
    cost = model.cost or known_cost(config, model.bundle, model.engine)
    node = Node(limits, LatencyModel(cost), journal.read())
    events = OperatorEvents(connections, topics, node.metrics, boot_s)
    edges = Edges(
        connections,
        Worker(model.engine, tokenizer.detokenizer, inbox.put, meter=energy_meter(config)),
        Preparer(
            tokenizer.encode_chat,
            partial(compile_format, tokenizer),
            limits,
            inbox.put,
            lambda: model.specialists.installed,
            WriterPrompts(tokenizer, limits.max_model_len).prepare,
        ),
        journal,
        events,
        boot_s,
        memory.snapshot,
        read_device,
        _correction_keeper(model, inbox),
    )
    driver = Driver(node, edges, limits.defaults)
    events.report(NodeStarted(edged.__version__, model.bundle.model_id, node.num_unfinished))
    group = None
    if connections.group is not None:
        group = Group(connections.group, topics, driver)
    reporter = Reporter(model, driver, trial, group)
    broker_name = connections.own.settings.address.url
    log = ConnectionLog(connections.own, broker_name, driver, reporter, notifier)
    return Parts(driver, log, reporter, notifier, trial, group, connections.former)


def _correction_keeper(model: ResidentModel, inbox: Inbox) -> CorrectionKeeper:
    folder, limit = model.config.state.folder, model.config.state.corrections
    if folder is None or not limit:
        return CorrectionKeeper()
    file = CorrectionsFile(folder / FILE_NAME, limit)
    return CorrectionKeeper(file, lambda: model.specialists.installed, inbox.put)


def exchange_specialists(model: ResidentModel, parts: Parts, changed: Checked) -> bool:
    """Take up a reload that concerns nothing but specialists; return whether it was one.

    The first one needs a place in the cache, and the first that writes another graph of the model,
    so both take a restart.

    Raises:
        UnavailableError: There is no room for them; the old ones stay.
        TrialFailedError: One on trial does not serve.
    """
    config, named = changed
    if replace(config, specialists=model.config.specialists) != model.config:
        return False
    # Of a store, the same link may lead to another model by now.
    if (named.resolved, named.sha256) != (model.bundle.resolved, model.bundle.sha256):
        return False
    folders = config.specialists
    if not model.config.specialists or not model.specialists.is_changed(folders):
        return False
    is_adaptable = model.bundle.manifest.takes_adapters and not model.engine.adapter_shape
    if is_adaptable and needs_adapters(folders):
        return False
    ledger, num_slots = parts.driver.node.guard.ledger, model.engine.num_slots
    needed_bytes = planned_bytes(folders, num_slots)
    if needed_bytes > ledger.free_bytes:
        needed_mib = needed_bytes >> 20
        raise UnavailableError(f"specialists: {needed_mib} MiB do not fit into budget.memory")
    # Before they are read: what is installed from now on is watched from its own reload on.
    parts.trial.begin(config, parts.driver.node.metrics.served)
    model.specialists.read(folders)
    parts.trial.check(model.specialists.problems)
    ledger.exchange(Account.SPECIALISTS, model.specialists.installed.held_bytes(num_slots))
    memory.return_freed()
    parts.reporter.announce()
    return True


def _run(loop: MainLoop) -> ExitCode:
    try:
        loop.run()
    except (StalledError, TrialFailedError) as error:
        _LOG.error("%s; leaving, to be started again", error)
        return ExitCode.SOFTWARE
    _LOG.info("stopped")
    return ExitCode.OK


def _restart() -> NoReturn:
    """Become a new process under the same id, with the same command line."""
    # Threads end without unwinding: everything must be published and written before.
    # Python's handlers do not survive ``exec``: until the new process has its own, a second reload
    # must be lost and not end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - its own program
