"""``edged install``: the command line of an installation."""

import argparse
import subprocess
import sys
from pathlib import Path

from edged.bundle.folder import open_bundle
from edged.commands.install import plan
from edged.commands.install.configuration import Settings, configuration_text, read_current
from edged.commands.install.layout import (
    LOCAL_PREFIX,
    PACKAGE_PREFIX,
    InstallError,
    Layout,
    need_root,
)
from edged.commands.install.steps import carry_out
from edged.commands.install.wishes import Wishes, decide, read_wishes
from edged.commands.install.wishes import add_arguments as add_wish_arguments
from edged.config import load_config
from edged.daemon.memory_plan import PROCESS_BYTES
from edged.daemon.memory_plan import check as check_footprint
from edged.errors import ExitCode, UsageError
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged install``."""
    add_wish_arguments(parser)
    add_layout_arguments(parser)
    parser.add_argument(
        "--source",
        metavar="WHAT",
        help="wheel, checkout or requirement for pip (default: what this program came from)",
    )
    parser.add_argument("--no-start", action="store_true", help="start it at the next boot only")


def add_layout_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say where, for both commands."""
    parser.add_argument("--instance", metavar="NAME", help="one of several services: edged@NAME")
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="DIR",
        help=f"environment of the program (default: {LOCAL_PREFIX}, or the Debian package's)",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="another system, not this one"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would do; change nothing"
    )


def layout_of(arguments: argparse.Namespace) -> Layout:
    """Make the layout of the options.

    Raises:
        UsageError: If a folder is not absolute.
        InstallError: If the instance cannot be called so.
    """
    prefix = arguments.prefix
    if prefix is None:
        prefix = PACKAGE_PREFIX if Path(sys.prefix) == PACKAGE_PREFIX else LOCAL_PREFIX
    if not prefix.is_absolute():
        raise UsageError("--prefix: must be an absolute path")
    return Layout(arguments.root.resolve(), prefix, arguments.instance)


def main(arguments: argparse.Namespace) -> int:
    """Install, or say what that would do.

    Raises:
        UsageError: If an option is missing or wrong.
        InstallError: If the configuration was edited by hand, or a step fails.
        EdgedError: If the model does not fit, or the machine does not let us.
    """
    layout, wishes = layout_of(arguments), read_wishes(arguments)
    if not arguments.dry_run:
        need_root(layout)
    current, is_ours = read_current(layout)
    if wishes.is_anything and not is_ours:
        raise InstallError(
            f"{layout.configuration} was edited by hand: change it there (then `systemctl reload"
            f" {layout.unit}`), or remove it and install again"
        )
    settings = decide(layout, wishes, current)
    _check_fit(layout, settings, wishes)
    steps = [
        *plan.program_steps(layout, arguments.source),
        *plan.system_steps(layout),
        *plan.service_steps(layout, settings, wishes, is_config_ours=is_ours),
    ]
    is_changed = carry_out(steps, is_dry_run=arguments.dry_run) > 0
    _start(arguments, layout, is_changed=is_changed)
    if not arguments.dry_run:
        node = f" --node {settings.node}" if settings.node else ""
        print(f"installed; try: edged ask{node} 'What is the capital of France?'")
    return ExitCode.OK


def _check_fit(layout: Layout, settings: Settings, wishes: Wishes) -> None:
    """Refuse a model that this configuration could not run, before anything is changed.

    Raises:
        BundleError: If the model is none.
        UsageError: If it does not fit the budget.
    """
    bundle = open_bundle(wishes.model or layout.inside(settings.model), verify=False)
    config = load_config(configuration_text(layout, settings), "edged.yaml")
    memory_bytes = config.budget.memory_bytes or settings.budget_bytes
    # The device may be another one than this, so only the budget is looked at.
    held = MemorySnapshot(PROCESS_BYTES, sys.maxsize)
    problem = check_footprint(config, bundle, MemoryBudget(memory_bytes, 0), held)
    if problem is not None:
        raise UsageError(f"--budget: {settings.budget_bytes >> 20}M is too small: {problem}")


def _start(arguments: argparse.Namespace, layout: Layout, *, is_changed: bool) -> None:
    steps = plan.start_steps(layout, is_changed=is_changed, is_started=not arguments.no_start)
    try:
        carry_out(steps, is_dry_run=arguments.dry_run)
    except InstallError as error:
        journal = ["journalctl", "--no-pager", "--output=cat", "--lines=5", "--unit", layout.unit]
        said = subprocess.run(journal, capture_output=True, text=True, check=False).stdout
        raise InstallError(f"{error}\n{said}".rstrip()) from error
