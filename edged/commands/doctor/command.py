"""``edged doctor``: run the checks, print the findings, return the exit status."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import edged
from edged.bundle.folder import Bundle
from edged.commands.doctor.broker import check_broker
from edged.commands.doctor.cpu import check_cpu
from edged.commands.doctor.device import check_device
from edged.commands.doctor.finding import Finding, Level, failure
from edged.commands.doctor.model import (
    check_attention,
    check_memory,
    check_specialists,
    open_model,
)
from edged.commands.doctor.offline import check_offline
from edged.commands.doctor.reach import allowed_of, check_reach
from edged.commands.doctor.service import Service, check_service, failed_unit, find_service
from edged.config.keys import Config
from edged.daemon.invocation import add_config_arguments, read_config
from edged.errors import EdgedError, ExitCode

DEFAULT_CONFIG = Path("/etc/edged/edged.yaml")
_MARKS = {Level.OK: "ok  ", Level.WARNING: "look", Level.FAILURE: "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged doctor``."""
    add_config_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument(
        "--offline", action="store_true", help="check only what the running service connects to"
    )
    parser.add_argument(
        "--unit", default="edged.service", help="the service (default: %(default)s)"
    )
    parser.add_argument("--pid", type=int, help="its process, if systemd does not run it")


def main(arguments: argparse.Namespace) -> int:
    """Run all checks; return 0 when none failed, else 1."""
    if arguments.config is None and arguments.model is None:
        arguments.config = _configuration(arguments.unit)
    found: list[Finding] = []
    for finding in _findings(arguments):
        found.append(finding)
        if not arguments.json:
            _print(finding)
    num_failed = sum(finding.level is Level.FAILURE for finding in found)
    if arguments.json:
        members = [finding.members() for finding in found]
        document = {"edged": edged.__version__, "ok": num_failed == 0, "findings": members}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    return ExitCode.FAILURE if num_failed else ExitCode.OK


def _configuration(unit: str) -> Path:
    """Return the file that the unit names."""
    instance = unit.removesuffix(".service").partition("@")[2]
    return DEFAULT_CONFIG.with_name(f"{instance}.yaml") if instance else DEFAULT_CONFIG


def _print(finding: Finding) -> None:
    print(f"{_MARKS[finding.level]}  {finding.check}: {finding.said}")
    if finding.advice is not None:
        print(f"      -> {finding.advice}")
    sys.stdout.flush()


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    try:
        config = read_config(arguments)
    except EdgedError as error:
        yield failure("configuration", str(error), "correct it, or name another with --config")
        if not arguments.offline:
            yield from check_cpu(None)
            yield from check_device(())
        return
    service = find_service(arguments.unit, arguments.pid)
    if arguments.offline:
        yield from _offline(config, service)
        return
    failed = None if arguments.pid is not None else failed_unit(arguments.unit)
    yield from _everything(config, service, failed)
    if service is not None and arguments.pid is None:
        yield from check_reach(config.broker, allowed_of(arguments.unit))


def _offline(config: Config, service: Service | None) -> Iterator[Finding]:
    if service is None:
        yield failure("service", "no running service found", "start it, or use --pid")
    else:
        yield from check_offline(service.pid, config.broker)


def _everything(config: Config, service: Service | None, failed: str | None) -> Iterator[Finding]:
    bundle, model = open_model(config)
    yield from check_cpu(bundle.manifest if bundle else None)
    folders = (config.state.folder,) if config.state.folder is not None else ()
    yield from check_device(folders)
    yield model
    if bundle is not None:
        yield from _of_the_model(config, bundle, service)
    yield from check_broker(config)
    yield from check_service(config, service, time.time(), failed)
    if service is not None:
        yield from check_offline(service.pid, config.broker)


def _of_the_model(config: Config, bundle: Bundle, service: Service | None) -> Iterator[Finding]:
    yield from check_specialists(config, bundle.manifest)
    yield check_memory(config, bundle, 0 if service is None else service.resident_bytes)
    yield from check_attention(config, bundle)
