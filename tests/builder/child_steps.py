"""Build steps that succeed or fail in every possible way; ``test_child`` runs them in processes."""

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

from edged.builder import child
from edged.builder.child import OnProgress
from edged.errors import BuildError


def succeed(on_progress: OnProgress, word: str) -> str:
    print("noise on the standard output")
    print("noise on the standard error", file=sys.stderr)
    os.write(2, b"noise of a native library\n")
    on_progress(1, 2)
    on_progress(2, 2)
    return f"{word} {os.environ['HF_HUB_OFFLINE']}"


def tell(_on_progress: OnProgress) -> int:
    return os.getpid()


def refuse(_on_progress: OnProgress) -> NoReturn:
    raise BuildError("no such model")


def fail(_on_progress: OnProgress) -> NoReturn:
    raise ValueError("a library\ngave up  on this\n")


def fill_disk(_on_progress: OnProgress) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die(_on_progress: OnProgress, number: int) -> None:
    os.kill(os.getpid(), signal.Signals(number))


def leave(_on_progress: OnProgress) -> NoReturn:
    os._exit(3)


def linger(_on_progress: OnProgress, fifo: str) -> None:
    with Path(fifo).open("wb", buffering=0) as told:
        told.write(b"here")
        threading.Event().wait()


def run_linger(folder: str) -> None:
    """A build in a process of its own."""
    step = child.Step("the test", "tests.builder.child_steps:linger", {"fifo": f"{folder}/fifo"})
    child.run(step, Path(folder) / "log", lambda _done, _total: None)
