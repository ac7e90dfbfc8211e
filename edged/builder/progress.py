"""Show the progress of a build: a bar for each step at a terminal, plain lines anywhere else.

Rule: every step reports its start and its duration, so a build log is a profile.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from tqdm import tqdm

_LINE_INTERVAL_S = 10.0
_BAR = "{desc}: {percentage:3.0f} % |{bar:24}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
_COUNT = "{desc}: {n_fmt} [{elapsed}]"

Clock = Callable[[], float]


class Activity(Protocol):
    """Receives the progress of a step."""

    def update(self, done: int, total: int | None = None) -> None:
        """Report the amount done and the total in any unit; None for an unknown total."""
        ...


class Progress:
    """The steps of one build on one stream.

    Args:
        stream: output; None takes the current standard error at each step.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    @contextmanager
    def step(self, title: str) -> Iterator[Activity]:
        """Show ``title`` while the block runs, and its duration after success."""
        stream = self._stream or sys.stderr
        begin_s = self._clock()
        activity = (
            _Bar(title, stream) if stream.isatty() else _TextLines(title, stream, self._clock)
        )
        try:
            yield activity
        finally:
            activity.close()
        self.say(f"{title}: {self._clock() - begin_s:.1f} s")

    def say(self, text: str) -> None:
        """Write one line."""
        print(text, file=self._stream or sys.stderr, flush=True)


class _Bar:
    """A tqdm bar that is removed at the end of the step."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self._bar = tqdm(
            desc=title,
            file=stream,
            leave=False,
            unit_scale=True,
            bar_format=_COUNT,
            mininterval=0.2,
        )

    def update(self, done: int, total: int | None = None) -> None:
        self._bar.update(done - self._bar.n)
        if total != self._bar.total:
            self._bar.total = total
            self._bar.bar_format = _COUNT if total is None else _BAR
            self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


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

    def close(self) -> None:
        pass
