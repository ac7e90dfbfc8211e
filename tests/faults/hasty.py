"""``edged`` with a change that a test needs, such as pauses too short for the field.

``python -m tests.faults.hasty CHANGE... run ...`` makes the named changes, then is the command.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Never

from edged.attempts import Attempts
from edged.cli import main
from edged.transport.backoff import Backoff
from edged.transport.connection import Connection

HASTY = "hasty"
"""Reconnect at once, so that many broken connections fit into a test."""
BROKEN_CALLBACK = "broken-callback"
"""Raise in paho's callback for a message, as a mistake of ours would."""
DEADLY = "deadly"
"""Die of each request that is begun, as of one that breaks the engine."""


def _hurry() -> None:
    def at_once(*_: object, **__: object) -> float:
        return 0.05

    Backoff.next_s = at_once  # type: ignore[method-assign]


def _break() -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake in a callback")

    Connection._on_message = fail  # type: ignore[method-assign,assignment]


def _die() -> None:
    begin = Attempts.begin

    def begin_and_die(self: Attempts, key: str) -> Never:
        begin(self, key)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    Attempts.begin = begin_and_die  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[], None]] = {
    HASTY: _hurry,
    BROKEN_CALLBACK: _break,
    DEADLY: _die,
}

if __name__ == "__main__":
    words = sys.argv[1:]
    while words[0] in CHANGES:
        CHANGES[words.pop(0)]()
    sys.exit(main(words))
