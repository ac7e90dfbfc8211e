"""A start that cannot succeed now is attempted again, without an end: no user is there to do it.

A wrong configuration is final and ends the process. Too little free memory, a folder that is not
mounted yet, a file that is still being copied, a disk that fails: all of that may change while the
configuration stays as it is, so the start waits for it.

Rule: each reason is logged and published once, however often the start is attempted.
"""

import contextlib
import gc
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from edged.config.keys import Config
from edged.daemon import memory
from edged.daemon.client_id import passing_id
from edged.daemon.sdnotify import Notifier
from edged.daemon.wiring import broker_settings, topics_of
from edged.errors import BundleError, UnavailableError
from edged.protocol.encode import encode_event
from edged.protocol.event import NodeWaiting
from edged.transport.network import Transport

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

# Pause between attempts: doubles from the first to the second, jittered by up to a half.
RETRY_MIN_S, RETRY_MAX_S = 1.0, 60.0
# How long an unconfirmed event may delay the start.
STOP_LIMIT_S = 1.0
# Any error of a bundle, wrong content too: it is a file, which can be copied again.
_TEMPORARY = (UnavailableError, BundleError, OSError, MemoryError)


def half_to_whole() -> float:
    """Return a random share of a pause, so that a fleet does not load its models all at once."""
    return 0.5 + secrets.randbelow(501) / 1000


def attempt(
    start: Callable[[], _T],
    wait: Callable[[float], bool],
    report: Callable[[str, float], None],
    share: Callable[[], float] = half_to_whole,
) -> _T | None:
    """Call ``start`` until it succeeds; blocks. Return its result, or None if asked to stop.

    Args:
        start: Raises what is final, too.
        wait: Blocks for so many seconds, or until a stop is requested; then it is True.
        report: Gets the reason of each failed attempt, and the seconds until the next.
        share: Of each pause, what is really waited.
    """
    longest_s = RETRY_MIN_S
    while True:
        try:
            return start()
        except _TEMPORARY as error:
            reason = str(error) or "memory ran out while the model was loaded"
        # A half-loaded model must not stay over the pause: its memory may be what is missing.
        gc.collect()
        memory.return_freed()
        pause_s = longest_s * share()
        report(reason, pause_s)
        if wait(pause_s):
            return None
        longest_s = min(RETRY_MAX_S, longest_s * 2)


class WaitingReport:
    """Report why a start waits; to operators only with ``config``, which names the broker."""

    def __init__(self, notifier: Notifier, config: Config | None = None) -> None:
        self._notifier = notifier
        self._config = config
        self._known: set[str] = set()
        self._transport: Transport | None = None

    def failed(self, reason: str, pause_s: float) -> None:
        """Report a failed attempt, and the pause before the next one."""
        # Free memory is another number each time, and the advice behind it depends on the number.
        key = re.sub(r"\d+", "", reason.partition(";")[0])
        if key not in self._known:
            self._known.add(key)
            _LOG.warning("the start waits, and is attempted again until it succeeds: %s", reason)
            # A password or a certificate that cannot be read may be the very reason.
            with contextlib.suppress(UnavailableError):
                self._publish(reason)
        # After the log: systemd may end the process because of it.
        self._notifier.waiting(f"waiting: {reason}; next attempt in {pause_s:.0f} s", pause_s)

    def close(self) -> None:
        """Disconnect; blocks for ``STOP_LIMIT_S`` or so at most."""
        if self._transport is not None:
            self._transport.stop(timeout_s=STOP_LIMIT_S)
            self._transport = None

    def _publish(self, reason: str) -> None:
        config, event = self._config, NodeWaiting(reason)
        if config is None:
            return
        if self._transport is None:
            # Not the node's client identifier, whose session goes on collecting requests; and no
            # will: the node stays ``offline``.
            settings = replace(
                broker_settings(config),
                client_id=passing_id(config, "waiting"),
                session_expiry_s=0,
            )
            self._transport = Transport(settings, subscriptions=(), will=None, emit=lambda _: None)
            self._transport.start()
        message = encode_event(topics_of(config), event.kind, event.members())
        self._transport.publish(message, qos=1)
