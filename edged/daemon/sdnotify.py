"""systemd's notification socket, as sd_notify(3) describes it.

Rule: a notification never raises and never blocks; without systemd it does nothing.
"""

import os
import socket
from collections.abc import Mapping

# How long one attempt of a start, or a reload, may take: ``TimeoutStartSec=`` of the unit.
START_LIMIT_S = 180.0
# In a notification: the start waits, and needs more time than ``TimeoutStartSec=``.
EXTENSION = "EXTEND_TIMEOUT_USEC="
# systemd takes no message of more than 4,096 bytes.
_MAX_STATUS_CHARACTERS = 900


class Notifier:
    """Notify systemd, as ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` say."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # Linux's abstract namespace begins with NUL
            self._address = "\0" + self._address[1:]
        self.watchdog_interval_s: float | None = None
        """Longest time between two ``watchdog`` calls; None without a watchdog."""
        watchdog_us, own_pid = environment.get("WATCHDOG_USEC", ""), str(os.getpid())
        if watchdog_us.isdecimal() and environment.get("WATCHDOG_PID", own_pid) == own_pid:
            self.watchdog_interval_s = int(watchdog_us) / 1e6 or None

    def ready(self) -> None:
        """Report that the start is complete; the watchdog's own interval holds from now on."""
        self._send("READY=1" + self._watchdog_line(self.watchdog_interval_s))

    def status(self, line: str) -> None:
        """Show one line in ``systemctl status``."""
        self._send(_status(line))

    def waiting(self, line: str, pause_s: float) -> None:
        """Show why the start is not complete, and ask for time: a pause and one more attempt."""
        extended_us = round((pause_s + START_LIMIT_S) * 1e6)
        # Off until ``ready``: after a reload it would end the process meanwhile.
        watchdog = self._watchdog_line(0.0 if self.watchdog_interval_s else None)
        self._send(f"{_status(line)}\n{EXTENSION}{extended_us}{watchdog}")

    def stopping(self) -> None:
        """Report that the stop has begun."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Report progress."""
        self._send("WATCHDOG=1")

    def reloading(self, monotonic_us: int) -> None:
        """Report that the configuration is being read again; ``ready`` ends it."""
        # The model is loaded again meanwhile, so the watchdog must wait as long as at a start.
        longest_s = START_LIMIT_S if self.watchdog_interval_s else None
        line = self._watchdog_line(longest_s)
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_us}{line}")

    @staticmethod
    def _watchdog_line(interval_s: float | None) -> str:
        return "" if interval_s is None else f"\nWATCHDOG_USEC={interval_s * 1e6:.0f}"

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as peer:
            peer.settimeout(0)
            try:
                peer.sendto(message.encode(errors="replace"), self._address)
            except OSError:
                return  # a dead or full socket is systemd's business; the service goes on


def _status(line: str) -> str:
    return "STATUS=" + " ".join(line.split())[:_MAX_STATUS_CHARACTERS]
