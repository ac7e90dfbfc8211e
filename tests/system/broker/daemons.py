"""``edged run`` as a child process, watched as systemd watches it: on its notification socket."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WAIT_S = 120.0


@dataclass
class Daemon:
    """One process; ``until`` waits for a notification to its service manager."""

    folder: Path
    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    program: tuple[str, ...] = ("-m", "edged")
    """What Python runs, up to ``run``."""
    before: tuple[str, ...] = ()
    """What Python is run by, such as ``ip netns exec NAME``."""

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = self.folder / "notify"
        address.unlink(missing_ok=True)
        self._socket.bind(str(address))
        self._socket.settimeout(0.1)
        self._log = (self.folder / "daemon.log").open("ab")
        self.process = subprocess.Popen(
            [*self.before, sys.executable, *self.program, "run", *self.arguments],
            stderr=self._log,
            env=os.environ | {"NOTIFY_SOCKET": str(address)} | self.environment,
        )

    @property
    def log(self) -> str:
        return (self.folder / "daemon.log").read_text(errors="replace")

    def until(self, beginning: str, limit_s: float = WAIT_S) -> str:
        """Return the first notification with this prefix; fail if none arrives."""
        until_s = time.monotonic() + limit_s
        while time.monotonic() < until_s:
            with contextlib.suppress(TimeoutError):
                for line in self._socket.recv(4096).decode().split("\n"):
                    self.told.append(line)
                    if line.startswith(beginning):
                        return line
                continue
            assert self.process.poll() is None, f"it ended before {beginning}:\n{self.log}"
        raise AssertionError(f"no {beginning} within {limit_s} s: {self.told}\n{self.log}")

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(WAIT_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(WAIT_S)
        self._log.close()
        self._socket.close()


@contextlib.contextmanager
def daemon(
    folder: Path, *arguments: str, program: tuple[str, ...] = ("-m", "edged"), **environment: str
) -> Iterator[Daemon]:
    """Start ``edged run`` with these arguments; kill it at the end if it still runs."""
    started = Daemon(folder, list(arguments), environment, program=program)
    try:
        yield started
    finally:
        started.close()


def serve_arguments(bundle: Path, url: str, node: str = "kitchen") -> list[str]:
    return ["--model", str(bundle), "--broker", url, "--node", node]
