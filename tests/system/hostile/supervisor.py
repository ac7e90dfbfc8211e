"""``edged run`` under the limits of the shipped unit, restarted here as systemd would.

The limits are read from ``systemd/edged.service``: LimitDATA, MemoryMax where a control group can
be created, WatchdogSec, RestartSec, the exit status that prevents a restart, and the environment.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.paths import ROOT
from tests.system.memory_group import memory_group

UNIT = ROOT / "systemd" / "edged.service"
WAIT_S = 180.0
_POLL_S = 0.1
_UNITS = {"K": 1024, "M": 1024**2, "G": 1024**3, "s": 1, "": 1}


@dataclass(frozen=True)
class Terms:
    """The settings of the unit that are imitated."""

    data_bytes: int
    memory_bytes: int
    watchdog_s: int
    restart_s: int
    final_statuses: frozenset[int]
    environment: dict[str, str]

    @classmethod
    def of_unit(cls, path: Path = UNIT) -> "Terms":
        """Read the shipped unit."""
        text = path.read_text("utf-8")

        def value(key: str) -> str:
            found = re.search(rf"(?m)^{key}=(.*)$", text)
            return found[1] if found else ""

        def amount(key: str) -> int:
            number, unit = re.fullmatch(r"(\d+)([KMGs]?)", value(key)).groups()  # type: ignore[union-attr]
            return int(number) * _UNITS[unit]

        words = value("Environment").split()
        return cls(
            data_bytes=amount("LimitDATA"),
            memory_bytes=amount("MemoryMax"),
            watchdog_s=amount("WatchdogSec"),
            restart_s=amount("RestartSec"),
            final_statuses=frozenset(map(int, value("RestartPreventExitStatus").split())),
            environment=dict(word.split("=", 1) for word in words),
        )


@dataclass
class Supervisor:
    """Keep one daemon running and record its notifications to the service manager.

    Args:
        folder: For its log and the notification socket.
        arguments: Of ``edged run``.
        group: A memory control group to put it into.
        before: Command that runs Python, such as ``unshare --mount``.
    """

    folder: Path
    arguments: Sequence[str]
    group: Path | None = None
    before: tuple[str, ...] = ()
    terms: Terms = field(default_factory=Terms.of_unit)
    told: list[tuple[float, str]] = field(default_factory=list)
    """When, and what; a new life begins with ``STARTED``."""
    statuses: list[int] = field(default_factory=list)
    """How its lives ended, the last one's too."""

    def __post_init__(self) -> None:
        self._address = self.folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._address))
        self._socket.settimeout(_POLL_S)
        self._log = (self.folder / "daemon.log").open("ab")
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        self.process = self._start()
        self._thread = threading.Thread(target=self._watch, name="supervisor")
        self._thread.start()

    @property
    def log(self) -> str:
        """The log of all its processes."""
        return (self.folder / "daemon.log").read_text(errors="replace")

    @property
    def num_restarts(self) -> int:
        """How often it was restarted."""
        return sum(line == "STARTED" for _, line in self.told) - 1

    def pings_s(self) -> list[float]:
        """Times of the watchdog pings since the last READY."""
        with self._changed:
            times = list(self.told)
        readies = [at_s for at_s, line in times if line == "READY=1"]
        since_s = readies[-1] if readies else float("inf")
        return [since_s] + [at_s for at_s, line in times if line == "WATCHDOG=1" and at_s > since_s]

    def wait_for(self, holds: Callable[[Sequence[str]], bool]) -> bool:
        """Wait until the notifications satisfy a condition; False if it ended for good before."""
        with self._changed:
            self._changed.wait_for(lambda: holds(self._lines()) or self.is_dead, WAIT_S)
            return holds(self._lines())

    def until_serving(self) -> None:
        """Wait until it serves, restarts included."""
        is_serving = self.wait_for(lambda lines: any(x.startswith("STATUS=serving") for x in lines))
        assert is_serving, f"it never served: {self._lines()}\n{self.log}"

    @property
    def is_dead(self) -> bool:
        """Whether it ended with a status after which systemd does not restart it."""
        return bool(self.statuses) and self.statuses[-1] in self.terms.final_statuses

    def close(self) -> int | None:
        """Stop it and return its exit status; None if it had to be killed."""
        self._is_over.set()
        self._thread.join()
        status: int | None = self.process.poll()
        if status is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self.process.wait(20)
        if status is None:
            self.process.kill()
            self.process.wait()
        self._log.close()
        self._socket.close()
        return status

    def _lines(self) -> list[str]:
        return [line for _, line in self.told]

    def _start(self) -> subprocess.Popen[bytes]:
        limits = ("prlimit", f"--data={self.terms.data_bytes}", "--core=0")
        watchdog = {"WATCHDOG_USEC": str(self.terms.watchdog_s * 1_000_000)}
        process = subprocess.Popen(
            [*self.before, *limits, sys.executable, "-m", "edged", "run", *self.arguments],
            stderr=self._log,
            env=os.environ
            | self.terms.environment
            | watchdog
            | {"NOTIFY_SOCKET": str(self._address)},
        )
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(process.pid))
        self._note("STARTED")
        return process

    def _note(self, *lines: str) -> None:
        now_s = time.monotonic()
        with self._changed:
            self.told.extend((now_s, line) for line in lines)
            self._changed.notify_all()

    def _watch(self) -> None:
        while not self._is_over.is_set():
            with contextlib.suppress(TimeoutError):
                self._note(*self._socket.recv(4096).decode(errors="replace").split("\n"))
                continue
            status = self.process.poll()
            if status is None:
                self._kill_what_hangs()
                continue
            self.statuses.append(status)
            self._note(f"ENDED {status}")
            if self.is_dead or self._is_over.wait(self.terms.restart_s):
                return
            self.process = self._start()

    def _kill_what_hangs(self) -> None:
        last_s = self.pings_s()[-1]
        if time.monotonic() - last_s > self.terms.watchdog_s:
            self.process.send_signal(signal.SIGABRT)


@contextlib.contextmanager
def supervised(
    folder: Path, *arguments: str, before: tuple[str, ...] = (), is_grouped: bool = False
) -> Iterator[Supervisor]:
    """Run a daemon until the end of the block; ``is_grouped`` enforces MemoryMax if possible."""
    limit_bytes = Terms.of_unit().memory_bytes
    group = memory_group(limit_bytes) if is_grouped else contextlib.nullcontext()
    with group as path:
        started = Supervisor(folder, arguments, group=path, before=before)
        try:
            yield started
        finally:
            started.close()
