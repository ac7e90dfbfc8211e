"""Show how a build goes on: a bar for each step at a terminal, plain lines anywhere else.

Rule: every step says when it begins and how long it took, so a build log is a profile.
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
    """The step in hand, as the code that does it sees it."""

    def update(self, done: int, total: int | None = None) -> None:
        """Report how much is done, in any unit; None when the total is not known."""
        ...


class Progress:
    """The steps of one build on one stream.

    Args:
        stream: where to write; None takes the standard error at the time of each step.
        clock: seconds, monotonic.
    """

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

    @contextmanager
    def step(self, title: str) -> Iterator[Activity]:
        """Show ``title`` while the block runs, and the seconds it took when it ends well."""
        stream = self._stream or sys.stderr
        begin_s = self._clock()
        activity = _Bar(title, stream) if stream.isatty() else _Lines(title, stream, self._clock)
        try:
            yield activity
        finally:
            activity.close()
        self.say(f"{title}: {self._clock() - begin_s:.1f} s")

    def say(self, text: str) -> None:
        """Write one line."""
        print(text, file=self._stream or sys.stderr, flush=True)


class _Bar:
    """A tqdm bar that is gone when the step is over."""

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


class _Lines:
    """A line at the start, then one every ten seconds at most."""

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
