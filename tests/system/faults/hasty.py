"""``edged`` with changes that a test needs, such as shorter pauses.

Run this module with CHANGE... run ...: it applies the named changes, then runs the command.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Never

from edged.cli import main
from edged.daemon.worker import Worker
from edged.node.generation import Generation
from edged.transport.connection import Connection
from edged.transport.network import Backoff

HASTY = "hasty"
"""Reconnect at once, so that many broken connections fit into a test."""
DEADLY = "deadly"
"""Die of each request that is begun, as of one that breaks the engine."""
CALLBACKS = ("connect", "subscribe", "message", "publish", "disconnect")
"""``broken-NAME`` raises in paho's callback of this name, as a mistake of ours would."""


def _hurry() -> None:
    def at_once(*_: object, **__: object) -> float:
        return 0.05

    Backoff.next_s = at_once  # type: ignore[method-assign]


def _break(callback: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake in a callback")

    setattr(Connection, f"_on_{callback}", fail)


def _die() -> None:
    def die(_self: Worker, _generation: Generation) -> Never:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    Worker.start = die  # type: ignore[method-assign, assignment]


CHANGES: dict[str, Callable[[], None]] = {
    HASTY: _hurry,
    DEADLY: _die,
    **{f"broken-{name}": partial(_break, name) for name in CALLBACKS},
}

if __name__ == "__main__":
    words = sys.argv[1:]
    while words[0] in CHANGES:
        CHANGES[words.pop(0)]()
    sys.exit(main(words))
