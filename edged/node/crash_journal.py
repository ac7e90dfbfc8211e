"""The crash journal: which deliveries were being taken in, and which requests had started.

At-least-once delivery and a message that ends the process make an endless loop: the broker delivers
it again for ever. So each delivery is marked before anything of it is decoded, and each start is
written down before it happens; what the process before left behind says whom to blame.

Rule: pure. Pages come in as bytes when the process starts, and go out as effects.
"""

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edged.node.effects import Effect, WriteJournal

_LOG = logging.getLogger(__name__)

# Starts of one request, in all processes together; the next one is refused.
MAX_ATTEMPTS = 2
# Requests remembered as started, and as answered; the oldest is forgotten first. Both fit a page.
MAX_REMEMBERED = 48
# Deliveries remembered because the process ended while they were taken in.
MAX_SUSPECTS = 16
STARTS_PAGE, INTAKE_PAGE = 0, 1
# A digest of a request or of a delivery; of a longer one, fewer would fit a page.
_NAME = re.compile(r"[0-9A-Za-z]{1,32}")


@dataclass(slots=True)
class _Start:
    """The starts of one request."""

    num_crashes: int = 0
    """Processes that ended while it ran; above ``MAX_ATTEMPTS`` when it was refused for that."""
    # Equal messages without an id have one identity. They are blamed for a crash as one, and are no
    # attempts of each other.
    num_running: int = 0
    """Starts of this process that have not ended."""

    @property
    def was_left_running(self) -> bool:
        return 0 < self.num_crashes <= MAX_ATTEMPTS


