"""Find the running service, and check its state file."""

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
    lines = (proc / str(number) / "status").read_text("utf-8").splitlines()
    resident = next((line for line in lines if line.startswith("VmRSS:")), "VmRSS: 0 kB")
    return Service(number, int(resident.split()[1]) * 1024)


def check_service(config: Config, service: Service | None, now_s: float) -> Iterator[Finding]:
    """Check the process and its state file.

    Args:
        config: Of the service.
        service: Its process, or None.
        now_s: Seconds since the epoch.
    """
    if service is None:
        yield warning("service", "the service is not running", "start it: systemctl start edged")
        return
    mib = service.resident_bytes >> 20
    yield good(
        "service", f"process {service.pid}, {mib} MiB", resident_bytes=service.resident_bytes
    )
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


def _enforcement(state: Mapping[str, Any], limit: str) -> Finding:
    if state.get("budget_enforced"):
        return good("enforcement", f"the kernel enforces the budget of {limit}")
    return warning(
        "enforcement",
        f"the budget of {limit} is enforced by edged only",
        "see `memory-control`; if that is ok, set MemoryMax= in the unit close to the budget",
    )


def _main_pid(unit: str) -> int:
    try:
        words = ["systemctl", "show", "--property", "MainPID", "--value", unit]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError:
        return 0
    text = result.stdout.strip()
    return int(text) if text.isdecimal() else 0
