"""The parent's end of an engine's process.

Rule: whatever becomes of the process becomes an ``EngineLostError`` with the engine's last words.
"""

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from edged.commands.bench import usage
from edged.commands.bench.adapters import KNOWN, Setup
from edged.commands.bench.child import as_command

CALL_LIMIT_S = 900.0
"""No single answer takes longer, on the slowest device meant."""


class EngineLostError(Exception):
    """An engine cannot be measured; the message says why and what to do."""


class Channel(Protocol):
    """A loaded engine, as the turns see it."""

    loaded: dict[str, Any]
    """What the engine said to ``load``."""

    def call(self, do: str, **arguments: object) -> dict[str, Any]:
        """Have the engine do something; blocks."""
        ...

    def cpu_s(self) -> float:
        """Return the CPU seconds of its process so far."""
        ...

    def close(self) -> None:
        """End the process."""
        ...


class EngineProcess:
    """One engine in a process of its own, with its model loaded; blocks until it is.

    Args:
        setup: what to load.
        target: the adapter, ``module:class``; None takes the engine's own.

    Raises:
        EngineLostError: the engine is not installed, or cannot load its model.
    """

    def __init__(self, setup: Setup, target: str | None = None) -> None:
        self._name = setup.engine
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edged.commands.bench.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        ours.settimeout(CALL_LIMIT_S)
        self._socket = ours
        self._stream = ours.makefile("rw", encoding="ascii")
        try:
            self.loaded = self._load(setup, target)
        except BaseException:
            self.close()
            raise

    def call(self, do: str, **arguments: object) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            EngineLostError: the process died, or did not answer in time.
        """
        try:
            self._stream.write(json.dumps(as_command(do, **arguments)) + "\n")
            self._stream.flush()
            line = self._stream.readline()
        except TimeoutError:
            self._process.kill()
            raise EngineLostError(f"no answer to {do} within {CALL_LIMIT_S:.0f} s") from None
        except OSError:  # it died while we wrote
            line = ""
        if not line:
            raise EngineLostError(self._last_words(do))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process so far."""
        return usage.cpu_s([self._process.pid])

    def close(self) -> None:
        """End the process; it has nothing to save."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._log.close()

    def _load(self, setup: Setup, target: str | None) -> dict[str, Any]:
        loaded = self.call("load", setup=setup, target=target)
        if "missing" in loaded:
            raise EngineLostError(
                f"{loaded['missing']} is not installed: {KNOWN[setup.engine].install}"
            )
        return loaded

    def _last_words(self, do: str) -> str:
        status = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        end = f"signal {-status}" if status < 0 else f"exit status {status}"
        said = lines[-1] if lines else "nothing said"
        return f"ended during {do} ({end}): {said}"


def start(setup: Setup) -> Channel:
    """Start an engine; see ``EngineProcess``.

    Raises:
        EngineLostError: it is not installed, its file is missing, or it cannot load its model.
    """
    known = KNOWN[setup.engine]
    if known.is_file:
        if not Path(setup.source).exists():
            raise EngineLostError(f"{setup.source}: no such file")
        return EngineProcess(setup)
    try:
        return EngineProcess(setup)
    except EngineLostError as error:
        raise EngineLostError(f"{error}; {known.install}") from error
