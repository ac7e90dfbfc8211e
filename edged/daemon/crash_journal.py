"""The crash journal: which delivery was being taken in, and which requests had started.

At-least-once delivery and a message that kills the process make an endless loop: the broker brings
it again for ever. So each delivery is marked before anything of it is decoded, and each start is
written down before it happens.

Rule: a delivery is marked before it is decoded and unmarked when it is decided on; a request is
begun before the engine sees it, and ended however it ends.
"""

import json
import logging
from pathlib import Path

from edged.daemon.atomic_file import PageFile
from edged.node.ports import MAX_ATTEMPTS

_LOG = logging.getLogger(__name__)

MAX_REMEMBERED = 64
"""Requests remembered; the oldest is forgotten first."""
FILE_NAME = "attempts.json"
STARTS_PAGE, INTAKE_PAGE = 0, 1
MAX_SUSPECTS = 16
"""Deliveries remembered because the process ended while they were taken in."""
_ANSWERED = 100
"""Added to the number of starts of a request whose reply was on its way before."""


class Attempts:
    """Count the crashes of deliveries on their way in, and the starts that did not end.

    Args:
        folder: Where the file lies; None remembers nothing beyond the process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = PageFile(None if folder is None else folder / FILE_NAME, "state.folder")
        self._counts = _read_counts(self._read(STARTS_PAGE))
        intake = self._read(INTAKE_PAGE)
        self._intake_crashes = _read_counts(intake.get("crashes"))
        marked = intake.get("marked")
        if isinstance(marked, str):
            self._blame(marked)
            self._write_starts(is_durable=False)
        self._write_intake(None)  # counted once; and a disk that is full later has the page
        self._left_running = {key for key, n in self._counts.items() if n % _ANSWERED > 0}
        self.num_unfinished = len(self._left_running) + isinstance(marked, str)
        """Messages that the process before had at work when it ended: above 0, it crashed."""

    def _blame(self, fingerprint: str) -> None:
        """Count a crash against the delivery that was being taken in."""
        num_before = self._intake_crashes.pop(fingerprint, 0)
        self._intake_crashes[fingerprint] = num_before + 1
        while len(self._intake_crashes) > MAX_SUSPECTS:
            del self._intake_crashes[next(iter(self._intake_crashes))]
        if num_before:  # known as a suspect: what ran beside it was only present
            left = {k: n - (n % _ANSWERED > 0) for k, n in self._counts.items()}
            self._counts = {key: count for key, count in left.items() if count}

    def begin_intake(self, fingerprint: str) -> None:
        """Mark a delivery before it is decoded.

        Not synced: a crash of the process needs none, and a power cut is no message's fault.
        """
        self._write_intake(fingerprint)

    def end_intake(self, fingerprint: str) -> None:
        """Unmark a delivery that is decided on: it did not end the process."""
        self._intake_crashes.pop(fingerprint, None)
        self._write_intake(None)

    def num_intake_crashes(self, fingerprint: str) -> int:
        """Tell how many processes ended while this delivery was taken in, since it last was."""
        return self._intake_crashes.get(fingerprint, 0)

    def was_left_running(self, key: str) -> bool:
        """Tell whether a process before ended while a request ran, which has not ended since."""
        return key in self._left_running

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
            self._write_starts(is_durable=True)
        return number % _ANSWERED

    def end(self, key: str) -> None:
        """Forget a request that ended without an answer to keep: refused, or left to the next."""
        self._left_running.discard(key)
        if self._counts.pop(key, None) is not None:
            self._write_starts(is_durable=False)

    def answer(self, key: str) -> None:
        """Note that a request has ended and its reply is on its way.

        Not on the disk at once: what a power cut brings back is one attempt of a request that the
        broker, as a rule, does not bring again.
        """
        self._left_running.discard(key)
        if key in self._counts:
            self._counts[key] = _ANSWERED
            self._write_starts(is_durable=False)

    def was_answered(self, key: str) -> bool:
        """Tell whether the reply of a request is, or was in another process, on its way."""
        return self._counts.get(key, 0) >= _ANSWERED

    def _read(self, page: int) -> dict[str, object]:
        """Read what the process before left; a damaged page is as good as none."""
        try:
            content = json.loads(self._file.read(page) or b"{}")
        except (OSError, ValueError, RecursionError) as error:
            _LOG.warning("%s: cannot be read, and is made anew: %s", self._file.path, error)
            return {}
        return content if isinstance(content, dict) else {}

    def _write_starts(self, *, is_durable: bool) -> None:
        self._write(STARTS_PAGE, self._counts, is_durable=is_durable)

    def _write_intake(self, marked: str | None) -> None:
        content = {"marked": marked, "crashes": self._intake_crashes}
        self._write(INTAKE_PAGE, content, is_durable=False)

    def _write(self, page: int, content: object, *, is_durable: bool) -> None:
        if self._file.path is not None:
            self._file.write(page, json.dumps(content).encode(), is_durable=is_durable)


def _read_counts(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {key: n for key, n in value.items() if isinstance(n, int) and n > 0}
