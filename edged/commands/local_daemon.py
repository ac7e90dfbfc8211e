"""A daemon as a child process, observed through its notifications as systemd does."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from edged.daemon.sdnotify import EXTENSION
from edged.errors import EdgedError, ExitCode, UsageError

READY = "READY=1"
SERVING = "STATUS=serving"  # begins the status once it is subscribed
STOP_LIMIT_S = 30.0
_POLL_S = 0.25
# linux/un.h, less the zero at the end.
_MAX_ADDRESS_BYTES = 107


class NotStartedError(EdgedError):
    """A daemon ended, waits for something missing, or took too long."""

    exit_code = ExitCode.UNAVAILABLE


def notify_path(folder: Path) -> Path:
    """Return where the notification socket of a daemon in a temporary folder is.

    Raises:
        UsageError: The path is too long for one.
    """
    path = folder / "notify"
    if len(os.fsencode(path)) > _MAX_ADDRESS_BYTES:
        raise UsageError(f"TMPDIR: {folder.parent} is too long for a socket in it; set TMPDIR=/tmp")
    return path


@contextlib.contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    sign: str,
    limit_s: float,
    log: IO[bytes] | int = subprocess.DEVNULL,
    is_possible: Callable[[], bool] = lambda: True,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a daemon, yield it after a notification, and stop it afterwards.

    Args:
        command: Program and options.
        folder: For the notification socket.
        sign: Text in the notification.
        limit_s: Timeout for it.
        log: File for its log.
        is_possible: Whether what the daemon needs is still there.

    Raises:
        NotStartedError: The notification was not sent.
        UsageError: The folder's path is too long.
    """
    path = notify_path(folder)
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
            until_s = time.monotonic() + limit_s

            def may_come() -> bool:
                return process.poll() is None and is_possible() and time.monotonic() < until_s

            if not _has_sent(notifications, sign, may_come):
                raise NotStartedError("the daemon did not start; `edged run` shows the reason")
            yield process


@contextlib.contextmanager
def stopped(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Stop a process at the end of the block; a daemon then publishes that it is offline."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _has_sent(notifications: socket.socket, sign: str, may_come: Callable[[], bool]) -> bool:
    notifications.settimeout(_POLL_S)
    while may_come():
        with contextlib.suppress(TimeoutError):
            notification = notifications.recv(4096).decode()
            if sign in notification or EXTENSION in notification:
                # It waits for something that will not appear during this command.
                return EXTENSION not in notification
    return False
