"""Run one build step in a child process, which frees its memory and turns a crash into an error.

The libraries of a step take seconds to import: ``prepare`` has a process do so while another step
runs.

Rule: the output of a step and of its libraries goes to a log file, never to the terminal. What a
library raises is told in one line, its traceback is in the log; the death of a process quotes the
last lines of the log.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edged.builder.store import no_space
from edged.errors import BuildError

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext
    from multiprocessing.process import BaseProcess

# Called with the amount done and the total, None when unknown.
OnProgress = Callable[[int, int | None], None]

# Environment that keeps the Hugging Face libraries from the network.
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

_CONTEXT: "SpawnContext | ForkServerContext" = multiprocessing.get_context("spawn")
_QUOTED_LINES = 12
_QUOTED_CHARACTERS = 300
_DISK_FULL = "No space left on device"  # glibc and Rust both say so


@dataclass(frozen=True, slots=True)
class Step:
    """One build step for a child process."""

    title: str
    """Its name in an error message, such as "the export"."""
    target: str
    """``module:function``, called as ``function(on_progress, **arguments)``; arguments and result
    must be picklable."""
    arguments: dict[str, Any]
    environment: Mapping[str, str] = field(default_factory=lambda: OFFLINE)
    """Set in the child before the target's module is imported; a prepared one has ``OFFLINE``."""
    need_bytes: int = 0
    """Estimated memory, for the error when the kernel kills the process."""
    folder: Path = Path()
    """Where it writes, for the error when the disk is full."""
    disk_bytes: int = 0
    """Estimated space it needs there."""


@dataclass(frozen=True, slots=True)
class _Child:
    """A process that has imported, or is importing, what its step needs."""

    process: "BaseProcess"
    connection: Connection

    @classmethod
    def start(cls, target: str, log: Path, environment: Mapping[str, str]) -> "_Child":
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        ours, theirs = _CONTEXT.Pipe()
        arguments = (theirs, target, str(log), dict(environment))
        process = _CONTEXT.Process(target=_main, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours)


_prepared: dict[tuple[str, Path], _Child] = {}


def prepare(target: str, log: Path) -> None:
    """Start the process of a later step, which imports its libraries and waits.

    One that is never run ends with this process.

    Args:
        target: As that of the step.
        log: As that of its ``run``.
    """
    _prepared[target, log] = _Child.start(target, log, OFFLINE)


def run(step: Step, log: Path, on_progress: OnProgress) -> Any:  # noqa: ANN401 - the target's result
    """Run a step to its end in a fresh interpreter and return its result.

    Args:
        step: What to run.
        log: Receives the child's output; overwritten.
        on_progress: Called on this thread for each report of the child.

    Raises:
        BuildError: The step refused, failed, or its process died.
    """
    found = _prepared.pop((step.target, log), None)
    child = found or _Child.start(step.target, log, step.environment)
    try:
        with contextlib.suppress(ConnectionError):  # it died, and why is in its log
            child.connection.send(step.arguments)
        message = _listen(child.connection, on_progress)
        child.process.join()
    finally:
        child.process.kill()
        child.process.join()
        child.connection.close()
    if message is None:
        raise BuildError(_describe_death(step, child.process.exitcode, log))
    kind, value = message
    if kind == "refused":
        raise BuildError(value)
    if kind == "failed":
        raise BuildError(_describe_failure(step, value, log))
    return value


def one_line(error: Exception) -> str:
    """Return the beginning of what a library says, which may be pages."""
    return " ".join(str(error).split())[:_QUOTED_CHARACTERS]


def _listen(connection: Connection, on_progress: OnProgress) -> tuple[str, Any] | None:
    while True:
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionError):
            return None
        if kind != "progress":
            return kind, value
        on_progress(*value)


def _main(connection: Connection, target: str, log: str, environment: Mapping[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    # Descriptors, not sys.stdout: native libraries print too.
    os.dup2(descriptor, sys.__stdout__.fileno() if sys.__stdout__ else 1)
    os.dup2(descriptor, sys.__stderr__.fileno() if sys.__stderr__ else 2)
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def on_progress(done: int, total: int | None) -> None:
        connection.send(("progress", (done, total)))

    try:
        module, _, name = target.partition(":")
        step = getattr(importlib.import_module(module), name)
        result = step(on_progress, **connection.recv())
    except BuildError as error:
        connection.send(("refused", str(error)))
    except Exception as error:  # noqa: BLE001 - what libraries make of a damaged model is anything
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {one_line(error)}"))
    else:
        connection.send(("result", result))


def _end_with_parent() -> None:
    # A build that was killed would leave a step with gigabytes and minutes ahead of it.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _describe_failure(step: Step, reason: str, log: Path) -> str:
    if _DISK_FULL in reason + _tail(log):
        return f"{step.title}: {no_space(step.folder, step.disk_bytes)}"
    return f"{step.title} failed: {reason} (the whole log is in {log})"


def _describe_death(step: Step, exitcode: int | None, log: Path) -> str:
    code = exitcode or 0
    tail = _tail(log)
    if _DISK_FULL in tail:
        return f"{step.title}: {no_space(step.folder, step.disk_bytes)}"
    if code >= 0:
        return f"{step.title} failed:\n{tail}\n(the whole log is in {log})"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return (
            f"{step.title} was killed (SIGKILL), most likely because memory ran out: it needs "
            f"about {step.need_bytes / 2**30:.1f} GiB; close other programs or build elsewhere"
        )
    if name == "SIGILL":
        return (
            f"{step.title} used an instruction that this CPU does not have (SIGILL): the torch or "
            "ONNX Runtime wheel does not support it; build on a workstation and copy the bundle"
        )
    return f"{step.title} crashed ({name}):\n{tail}\n(the whole log is in {log})"


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_QUOTED_LINES:])
