"""Which requests were started and not ended: the one thing that must outlive a crash.

At-least-once delivery and a request that kills the process make an endless loop: the broker brings
it again for ever. So each start is written down before it happens.

Rule: a request is begun before the engine sees it, and ended however it ends.
"""

import json
import logging
from pathlib import Path

from edged.keptfile import PageFile

_LOG = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Starts of one request, in all processes together; the next one is refused."""
MAX_REMEMBERED = 64
"""Requests remembered; the oldest is forgotten first."""
FILE_NAME = "attempts.json"
_ANSWERED = 100
"""Added to the number of starts of a request whose reply was on its way before."""


class Attempts:
    """Count the starts of requests that did not end.

    Args:
        folder: Where the file lies; None remembers nothing beyond the process.
    """

    def __init__(self, folder: Path | None) -> None:
        path = None if folder is None else folder / FILE_NAME
        self._file = PageFile(path, "state.folder")
        self._counts = self._read()
        self.num_unfinished = sum(count % _ANSWERED > 0 for count in self._counts.values())
        """Requests that the process before had begun and not ended: above 0, it crashed."""

    def begin(self, key: str) -> int:
        """Write down that a request is about to be started; blocks until it is on the disk.

        Returns:
            The number of this attempt, from 1. Above ``MAX_ATTEMPTS`` it must not be started.
        """
        number = self._counts.pop(key, 0) + 1
        self._counts[key] = number
        while len(self._counts) > MAX_REMEMBERED:
            del self._counts[next(iter(self._counts))]
        if number % _ANSWERED <= MAX_ATTEMPTS:
            self._write(is_durable=True)
        return number % _ANSWERED

    def end(self, key: str) -> None:
        """Forget a request that ended without an answer to keep: refused, or left to the next."""
        if self._counts.pop(key, None) is not None:
            self._write(is_durable=False)

    def answer(self, key: str) -> None:
        """Note that a request has ended and its reply is on its way.

        Not on the disk at once: what a power cut brings back is one attempt of a request that the
        broker, as a rule, does not bring again.
        """
        if key in self._counts:
            self._counts[key] = _ANSWERED
            self._write(is_durable=False)

    def was_answered(self, key: str) -> bool:
        """Tell whether the reply of a request is, or was in another process, on its way."""
        return self._counts.get(key, 0) >= _ANSWERED

    def _read(self) -> dict[str, int]:
        """Read what the process before left; a damaged file is as good as none."""
        path = self._file.path
        if path is None:
            return {}
        try:
            counts = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _LOG.warning("%s: cannot be read, and is made anew: %s", path, error)
            return {}
        if not isinstance(counts, dict):
            return {}
        return {key: n for key, n in counts.items() if isinstance(n, int) and n > 0}

    def _write(self, *, is_durable: bool) -> None:
        if self._file.path is None:
            return
        self._file.write(json.dumps(self._counts).encode(), is_durable=is_durable)
