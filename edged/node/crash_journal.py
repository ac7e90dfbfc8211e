"""The crash journal: which deliveries were being taken in, and which requests had started.

At-least-once delivery and a message that ends the process make an endless loop: the broker delivers
it again for ever. So each delivery is marked before anything of it is decoded, and each start is
written down before it happens; what the process before left behind says whom to blame.

Rule: pure. Pages come in as bytes when the process starts, and go out as effects.
"""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edged.node.effects import Effect, WriteJournal

_LOG = logging.getLogger(__name__)

# Starts of one request, in all processes together; the next one is refused.
MAX_ATTEMPTS = 2
# Requests remembered; the oldest is forgotten first.
MAX_REMEMBERED = 64
# Deliveries remembered because the process ended while they were taken in.
MAX_SUSPECTS = 16
STARTS_PAGE, INTAKE_PAGE = 0, 1


@dataclass(slots=True)
class _Record:
    """One request, or several that nothing tells apart."""

    num_crashes: int = 0
    """Processes that ended while it ran, since it last ended itself; one more than ``MAX_ATTEMPTS``
    when it was refused for that."""
    num_running: int = 0
    """Starts of this process that have not ended: several where messages without an id are equal,
    which are blamed for a crash as one."""
    is_answered: bool = False
    """Whether its reply was sent."""

    @property
    def was_left_running(self) -> bool:
        return 0 < self.num_crashes <= MAX_ATTEMPTS

    @property
    def page(self) -> list[object]:
        """What is written: a process that ends now counts against it if it runs."""
        return [self.num_crashes + (self.num_running > 0), self.is_answered]


class CrashJournal:
    """Count the crashes of deliveries while they were taken in, and the starts that did not end.

    Args:
        starts_page: What the process before left of starts; empty at first.
        intake_page: The same of deliveries.
        emit: Takes each ``WriteJournal``; pages are written at once, so that a disk that is full
            later has their blocks.
    """

    def __init__(
        self, starts_page: bytes, intake_page: bytes, emit: Callable[[Effect], None]
    ) -> None:
        self._emit = emit
        self._requests = _read_requests(_read(starts_page))
        intake = _read(intake_page)
        self._crashes = _read_counts(intake.get("crashes"))
        marked = intake.get("marked")
        names = marked if isinstance(marked, list) else []
        blamed = [name for name in names if isinstance(name, str)]
        if blamed:
            self._blame(set(blamed))
        self._marked: set[str] = set()
        self._is_closed = False
        self._left_running = {key for key, it in self._requests.items() if it.was_left_running}
        # What a crash left stays until it is delivered again, over clean stops in between.
        was_closed = intake.get("is_closed") is True
        self.num_unfinished = 0 if was_closed else len(self._left_running) + len(blamed)
        """Messages that the process before had at work when it ended: above 0, it crashed."""
        if blamed:
            self._write_starts()
        self._write_intake()

    def _blame(self, marked: set[str]) -> None:
        """Count a crash against the deliveries that were being taken in."""
        is_known = any(fingerprint in self._crashes for fingerprint in marked)
        for fingerprint in marked:
            self._crashes[fingerprint] = self._crashes.pop(fingerprint, 0) + 1
        if is_known:  # a suspect is taken in alone: what ran beside it was only present
            for it in self._requests.values():
                if it.was_left_running:
                    it.num_crashes -= 1
        while len(self._crashes) > MAX_SUSPECTS:
            del self._crashes[next(iter(self._crashes))]

    def mark(self, fingerprints: Iterable[str]) -> None:
        """Note which deliveries are being taken in from now on.

        Not synced: a crash of the process needs no sync, and a power cut is no message's fault.
        """
        marked = set(fingerprints)
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

    def begin(self, key: str, *, is_redelivery: bool = False) -> int:
        """Write down that a request is about to be started; it may be once this is synced.

        Args:
            key: The key of its identity.
            is_redelivery: Whether the broker says that it delivered this message before.

        Returns:
            The number of this attempt, from 1. Above ``MAX_ATTEMPTS`` it must not be started.
        """
        record = self._requests.pop(key, _Record())
        if record.num_crashes > MAX_ATTEMPTS and not is_redelivery:
            record = _Record()  # a new message, equal to one that was refused
        attempt = min(record.num_crashes, MAX_ATTEMPTS) + 1
        if attempt > MAX_ATTEMPTS:
            record.num_crashes = attempt  # remembered: its refusal may have to be sent again
        record.num_running += 1
        self._requests[key] = record
        while len(self._requests) > MAX_REMEMBERED:
            del self._requests[next(iter(self._requests))]
        self._write_starts()
        return attempt

    def end(self, key: str, *, is_answered: bool = False, was_started: bool = True) -> None:
        """Note that a request has ended, before its reply is sent.

        Not synced: a power cut costs at most one attempt of a request that the broker, as a rule,
        does not deliver again.

        Args:
            key: The key of its identity.
            is_answered: Whether its reply is one to keep; else it was refused for now, or is left
                to the next process.
            was_started: Whether ``begin`` was called for it.
        """
        self._left_running.discard(key)
        record = self._requests.get(key)
        if record is None:
            return
        record.num_running -= was_started
        if record.num_running:  # another message with the same words still runs
            return
        if is_answered:
            record.is_answered = True
            if record.num_crashes <= MAX_ATTEMPTS:
                record.num_crashes = 0
        else:
            del self._requests[key]
        self._write_starts()

    def close(self, keys: Iterable[str]) -> None:
        """Note that the process ends by itself: what is at work, with these keys, is not blamed."""
        self._is_closed = True
        for key in keys:
            self.end(key)
        self._marked = set()
        self._write_intake()

    def was_answered(self, key: str) -> bool:
        """Tell whether the reply of a request was sent, by this process or one before."""
        return key in self._requests and self._requests[key].is_answered

    def _write_starts(self) -> None:
        content = {key: it.page for key, it in self._requests.items()}
        self._emit(WriteJournal(STARTS_PAGE, json.dumps(content).encode()))

    def _write_intake(self) -> None:
        content = {
            "marked": sorted(self._marked),
            "crashes": self._crashes,
            "is_closed": self._is_closed,
        }
        self._emit(WriteJournal(INTAKE_PAGE, json.dumps(content).encode()))


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


def _read_requests(content: dict[str, object]) -> dict[str, _Record]:
    found = {}
    for key, value in content.items():
        match value:
            case [int(num_crashes), bool(is_answered)] if num_crashes >= 0:
                found[key] = _Record(num_crashes, is_answered=is_answered)
    return found
