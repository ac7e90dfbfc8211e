"""Build steps that succeed or fail in every possible way; ``test_child`` runs them in processes."""

import errno
import os
import signal
import sys
from typing import NoReturn

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