class CrashJournal:
    """Count the crashes of deliveries while they were taken in, and the starts that did not end.

    Args:
        pages: What the process before left: of starts, and of deliveries; each is empty at first.
            None keeps nothing beyond the process.
        emit: Takes each ``WriteJournal``.
    """

    def __init__(self, pages: tuple[bytes, bytes] | None, emit: Callable[[Effect], None]) -> None:
        starts_page, intake_page = pages or (b"", b"")
        self._is_kept = pages is not None
        self._emit = emit
        starts, intake = _read(starts_page), _read(intake_page)
        counts = _read_counts(starts.get("starts"), MAX_REMEMBERED)
        self._starts = {key: _Start(n) for key, n in counts.items()}
        self._answered = dict.fromkeys(_read_names(starts.get("answered"), MAX_REMEMBERED))
        self._crashes = _read_counts(intake.get("crashes"), MAX_SUSPECTS)
        blamed = set(_read_names(intake.get("marked"), MAX_SUSPECTS))
        if blamed:
            self._blame(blamed)
        self._marked: set[str] = set()
        self._is_closed = False
        self._left_running = {key for key, it in self._starts.items() if it.was_left_running}
        # What a crash left stays here until it is delivered again, over clean stops in between.
        was_closed = intake.get("is_closed") is True
        self.num_unfinished = 0 if was_closed else len(self._left_running) + len(blamed)
        """Messages that the process before had at work when it ended: above 0, it crashed."""
        # Written although nothing may have changed: a damaged page is repaired, and the blocks are
        # there if the disk is full later.
        self._write_starts()
        self._write_intake()

    def _blame(self, marked: set[str]) -> None:
        """Count a crash against the deliveries that were being taken in."""
        is_known = any(fingerprint in self._crashes for fingerprint in marked)
        for fingerprint in marked:
            self._crashes[fingerprint] = self._crashes.pop(fingerprint, 0) + 1
        if is_known:  # a suspect is taken in alone: what ran beside it was only present
            for start in self._starts.values():
                if start.was_left_running:
                    start.num_crashes -= 1
        while len(self._crashes) > MAX_SUSPECTS:
            del self._crashes[next(iter(self._crashes))]

    def mark(self, fingerprints: Iterable[str]) -> None:
        """Note which deliveries are being taken in from now on."""
        # Not synced: a crash of the process needs no sync, and a power cut is no message's fault.
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

        Returns:
            The number of this attempt, from 1. Above ``MAX_ATTEMPTS`` it must not be started.
        """
        start = self._starts.pop(key, _Start())
        # A refusal is remembered, since it may have to be sent again; to a redelivery, that is. A
        # new message with the same words is tried.
        if start.num_crashes > MAX_ATTEMPTS and not is_redelivery:
            start = _Start()
        attempt = min(start.num_crashes, MAX_ATTEMPTS) + 1
        if attempt > MAX_ATTEMPTS:
            start.num_crashes = attempt
        start.num_running += 1
        self._starts[key] = start
        while len(self._starts) > MAX_REMEMBERED:
            del self._starts[next(iter(self._starts))]
        self._write_starts()
        return attempt

    def end(self, key: str, *, is_answered: bool = False, was_started: bool = True) -> None:
        """Note that a request has ended, before its reply is sent.

        It is answered if its reply is final, not refused for now; started if ``begin`` was called.
        """
        self._left_running.discard(key)
        if not is_answered:
            self._answered.pop(key, None)
        start = self._starts.get(key)
        if start is None:
            return
        start.num_running -= was_started
        if start.num_running:  # another message with the same words still runs
            return
        # Refused for good, it stays so: another delivery of it may have expired before its refusal.
        if start.num_crashes <= MAX_ATTEMPTS:
            del self._starts[key]
        if is_answered:
            self._answered.pop(key, None)
            self._answered[key] = None
            while len(self._answered) > MAX_REMEMBERED:
                del self._answered[next(iter(self._answered))]
        # Not synced: a power cut costs at most one attempt of a request that the broker, as a rule,
        # does not deliver again.
        self._write_starts()

    def close(self) -> None:
        """Note that the process ends by itself: what is at work now did not end it."""
        self._is_closed = True
        crashes = {key: it.num_crashes for key, it in self._starts.items() if it.num_crashes}
        self._starts = {key: _Start(number) for key, number in crashes.items()}
        self._write_starts()
        self._marked = set()
        self._write_intake()

    def was_answered(self, key: str) -> bool:
        """Tell whether the reply of a request was sent, by this process or one before."""
        return key in self._answered

    def _write_starts(self) -> None:
        starts = {key: it.num_crashes + (it.num_running > 0) for key, it in self._starts.items()}
        self._write(STARTS_PAGE, {"starts": starts, "answered": list(self._answered)})

    def _write_intake(self) -> None:
        content = {"marked": sorted(self._marked), "crashes": self._crashes}
        self._write(INTAKE_PAGE, content | {"is_closed": self._is_closed})

    def _write(self, page: int, content: object) -> None:
        if self._is_kept:
            self._emit(WriteJournal(page, json.dumps(content).encode()))


def _read(page: bytes) -> dict[str, object]:
    """Read what the process before left; a damaged page is as good as none."""
    problem: object = "not an object"
    try:
        content = json.loads(page or b"{}")
    except (ValueError, RecursionError) as error:
        content, problem = None, error
    if isinstance(content, dict):
        return content
    _LOG.warning("the crash journal cannot be read, and is started anew: %s", problem)
    return {}


def _read_counts(value: object, max_count: int) -> dict[str, int]:
    """Read the latest of the counts; each is of processes that ended."""
    counts = value if isinstance(value, dict) else {}
    latest = {key: counts[key] for key in _read_names([*counts], max_count)}
    # ``True`` is an ``int``, too.
    return {key: min(n, MAX_ATTEMPTS + 1) for key, n in latest.items() if type(n) is int and n > 0}


def _read_names(value: object, max_count: int) -> list[str]:
    """Read the latest of the names, as far as they are some that this module writes."""
    names = value if isinstance(value, list) else []
    return [name for name in names[-max_count:] if isinstance(name, str) and _NAME.fullmatch(name)]
