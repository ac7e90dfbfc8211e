"""Which requests were started and not ended: the one thing that must outlive a crash.

At-least-once delivery and a request that kills the process make an endless loop: the broker brings
it again for ever. So each start is written down before it happens.

Rule: a request is begun before the engine sees it, and ended however it ends.
"""

import json
import logging
from pathlib import Path

from edged.keptfile import KeptFile

_LOG = logging.getLogger(__name__)

MAX_ATTEMPTS = 2
"""Starts of one request, in all processes together; the next one is refused."""
MAX_REMEMBERED = 64
"""Requests remembered; the oldest is forgotten first."""
FILE_NAME = "attempts.json"


class Attempts:
    """Count the starts of requests that did not end.

    Args:
        folder: Where the file lies; None remembers nothing beyond the process.
    """

    def __init__(self, folder: Path | None) -> None:
        path = None if folder is None else folder / FILE_NAME
        self._file = KeptFile(path, "state.folder", is_durable=True)
        self._counts = self._read()

    def begin(self, key: str) -> int:
        """Write down that a request is about to be started; blocks for one fsync.

        Returns:
            The number of this attempt, from 1. Above ``MAX_ATTEMPTS`` it must not be started.
        """
        number = self._counts.pop(key, 0) + 1
        self._counts[key] = number
        while len(self._counts) > MAX_REMEMBERED:
            del self._counts[next(iter(self._counts))]
        if number <= MAX_ATTEMPTS:
            self._write()
        return number

    def end(self, key: str) -> None:
        """Forget a request that ended, whatever its outcome was."""
        if self._counts.pop(key, None) is not None:
            self._write()

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

    def _write(self) -> None:
        self._file.write(json.dumps(self._counts).encode())
