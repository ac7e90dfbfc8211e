"""``edged install``: the command line, and the steps of an installation."""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import edged
from edged.bundle.folder import open_bundle
from edged.bundle.trust import read_trust
from edged.commands.doctor.service import unit_properties
from edged.commands.install import settings as options
from edged.commands.install.layout import (
    LOCAL_PREFIX,
    MODELS,
    SHORTCUT,
    UNIT_FILES,
    UNITS,
    USER,
    InstallError,
    Layout,
    add_layout_arguments,
    read_layout,
)
from edged.commands.install.machine import Machine, succeeds
from edged.commands.install.settings import Settings, configuration_text, drop_in_text
from edged.config.load import load_config
from edged.daemon.memory_plan import PROCESS_BYTES, divide_memory
from edged.errors import ExitCode, UsageError
from edged.scheduling.memory_budget import MemorySnapshot

# For a stop and one attempt to start, as in the unit; a start that waits continues afterwards.
START_LIMIT_S = 200.0
_BACKOFF_VERSION = 254  # the first systemd with the keys of edged-backoff.conf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged install``."""
    options.add_arguments(parser)
    add_layout_arguments(parser)
    parser.add_argument("--no-start", action="store_true", help="start at the next boot only")
    parser.add_argument(
        "--unit-only", action="store_true", help="only rewrite what the unit gets of the settings"
    )


def main(arguments: argparse.Namespace) -> int:
    """Install, or print what that would do.

    Raises:
        UsageError: If an option is missing or wrong, or the model does not fit the budget.
        InstallError: If the configuration was edited by hand, or a change fails.
        EdgedError: If the model or the configuration is wrong.
    """
    layout = read_layout(arguments)
    settings, is_ours = options.read_settings(arguments, layout)
    if arguments.unit_only:
        machine = Machine(is_dry_run=arguments.dry_run, root=layout.root)
        _write_drop_ins(machine, layout, settings)
        return ExitCode.OK
    note = layout.inside(layout.note) if layout.is_live else None
    machine = Machine(is_dry_run=arguments.dry_run, root=layout.root, note=note)
    _check_fit(layout, settings, arguments.model)
    if not layout.is_packaged:
        _check_program(layout)
        _prepare_system(machine, layout)
    if arguments.model is not None and layout.inside(settings.model) != arguments.model.resolve():
        machine.copy_model(arguments.model, layout.inside(settings.model))
    _configure(machine, layout, settings, is_ours=is_ours)
    _enable(machine, layout, is_started=not arguments.no_start)
    if not arguments.dry_run:
        print(f"installed; try: {_first_question(settings)}")
    return ExitCode.OK


def _first_question(settings: Settings) -> str:
    """Return the command that asks the node; USER is an account of a client, not the node's."""
    url, node = settings.broker.url, f" --node {settings.node}" if settings.node else ""
    if settings.needs_identity:
        url = url.replace("://", "://USER:PASSWORD@")
    return f"edged ask --broker {url}{node} 'What is the capital of France?'"


def _check_fit(layout: Layout, settings: Settings, model: Path | None) -> None:
    """Check before any change that the service may use the model, and that it fits the budget.

    Raises:
        SignatureError: If a new one is not signed by a key that the target system needs.
        UsageError: If it does not fit.
    """
    config = load_config(configuration_text(layout, settings), "edged.yaml")
    # What is installed may be used by a configuration that was edited by hand.
    trust = None if model is None else read_trust(layout.inside(config.security.keys))
    bundle = open_bundle(model or layout.inside(settings.model), verify=False, trust=trust)
    memory_bytes = config.budget.memory_bytes or settings.budget_bytes
    config = replace(config, budget=replace(config.budget, memory_bytes=memory_bytes))
    # The target may be another device, so only the budget is checked.
    problem = divide_memory(config, bundle, MemorySnapshot(PROCESS_BYTES, sys.maxsize)).problem
    if problem is not None:
        raise UsageError(f"--budget: {settings.budget_bytes >> 20}M is too small: {problem}")


def _check_program(layout: Layout) -> None:
    """Check that the environment has edged in the version of these units.

    Raises:
        InstallError: If it has not.
    """
    prefix = layout.inside(layout.prefix)
    name = f"lib/python3*/site-packages/edged-{edged.__version__}.dist-info"
    if not (prefix / "bin" / "edged").exists() or not any(prefix.glob(name)):
        raise InstallError(
            f"{prefix}: no edged {edged.__version__} there; create the environment first:"
            f" `python3 -m venv {prefix}`, then `{prefix}/bin/pip install` what this edged was"
            " installed from"
        )


