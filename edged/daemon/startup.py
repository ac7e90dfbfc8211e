"""A start that cannot succeed now is attempted again, for ever: nobody is there to start it again.

What the configuration says is final and ends the process with 78. Memory that others hold, a
folder that is not mounted yet, a file that is still being copied, a disk that fails: all of that
may change while the configuration stays as it is, so it is waited for.

Rule: each reason is told once, however often the start is attempted.
"""

import contextlib
import gc
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from edged.config import Config
from edged.daemon import memory
from edged.daemon.sdnotify import Notifier
from edged.daemon.wiring import broker_settings, topics_of
from edged.errors import BundleError, UnavailableError
from edged.protocol import encode_event
from edged.protocol.event import NodeWaiting
from edged.transport import Transport

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# Pause between attempts: doubles from the first to the second, jittered by up to a half.
RETRY_MIN_S = 1.0
RETRY_MAX_S = 60.0
# How long an event that is on its way may hold up what follows.
STOP_LIMIT_S = 1.0
# Of a bundle everything counts, wrong content too: it is a file, which can be copied again.
_TEMPORARY = (UnavailableError, BundleError, OSError, MemoryError)


def half_to_whole() -> float:
    """Return a random share of a pause, so that a fleet does not load its models all at once."""
    return 0.5 + secrets.randbelow(501) / 1000


@dataclass(frozen=True, slots=True)
class Startup:
    """Attempts, and the pauses between them."""

    wait: Callable[[float], bool]
    """Blocks for so many seconds, or until a stop is requested; then it is True."""
    report: Callable[[str, float], None]
    """Takes the reason of each failed attempt and the seconds until the next."""
    share: Callable[[], float] = half_to_whole
    """Of each pause, what is really waited."""

    def attempt(self, start: Callable[[], _T]) -> _T | None:
        """Call ``start`` until it succeeds, and return what it returned; blocks.

        Returns:
            None if a stop was requested.

        Raises:
            EdgedError: What does not get better by itself.
        """
        longest_s = RETRY_MIN_S
        while True:
            try:
                return start()
            except _TEMPORARY as error:
                reason = str(error) or "memory ran out while the model was loaded"
            # What was loaded until then is not held over the pause: it may be what others lack.
            gc.collect()
            memory.return_freed()
            pause_s = longest_s * self.share()
            self.report(reason, pause_s)
            if self.wait(pause_s):
                return None
            longest_s = min(RETRY_MAX_S, longest_s * 2)


class WaitingReport:
    """Tell why a start waits: ``systemctl status`` always, log and operators once a reason.

    Args:
        notifier: Shows it, and asks systemd for time.
        config: Where operators are told; None as long as it could not be read.
    """

    def __init__(self, notifier: Notifier, config: Config | None = None) -> None:
        self._notifier = notifier
        self._config = config
        self._known: set[str] = set()
        self._transport: Transport | None = None

    def failed(self, reason: str, pause_s: float) -> None:
        """Tell that an attempt failed, and when the next one follows."""
        key = re.sub(r"\d+", "", reason)  # free memory is another number each time
        if key not in self._known:
            self._known.add(key)
            self._tell(reason)
        # Last: who ends the process because of it finds the reason in the log.
        self._notifier.waiting(f"waiting: {reason}; next attempt in {pause_s:.0f} s", pause_s)

    def close(self) -> None:
        """Disconnect; blocks for ``STOP_LIMIT_S`` or so at most."""
        if self._transport is not None:
            self._transport.stop(timeout_s=STOP_LIMIT_S)
            self._transport = None

    def _tell(self, reason: str) -> None:
        _LOG.warning("the start waits, and is attempted again until it succeeds: %s", reason)
        if self._config is not None:
            # A password or an authority that cannot be read may be the very reason.
            with contextlib.suppress(UnavailableError):
                self._publish(self._config, NodeWaiting(reason))

    def _publish(self, config: Config, event: NodeWaiting) -> None:
        if self._transport is None:
            self._transport = _connection(config)
            self._transport.start()
        message = encode_event(topics_of(config), event.kind, event.members())
        self._transport.publish(message, qos=1)


def _connection(config: Config) -> Transport:
    """Return a connection that only publishes.

    Its client identifier is another than the node's, whose session goes on collecting requests; it
    subscribes to nothing, and sets no will: the node stays ``offline``.

    Raises:
        UnavailableError: If a file that the connection needs cannot be read.
    """
    settings = replace(
        broker_settings(config), client_id=f"{config.client_id}-waiting", session_expiry_s=0
    )
    return Transport(settings, subscriptions=(), will=None, emit=lambda _event: None)
