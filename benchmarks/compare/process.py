"""One engine in its own process, so that memory and CPU time are the engine's alone.

Rule: if the process ends, an ``EngineLostError`` quotes its last line of output.
"""

import importlib
import multiprocessing
import os
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from edged.commands.bench import usage
from edged.commands.bench.turns import Engine, answer
from edged.errors import EdgedError

CALL_LIMIT_S = 900.0
"""More than any single answer takes on the slowest supported device."""
_SPAWN = multiprocessing.get_context("spawn")


class EngineLostError(EdgedError):
    """An engine cannot be measured; the message names the reason."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Parameters of an engine; the first three differ between engines."""

    engine: str
    adapter: str
    """``module:class``; a call with this object loads the model."""
    source: str
    """The bundle's folder, a GGUF file, or a model's name."""
    bundle: str
    """The bundle's folder; its tokenizer makes the prompts of all engines."""
    vocab_size: int
    num_threads: int
    max_model_len: int
    state: str
    """Folder for edged's tuning results and prepared model."""


class EngineProcess:
    """One engine in its own process; the constructor blocks until the model is loaded.

    Raises:
        EngineLostError: The engine is not installed, or cannot load its model.
    """

    def __init__(self, setup: Setup) -> None:
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed with the process
        self._connection, theirs = _SPAWN.Pipe()
        arguments = (theirs, setup, self._log.name)
        self._process = _SPAWN.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.loaded = self._answer("load")
        except BaseException:
            self.close()
            raise

    def call(self, do: str, **arguments: object) -> dict[str, Any]:
        """Send a command to the engine and wait for its answer.

        Raises:
            EngineLostError: The process died, or did not answer in time.
        """
        try:
            self._connection.send((do, arguments))
        except OSError:
            raise EngineLostError(self._exit_reason(do)) from None
        return self._answer(do)

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process so far."""
        return usage.cpu_s([self._process.pid or 0])

    def close(self) -> None:
        """Kill the process; it has nothing to save."""
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._log.close()

    def _answer(self, do: str) -> dict[str, Any]:
        try:
            if not self._connection.poll(CALL_LIMIT_S):
                self._process.kill()
                raise EngineLostError(f"no answer to {do} within {CALL_LIMIT_S:.0f} s")
            answer: dict[str, Any] = self._connection.recv()
        except (EOFError, OSError):
            raise EngineLostError(self._exit_reason(do)) from None
        return answer

    def _exit_reason(self, do: str) -> str:
        self._process.join()
        status = self._process.exitcode or 0
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        end = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"ended during {do} ({end}): {lines[-1] if lines else 'no output'}"


def load_adapter(setup: Setup) -> Engine:
    """Import an engine's adapter and load its model; blocks.

    Raises:
        ModuleNotFoundError: The engine is not installed.
    """
    module, _, name = setup.adapter.partition(":")
    adapter: Engine = getattr(importlib.import_module(module), name)(setup)
    return adapter


def _serve(connection: Connection, setup: Setup, log: str) -> None:
    """Load the model, then serve until the parent closes its end; an error ends the process."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    started_s = perf_counter()
    adapter = load_adapter(setup)
    load_s = perf_counter() - started_s
    connection.send({"load_s": load_s, "versions": adapter.versions()})
    while True:
        try:
            do, arguments = connection.recv()
        except EOFError:
            return
        connection.send(answer(adapter, do, arguments))
