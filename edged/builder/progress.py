"""Show the progress of a build: one line that counts down at a terminal, plain lines elsewhere.

Rule: in a log every step reports its start and its duration, so a build log is a profile.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, TextIO

_LINE_INTERVAL_S = 10.0
_DRAW_INTERVAL_S = 1.0
_ERASE = "\r\x1b[K"
_SHOWN_S = 10  # a time left is rounded up to a multiple
_CACHED_SHARE = 0.1
"""Of its expected time, what a step takes at most whose result was there already."""

Clock = Callable[[], float]


class Activity(Protocol):
    """Receives the progress of a step."""

    def update(self, done: int, total: int | None = None) -> None:
        """Report the amount done and the total in any unit; None for an unknown total."""
        ...


class Remaining:
    """How long the steps of a build still take, by how long the steps before them took.

    Args:
        expected: seconds of each step in its order, by the beginning of its title.
    """

    def __init__(self, expected: Mapping[str, float]) -> None:
        self._steps = list(expected.items())
        self._ahead_s = sum(expected.values())
        self._expected_s = 0.0
        self._took_s = 0.0

    def begin(self, title: str) -> float:
        """Leave out what comes before a step; return what the step itself is expected to take.

        A step that comes a second time has everything behind it ahead again.
        """
        for index, (beginning, seconds) in enumerate(self._steps):
            if title.startswith(beginning):
                self._ahead_s = sum(later for _, later in self._steps[index + 1 :])
                return seconds
        return 0.0

    def end(self, expected_s: float, took_s: float) -> None:
        """Learn from a step that is done; what a cache had, tells nothing of the others."""
        if took_s > _CACHED_SHARE * expected_s > 0.0:
            self._expected_s += expected_s
            self._took_s += took_s

    def left_s(self, expected_s: float, took_s: float, share: float | None) -> float:
        """Return the seconds left, of the current step and those behind it.

        Args:
            expected_s: of the current step.
            took_s: of it so far.
            share: of it that is done; None where it does not say.
        """
        pace = self._took_s / self._expected_s if self._expected_s else 1.0
        if expected_s > 0.0:  # so slow that it takes longer than those before: the rest may, too
            pace = max(pace, took_s / expected_s)
        whole_s = pace * expected_s
        rest_s = whole_s - took_s if share is None else whole_s * (1.0 - share)
        return rest_s + pace * self._ahead_s


class Progress:
    """The steps of one build on one stream.

    Args:
        stream: output; None takes the current standard error at each step.
        clock: seconds, monotonic.
        expected: seconds of each step, as for ``Remaining``; without any no time left is shown.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        clock: Clock = time.monotonic,
        expected: Mapping[str, float] | None = None,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._remaining = Remaining(expected or {})

    @contextmanager
    def step(self, title: str) -> Iterator[Activity]:
        """Show ``title`` while the block runs; in a log, its duration after success."""
        stream = self._stream or sys.stderr
        begin_s = self._clock()
        expected_s = self._remaining.begin(title)
        if stream.isatty():
            line = _Line(title, stream, self._clock, self._remaining, expected_s)
            try:
                yield line
            finally:
                line.close()
        else:
            yield _TextLines(title, stream, self._clock)
            self.say(f"{title}: {self._clock() - begin_s:.1f} s")
        self._remaining.end(expected_s, self._clock() - begin_s)

    def say(self, text: str) -> None:
        """Write one line."""
        print(text, file=self._stream or sys.stderr, flush=True)


class _Line:
    """A line that is drawn again every second, and removed at the end of the step."""

    def __init__(
        self, title: str, stream: TextIO, clock: Clock, remaining: Remaining, expected_s: float
    ) -> None:
        self._title = title
        self._stream = stream
        self._clock = clock
        self._remaining = remaining
        self._expected_s = expected_s
        self._begin_s = clock()
        self._share: float | None = None
        self._ended = threading.Event()
        # A thread, because most steps say little while they run.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def update(self, done: int, total: int | None = None) -> None:
        self._share = done / total if total else None

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._stream.write(_ERASE)
        self._stream.flush()

    def _run(self) -> None:
        while True:
            self._stream.write(_ERASE + self._text())
            self._stream.flush()
            if self._ended.wait(_DRAW_INTERVAL_S):
                return

    def _text(self) -> str:
        share, took_s = self._share, self._clock() - self._begin_s
        text = f"{self._title} …" if share is None else f"{self._title}: {share:.0%}"
        left_s = self._remaining.left_s(self._expected_s, took_s, share)
        return text if left_s <= 0.0 else f"{text}, {describe(left_s)} left"


def describe(seconds: float) -> str:
    """Return a duration in words, rounded up to ten seconds: ``about 1 min 20 s``."""
    minutes, rest = divmod(-int(-seconds // _SHOWN_S) * _SHOWN_S, 60)
    parts = [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest or not minutes)
    return f"about {' '.join(parts)}"


class _TextLines:
    """A line at the start, then at most one every ten seconds."""

    def __init__(self, title: str, stream: TextIO, clock: Clock) -> None:
        self._title = title
        self._stream = stream
        self._clock = clock
        self._next_s = clock() + _LINE_INTERVAL_S
        print(f"{title} …", file=stream, flush=True)

    def update(self, done: int, total: int | None = None) -> None:
        if self._clock() < self._next_s:
            return
        self._next_s = self._clock() + _LINE_INTERVAL_S
        amount = f"{done}" if not total else f"{100 * done / total:.0f} %"
        print(f"{self._title}: {amount}", file=self._stream, flush=True)
