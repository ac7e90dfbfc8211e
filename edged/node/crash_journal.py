"""The crash journal: which deliveries were being taken in, and which requests had started.

At-least-once delivery and a message that ends the process make an endless loop: the broker delivers
it again for ever. So each delivery is marked before anything of it is decoded, and each start is
written down before it happens; what the process before left behind says whom to blame.

Rule: pure. Pages come in as bytes when the process starts, and go out as effects.
"""

import json
import logging
from collections.abc import Callable, Iterable

from edged.node.effects import Effect, WriteJournal

_LOG = logging.getLogger(__name__)

# Starts of one request, in all processes together; the next one is refused.
MAX_ATTEMPTS = 2
# Requests remembered as started, and as answered; the oldest is forgotten first. Both fit a page.
MAX_REMEMBERED = 48
# Deliveries remembered because the process ended while they were taken in.
MAX_SUSPECTS = 16
STARTS_PAGE, INTAKE_PAGE = 0, 1


class CrashJournal:
    """Count the crashes of deliveries while they were taken in, and the starts that did not end.

    Args:
        pages: What the process before left: of starts, and of deliveries; each is empty at first.
            None keeps nothing beyond the process.
        emit: Takes each ``WriteJournal``; pages are written at once, so that a disk that is full
            later has their blocks.
    """

    def __init__(self, pages: tuple[bytes, bytes] | None, emit: Callable[[Effect], None]) -> None:
        starts_page, intake_page = pages or (b"", b"")
        self._is_kept = pages is not None
        self._emit = emit
        starts = _read(starts_page)
        self._starts = _read_counts(starts.get("starts"))
        self._answered = dict.fromkeys(_read_names(starts.get("answered")))
        intake = _read(intake_page)
        self._crashes = _read_counts(intake.get("crashes"))
        blamed = _read_names(intake.get("marked"))
        if blamed:
            self._blame(blamed)
        self._marked: tuple[str, ...] = ()
        self._left_running = set(self._starts)
        self.num_unfinished = len(self._left_running) + len(blamed)
        """Messages that the process before had at work when it ended: above 0, it crashed."""
        if blamed:
            self._write_starts()
        self._write_intake()

    def _blame(self, marked: Iterable[str]) -> None:
        """Count a crash against the deliveries that were being taken in."""
        for fingerprint in marked:
            num_before = self._crashes.pop(fingerprint, 0)
            self._crashes[fingerprint] = num_before + 1
            if num_before:  # a known suspect, taken in alone: what ran beside it was only present
                fewer = {key: number - 1 for key, number in self._starts.items()}
                self._starts = {key: number for key, number in fewer.items() if number}
        while len(self._crashes) > MAX_SUSPECTS:
            del self._crashes[next(iter(self._crashes))]

    def mark(self, fingerprints: Iterable[str]) -> None:
        """Note which deliveries are being taken in from now on.

        Not synced: a crash of the process needs no sync, and a power cut is no message's fault.
        """
        marked = tuple(fingerprints)
        if marked != self._marked:
            self._marked = marked
            self._write_intake()

    def forgive(self, fingerprint: str) -> None:
        """Note that a delivery was decided on: it did not end the process."""
        if self._crashes.pop(fingerprint, None) is not None:
            self._write_intake()

    def num_intake_crashes(self, fingerprint: str) -> int:
        """Return how many processes ended while this delivery was taken in, since it last was."""
        return self._crashes.get(fingerprint, 0)

    def was_left_running(self, key: str) -> bool:
        """Tell whether a process before ended while a request ran, which has not ended since."""
        return key in self._left_running

    def begin(self, key: str) -> int:
        """Write down that a request is about to be started; it may be once this is synced.

        Returns:
            The number of this attempt, from 1. Above ``MAX_ATTEMPTS`` it must not be started.
        """
        number = self._starts.pop(key, 0) + 1
        self._starts[key] = number
        while len(self._starts) > MAX_REMEMBERED:
            del self._starts[next(iter(self._starts))]
        if number <= MAX_ATTEMPTS:
            self._write_starts()
        return number

    def end(self, key: str) -> None:
        """Forget a request that ended without an answer to keep: refused, or left to the next."""
        self._left_running.discard(key)
        self._answered.pop(key, None)
        if self._starts.pop(key, None) is not None:
            self._write_starts()

    def answer(self, key: str) -> None:
        """Note that a request has ended, before its reply is sent.

        Not synced: a power cut costs at most one attempt of a request that the broker, as a rule,
        does not deliver again.
        """
        self._left_running.discard(key)
        if self._starts.pop(key, None) is None:
            return
        self._answered.pop(key, None)
        self._answered[key] = None
        while len(self._answered) > MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
        self._write_starts()

    def was_answered(self, key: str) -> bool:
        """Tell whether the reply of a request was sent, by this process or one before."""
        return key in self._answered

    def _write_starts(self) -> None:
        content = {"starts": self._starts, "answered": list(self._answered)}
        self._write(STARTS_PAGE, content)

    def _write_intake(self) -> None:
        self._write(INTAKE_PAGE, {"marked": self._marked, "crashes": self._crashes})

    def _write(self, page: int, content: object) -> None:
        if self._is_kept:
            self._emit(WriteJournal(page, json.dumps(content).encode()))


def _read(page: bytes) -> dict[str, object]:
    """Read what the process before left; a damaged page is as good as none."""
    try:
        content = json.loads(page or b"{}")
    except (ValueError, RecursionError) as error:
        _LOG.warning("the crash journal cannot be read, and is started anew: %s", error)
        return {}
    return content if isinstance(content, dict) else {}


def _read_counts(value: object) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {key: n for key, n in value.items() if isinstance(n, int) and n > 0}


def _read_names(value: object) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
