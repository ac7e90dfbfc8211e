"""A daemon as a child process, followed through its notifications as systemd does."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from edged.daemon.sdnotify import EXTENSION
from edged.errors import EdgedError, ExitCode

# How the daemon's status begins once its requests arrive; see ``edged.daemon.run``.
READY = "READY=1"
SERVING = "STATUS=serving"
STOP_LIMIT_S = 30.0
_POLL_S = 0.25


class NotStartedError(EdgedError):
    """A daemon ended, lacks something that it waits for, or took too long."""

    exit_code = ExitCode.UNAVAILABLE


@contextlib.contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    sign: str,
    limit_s: float,
    log: IO[bytes] | int = subprocess.DEVNULL,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a daemon, yield it when it has sent a notification, and stop it afterwards.

    Args:
        command: Program and options.
        folder: For the socket of the notifications.
        sign: What the notification contains.
        limit_s: How long to wait for it.
        log: Where its log goes.

    Raises:
        NotStartedError: It did not send it.
    """
    path = folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        path.unlink(missing_ok=True)
        notifications.bind(str(path))
        process = subprocess.Popen(
            command,
            env=os.environ | {"NOTIFY_SOCKET": str(path)},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        with stopped(process):
            if not _has_sent(process, notifications, sign, time.monotonic() + limit_s):
                raise NotStartedError("the daemon did not start; `edged run` tells why")
            yield process


@contextlib.contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a process at the end of the block, so that a daemon publishes that it is offline."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _has_sent(
    process: "subprocess.Popen[bytes]", notifications: socket.socket, sign: str, until_s: float
) -> bool:
    notifications.settimeout(_POLL_S)
    while process.poll() is None and time.monotonic() < until_s:
        with contextlib.suppress(TimeoutError):
            told = notifications.recv(4096).decode()
            if sign in told or EXTENSION in told:
                return EXTENSION not in told  # nobody will bring now what it waits for
    return False
