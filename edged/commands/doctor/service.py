"""Find the running service, and check its state file."""

import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.commands.health import judge, read_state
from edged.config.keys import Config

_JOURNAL = "read the journal: journalctl --unit edged --lines 50"


@dataclass(frozen=True, slots=True)
class Service:
    """A daemon running on this machine."""

    pid: int
    resident_bytes: int
    user_id: int
    folder: Path
    """In the proc file system."""


def find_service(unit: str, pid: int | None = None, proc: Path = Path("/proc")) -> Service | None:
    """Find the daemon's process.

    Args:
        unit: Its systemd unit.
        pid: Its process, if systemd does not run it.
        proc: The proc file system.
    """
    number = pid if pid is not None else _main_pid(unit)
    if not number or not (proc / str(number)).is_dir():
        return None
    folder = proc / str(number)
    lines = (folder / "status").read_text("utf-8").splitlines()
    fields = {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
    resident_bytes = int(fields.get("VmRSS", ["0"])[0]) * 1024
    return Service(number, resident_bytes, int(fields["Uid"][1]), folder)


def check_service(
    config: Config, service: Service | None, now_s: float, failed: str | None = None
) -> Iterator[Finding]:
    """Check the process and its state file.

    Args:
        config: Of the service.
        service: Its process, or None.
        now_s: Seconds since the epoch.
        failed: How its unit has failed, if it has.
    """
    if service is None and failed is not None:
        yield failure("service", f"the service is not running: {failed}", _JOURNAL)
        return
    if service is None:
        yield warning("service", "the service is not running", "start it: systemctl start edged")
        return
    mib = service.resident_bytes >> 20
    yield good(
        "service", f"process {service.pid}, {mib} MiB", resident_bytes=service.resident_bytes
    )
    yield from _state_folder(config, service)
    path = config.state.file
    if path is None:
        yield warning("state", "it writes no state file", "set state.file: /run/edged/state.json")
        return
    is_well, line = judge(path, now_s)
    if not is_well:
        yield failure("state", line, _JOURNAL)
        return
    try:
        state = read_state(path)
        limit = f"{int(state.get('budget_bytes', 0)) >> 20} MiB"
    except (OSError, ValueError, TypeError, OverflowError) as error:  # not what was judged
        yield failure("state", f"{path}: cannot be read: {error}", _JOURNAL)
        return
    if state.get("broker_error") is None:
        yield good("state", line)
    else:
        # Here the broker may well be reached: nothing holds back this program.
        yield failure("state", line, f"see `broker` and `network`; {_JOURNAL}")
    yield _enforcement(state, limit)


def _state_folder(config: Config, service: Service) -> Iterator[Finding]:
    """Check that the service can write there, as it sees the folder: its unit may not let it."""
    if config.state.folder is None:
        return
    try:
        seen = (service.folder / "root").joinpath(*config.state.folder.absolute().parts[1:])
        is_read_only = os.statvfs(seen).f_flag & os.ST_RDONLY
        status = seen.stat()
    except PermissionError:
        return  # as `offline` says
    except OSError as error:
        problem: str | None = str(error.strerror)
    else:
        is_others = service.user_id not in (0, status.st_uid) and not status.st_mode & stat.S_IWOTH
        problem = "read-only" if is_read_only else "another user's" if is_others else None
    if problem is not None:
        yield failure(
            "state-folder",
            f"the service cannot write to {config.state.folder}: {problem}",
            "make it for the service's user, and let the unit write there: ReadWritePaths= below"
            " [Service] in `systemctl edit edged`; or use the folder that `edged install` writes",
        )


def _enforcement(state: Mapping[str, Any], limit: str) -> Finding:
    if state.get("budget_enforced"):
        return good("enforcement", f"the kernel enforces the budget of {limit}")
    return warning(
        "enforcement",
        f"the budget of {limit} is enforced by edged only",
        "see `memory-control`; if that is ok, set MemoryMax= in the unit close to the budget",
    )


def failed_unit(unit: str) -> str | None:
    """Return how a unit has failed that nobody stopped; None for another one."""
    shown = unit_properties(unit, "ActiveState", "SubState", "Result", "ExecMainStatus")
    # Between two starts it is activating.
    if shown.get("ActiveState") != "failed" and shown.get("SubState") != "auto-restart":
        return None
    return "{SubState} ({Result}, exit status {ExecMainStatus})".format(**shown)


def _main_pid(unit: str) -> int:
    text = unit_properties(unit, "MainPID").get("MainPID", "")
    return int(text) if text.isdecimal() else 0


def unit_properties(unit: str, *names: str) -> dict[str, str]:
    """Return properties of a unit; none without systemd."""
    words = ["systemctl", "show", "--property", ",".join(names), unit]
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
