"""``edged uninstall``: remove everything that ``edged install`` and the service wrote.

Rule: files of the Debian package are left to ``apt purge``. A state folder of another user stays,
and so does a user of the same name that ``edged.sysusers`` did not make.
"""

import argparse
import re
from pathlib import Path

from edged.commands.install.command import account_of
from edged.commands.install.layout import (
    MODELS,
    SHORTCUT,
    UNIT_FILES,
    UNITS,
    USER,
    Layout,
    add_layout_arguments,
    is_instance,
    read_layout,
)
from edged.commands.install.machine import Machine
from edged.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged uninstall``."""
    add_layout_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Uninstall one instance or, without ``--instance``, everything.

    Raises:
        UsageError: If an option is wrong.
        InstallError: If a change fails.
    """
    layout = read_layout(arguments)
    machine = Machine(is_dry_run=arguments.dry_run, root=layout.root)
    if layout.instance is None:
        _remove_all(machine, layout)
    else:
        _remove_service(machine, layout)
    if not machine.num_changes:
        print("edged is not installed here")
    return ExitCode.OK


def _remove_service(machine: Machine, layout: Layout) -> None:
    """Remove a service and its files; the program and the models stay."""
    is_known = layout.is_packaged or layout.inside(UNITS / layout.unit_file).exists()
    if layout.is_live and is_known:
        machine.run("stop it", ["systemctl", "disable", "--now", layout.unit])
    account = account_of(layout)
    if account is not None:
        for path in (layout.state, layout.runtime):
            machine.remove(layout.inside(path), owner=int(account[2]))
    for path in (layout.wanted, layout.drop_ins, layout.note):
        machine.remove(layout.inside(path))
    for path in (layout.configuration, layout.authority, layout.password):
        machine.remove(layout.inside(path))


def _remove_all(machine: Machine, layout: Layout) -> None:
    for name in (*_instances(layout), None):
        _remove_service(machine, Layout(layout.root, layout.prefix, name))
    machine.remove(layout.inside("/etc/edged"))
    machine.remove(layout.inside(MODELS))
    if layout.is_packaged:
        return
    units = [layout.inside(UNITS / name) for name in ("edged.service", "edged@.service")]
    is_any = any(path.exists() for path in units)
    for path in units:
        machine.remove(path)
    if layout.is_live and is_any:
        machine.run("reload the units", ["systemctl", "daemon-reload"])
    if _is_own_account(account_of(layout)):
        other_root = [] if layout.root == Path("/") else ["--prefix", str(layout.root)]
        machine.run(f"remove the user {USER}", ["userdel", *other_root, USER])
    shortcut = layout.inside(SHORTCUT)
    if shortcut.exists() and f"{layout.prefix}/bin/" in shortcut.read_text("utf-8"):
        machine.remove(shortcut)
    # Last: this program may run from it.
    prefix = layout.inside(layout.prefix)
    if (prefix / "pyvenv.cfg").exists() and (prefix / "bin" / "edged").exists():
        machine.remove(prefix)


def _is_own_account(account: list[str] | None) -> bool:
    """Return whether the user is as ``edged.sysusers`` makes it, not another of the same name."""
    text = (UNIT_FILES / "edged.sysusers").read_text("utf-8")
    made = re.search(rf'(?m)^u\s+{USER}\s+\S+\s+"([^"]+)"\s+(\S+)\s', text)
    return account is not None and made is not None and account[4:6] == [*made.groups()]


def _instances(layout: Layout) -> list[str]:
    """Return the instances that have a configuration or a drop-in."""
    names = {path.stem for path in layout.inside("/etc/edged").glob("*.yaml")}
    units = layout.inside(UNITS)
    names |= {path.name[6:-10] for path in units.glob("edged@?*.service.d")}
    # Beside them may lie what somebody keeps, such as edged.old.yaml.
    return sorted(filter(is_instance, names))