def _prepare_system(machine: Machine, layout: Layout) -> None:
    """Install what the Debian package contains: unit, user, folders and command."""
    root = f"--root={layout.inside('/')}"
    unit = (UNIT_FILES / layout.unit_file).read_text("utf-8")
    unit = unit.replace(f"{LOCAL_PREFIX}/", f"{layout.prefix}/")
    machine.write(layout.inside(UNITS / layout.unit_file), unit)
    if not has_user(layout):
        sysusers = str(UNIT_FILES / "edged.sysusers")
        machine.run(f"create the user {USER}", ["systemd-sysusers", root, sysusers])
    if not all(layout.inside(path).is_dir() for path in (layout.password.parent, MODELS)):
        tmpfiles = str(UNIT_FILES / "edged.tmpfiles")
        machine.run("create the folders", ["systemd-tmpfiles", root, "--create", tmpfiles])
    if not layout.inside(SHORTCUT).exists():
        program = f'#!/bin/sh\nexec {layout.prefix}/bin/edged "$@"\n'
        machine.write(layout.inside(SHORTCUT), program, 0o755)


def _configure(machine: Machine, layout: Layout, settings: Settings, *, is_ours: bool) -> None:
    """Write the secrets, the configuration, and the drop-ins for the unit."""
    if settings.broker.password is not None:
        machine.write(layout.inside(layout.password), settings.broker.password + "\n", 0o600)
    if settings.authority is not None and settings.has_authority:
        machine.write(layout.inside(layout.authority), settings.authority)
    if is_ours:
        text = configuration_text(layout, settings)
        machine.write(layout.inside(layout.configuration), text)
    _write_drop_ins(machine, layout, settings)


def _write_drop_ins(machine: Machine, layout: Layout, settings: Settings) -> None:
    drop_ins = layout.inside(layout.drop_ins)
    machine.write(drop_ins / "10-install.conf", drop_in_text(layout, settings))
    if _systemd_version() >= _BACKOFF_VERSION:
        backoff = (UNIT_FILES / "edged-backoff.conf").read_text("utf-8")
        machine.write(drop_ins / "20-backoff.conf", backoff)


def _enable(machine: Machine, layout: Layout, *, is_started: bool) -> None:
    """Enable the service at boot, and start it now if ``is_started``.

    Raises:
        InstallError: If it does not start; with the end of the journal.
    """
    unit = layout.unit
    if not layout.is_live:
        if not layout.inside(layout.wanted).is_symlink():
            root = f"--root={layout.inside('/')}"
            machine.run("start it at every boot", ["systemctl", root, "enable", unit])
        return
    is_changed = machine.is_changed_since(lambda: _started_us(unit))
    if is_changed:
        machine.run("reload the units", ["systemctl", "daemon-reload"])
    if not succeeds("systemctl", "--quiet", "is-enabled", unit):
        machine.run("start it at every boot", ["systemctl", "enable", unit])
    if is_started and (is_changed or not succeeds("systemctl", "--quiet", "is-active", unit)):
        try:
            purpose = "start it and wait for its first answer"
            machine.run(purpose, ["systemctl", "restart", unit], START_LIMIT_S)
        except InstallError as error:
            journal = ["journalctl", "--no-pager", "--output=cat", "--lines=5", "--unit", unit]
            lines = subprocess.run(journal, capture_output=True, text=True, check=False).stdout
            raise InstallError(f"{error}\n{lines}".rstrip()) from error
        finally:
            machine.forget_changes()  # a service that failed is not active


def _started_us(unit: str) -> int:
    """Return when the running service started; 0 if it did not, or with other units than now."""
    shown = unit_properties(unit, "ExecMainStartTimestampMonotonic", "NeedDaemonReload")
    started_us = shown.get("ExecMainStartTimestampMonotonic", "")
    is_current = shown.get("NeedDaemonReload") == "no" and started_us.isdecimal()
    return int(started_us) if is_current else 0


def has_user(layout: Layout) -> bool:
    """Return whether the user of the service exists in the target system."""
    return account_of(layout) is not None


def account_of(layout: Layout) -> list[str] | None:
    """Return the fields of the service's user in the target's ``/etc/passwd``, if it is there."""
    passwd = layout.inside("/etc/passwd")
    lines = passwd.read_text("utf-8").splitlines() if passwd.exists() else []
    fields = (line.split(":") for line in lines)
    return next((found for found in fields if found[0] == USER), None)


def _systemd_version() -> int:
    try:
        result = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return 0
    words = result.stdout.split()
    return int(words[1]) if len(words) > 1 and words[1].isdecimal() else 0
