"""``edged uninstall``: take everything away that ``edged install`` and the service put here.

Rule: what belongs to the Debian package is left to ``apt purge``.
"""

import argparse
from pathlib import Path

from edged.commands.install.command import add_layout_arguments, layout_of
from edged.commands.install.layout import USER, Layout, need_root
from edged.commands.install.plan import SHORTCUT, has_user
from edged.commands.install.steps import Command, Gone, Step, carry_out
from edged.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged uninstall``."""
    add_layout_arguments(parser)
    parser.add_argument(
        "--keep-data", action="store_true", help="leave /etc/edged and the models where they are"
    )


def main(arguments: argparse.Namespace) -> int:
    """Uninstall one instance or, without ``--instance``, everything.

    Raises:
        UsageError: If an option is wrong.
        InstallError: If the machine does not let us.
    """
    layout = layout_of(arguments)
    if not arguments.dry_run:
        need_root(layout)
    steps = (
        _everything(layout, keeps_data=arguments.keep_data)
        if layout.instance is None
        else _one(layout, keeps_data=arguments.keep_data)
    )
    if not carry_out(steps, is_dry_run=arguments.dry_run):
        print("nothing of edged is here")
    return ExitCode.OK


def _one(layout: Layout, *, keeps_data: bool) -> list[Step]:
    """Remove a service and its own files; the program and the models stay."""
    wanted = layout.inside(layout.units / "multi-user.target.wants" / layout.unit)
    files = [layout.drop_ins, layout.state, layout.runtime]
    if not keeps_data:
        files += [layout.configuration, layout.authority, layout.password]
    steps: list[Step] = []
    if layout.is_live:
        stop = ["systemctl", "disable", "--now", layout.unit]
        steps.append(Command("stop it", stop, is_done=lambda: not _is_known(layout)))
    return [*steps, Gone(wanted), *(Gone(layout.inside(path)) for path in files)]


def _everything(layout: Layout, *, keeps_data: bool) -> list[Step]:
    steps: list[Step] = []
    for name in _instances(layout):
        steps += _one(Layout(layout.root, layout.prefix, name), keeps_data=keeps_data)
    steps += _one(layout, keeps_data=keeps_data)
    if not keeps_data:
        steps += [Gone(layout.inside("/etc/edged")), Gone(layout.inside(layout.models))]
    if layout.is_packaged:
        return steps
    files = [layout.units / "edged.service", layout.units / "edged@.service"]
    is_any = any(layout.inside(path).exists() for path in files)
    steps += [Gone(layout.inside(path)) for path in files]
    if layout.is_live:
        reread = ["systemctl", "daemon-reload"]
        steps.append(Command("have systemd forget it", reread, is_done=lambda: not is_any))
    remove = ["userdel", *_other_root(layout), USER]
    steps.append(Command(f"remove the user {USER}", remove, is_done=lambda: not has_user(layout)))
    if layout.inside(SHORTCUT).is_symlink():
        steps.append(Gone(layout.inside(SHORTCUT)))
    # Last: it may be what this very program runs from.
    if layout.inside(layout.prefix / "pyvenv.cfg").exists():
        steps.append(Gone(layout.inside(layout.prefix)))
    return steps


def _instances(layout: Layout) -> list[str]:
    """Name the instances that have a configuration or a drop-in."""
    units = layout.inside(layout.units)
    found = {path.name for path in layout.inside("/etc/edged").glob("*.yaml")}
    names = {name.removesuffix(".yaml") for name in found}
    names |= {path.name[6:-10] for path in units.glob("edged@?*.service.d")}
    return sorted(names - {"edged"})


def _is_known(layout: Layout) -> bool:
    unit = layout.inside(layout.units / layout.unit_file)
    return layout.is_packaged or unit.exists()


def _other_root(layout: Layout) -> list[str]:
    return [] if layout.root == Path("/") else ["--prefix", str(layout.root)]
