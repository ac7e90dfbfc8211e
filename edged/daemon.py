"""``edged run``: builds the parts, starts them in order, and ends with an exit code that tells.

Order: configuration → bundle → budget → model → first answer → READY → broker → serve → drain.
Only a wrong configuration or model ends the start (78); a broker that is not there is waited for.
"""

import argparse
import logging
import os
import queue
import signal
import socket
import time
from pathlib import Path

from edged import memory
from edged.attempts import Attempts
from edged.broker_url import BrokerAddress, parse_broker_url
from edged.config import Config, broker_overrides, load_config, node_name_of
from edged.errors import ConfigError, EdgedError, ExitCode, UsageError
from edged.logs import configure_logging
from edged.mainloop import Event, MainLoop, StalledError, StopRequested, Threads, Tools
from edged.messages import RequestDefaults, Topics
from edged.metrics import Metrics
from edged.ports import Edges, Limits
from edged.reporting import OFFLINE, Identity, Reporter
from edged.resident import Language, ResidentModel, load
from edged.sdnotify import Notifier
from edged.service import Service
from edged.transport import BrokerSettings, Transport, Will
from edged.worker import Worker

_LOG = logging.getLogger(__name__)

_HEADROOM = 8
"""Deliveries beyond queue and engine: without it, refusals and cancels would never arrive."""
_MAX_PACKET_BYTES = 65536
"""Between the payload limit and this a request is refused; above it the broker discards it."""
STOP_LIMIT_S = 3.0
"""How long the farewell may take."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged run``."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration (YAML)")
    parser.add_argument("--model", metavar="DIR", help="bundle folder; overrides model.path")
    parser.add_argument(
        "--broker", metavar="URL", help="mqtt://[user:password@]host[:port], or mqtts://"
    )
    parser.add_argument("--node", metavar="NAME", help="name of this device in every topic")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])


def main(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is stopped; return its exit code.

    Raises:
        UsageError: If neither a configuration nor a model is given.
        EdgedError: If the configuration, the model or the budget is wrong.
    """
    config = read_config(arguments)
    configure_logging(config.log.level, config.log.format)
    try:
        return serve(config)
    except EdgedError as error:
        Notifier().status(str(error))
        raise


def read_config(arguments: argparse.Namespace) -> Config:
    """Make the configuration of file and options; options win.

    Raises:
        UsageError: If neither a file nor a model is given.
        ConfigError: If a key or option is wrong; the message starts with its path.
    """
    node = node_name_of(socket.gethostname())
    overrides: dict[str, str | None] = {}
    if arguments.node is not None:
        overrides["node"] = arguments.node
    if arguments.log_level is not None:
        overrides["log.level"] = arguments.log_level
    if arguments.model is not None:
        overrides["model.path"] = arguments.model
    if arguments.broker is not None:
        overrides |= broker_overrides(_broker_address(arguments.broker))
    if arguments.config is None:
        if arguments.model is None:
            raise UsageError("give --config FILE, or --model DIR with --broker URL and --node NAME")
        return load_config("", "command line", default_node=node, overrides=overrides)
    try:
        text = arguments.config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{arguments.config}: cannot be read: {error}") from error
    return load_config(text, str(arguments.config), default_node=node, overrides=overrides)


def _broker_address(url: str) -> BrokerAddress:
    try:
        return parse_broker_url(url)
    except ValueError as error:
        raise ConfigError(f"--broker: {error}") from error


def serve(config: Config) -> int:
    """Load the model, connect and answer until a stop is requested; blocks.

    Raises:
        ConfigError: If the bundle, its budget or a file named in the configuration is wrong.
    """
    notifier = Notifier()
    inbox: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        name = signal.Signals(number).name
        signal.signal(number, lambda *_, name=name: inbox.put(StopRequested(name)))
    # Not handled yet, but never deadly: a terminal that closes does not end the service.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    notifier.status(f"loading {config.model.path}")
    model = load(config)
    notifier.ready()

    topics = Topics(config.prefix, config.node)
    will = Will(topics.availability, OFFLINE)
    settings = _broker_settings(config)
    transport = Transport(
        settings, subscriptions=[topics.request_filter], will=will, emit=inbox.put
    )
    worker = Worker(model.engine, model.tokenizer.detokenizer, inbox.put)
    edges = Edges(
        transport,
        worker,
        Language(model.tokenizer),
        Attempts(config.state.folder),
        time.monotonic,
        memory.snapshot,
    )
    metrics = Metrics()
    service = Service(edges, _limits(config, model), model.speed, metrics)
    reporter = Reporter(Identity(config, model), service, metrics, edges)
    tools = Tools(edges, metrics, notifier, settings.url)
    loop = MainLoop(inbox, Threads(transport, worker), service, reporter, tools)
    worker.start()
    transport.start()
    code = _run(loop)
    transport.stop([will], STOP_LIMIT_S)
    if not worker.stop(STOP_LIMIT_S):
        # A run of the model cannot be broken off, and leaving under it ends in a crash.
        os._exit(code)
    return code


def _limits(config: Config, model: ResidentModel) -> Limits:
    return Limits(
        defaults=_request_defaults(config),
        budget=model.footprint.budget,
        max_model_len=model.engine.max_model_len,
        kv_bytes_per_token=model.bundle.manifest.model.kv_bytes_per_token,
        max_waiting=config.queue.size,
        model_id=model.bundle.model_id,
    )


def _run(loop: MainLoop) -> ExitCode:
    try:
        loop.run()
    except StalledError as error:
        _LOG.error("%s; leaving, to be started again", error)
        return ExitCode.SOFTWARE
    _LOG.info("stopped")
    return ExitCode.OK


def _broker_settings(config: Config) -> BrokerSettings:
    """Translate the configuration for the transport.

    Raises:
        ConfigError: If the password file cannot be read.
    """
    broker = config.broker
    password = broker.password
    if broker.password_file is not None:
        try:
            password = broker.password_file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"broker.password_file: cannot be read: {error}") from error
    return BrokerSettings(
        host=broker.host,
        port=broker.port,
        client_id=config.client_id,
        username=broker.username,
        password=password,
        is_tls=broker.tls,
        ca_file=broker.ca_file,
        keepalive_s=round(broker.keepalive_s),
        session_expiry_s=round(broker.session_expiry_s),
        receive_maximum=config.queue.size + 1 + _HEADROOM,
        max_packet_bytes=max(_MAX_PACKET_BYTES, config.request.max_payload_bytes * 4),
        protocol=broker.protocol.value,
    )


def _request_defaults(config: Config) -> RequestDefaults:
    request = config.request
    return RequestDefaults(
        node=config.node,
        prefix=config.prefix,
        timeout_s=request.timeout_s,
        max_timeout_s=request.max_timeout_s,
        max_tokens=request.max_tokens,
        max_payload_bytes=request.max_payload_bytes,
        is_system_allowed=request.allow_system,
        system=request.system_prompt,
        reply_prefixes=request.reply_prefixes,
    )
