"""The daemon's log: one line per event on standard error, with priorities for systemd's journal.

Rule: no prompt and no answer text, at any level; ids, lengths and codes only. Control characters in
what a peer sent are escaped, so that no peer can forge a line of the log; and the number of lines
is bounded, whatever peers send.
"""

import logging
import os
import sys
import time
from collections.abc import Callable

from edged.config import LogFormat
from edged.daemon.token_bucket import TokenBucket

# Syslog priorities, as sd-daemon(3) reads them from the start of a line.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

# Lines that one place in the code writes at once, and the time after which it may write another:
# room for a burst of events of one kind beside others.
SOURCE_BURST, SOURCE_REFILL_S = 20, 6.0
# The same for all places together.
TOTAL_BURST, TOTAL_REFILL_S = 30, 2.0


class RateLimit(logging.Filter):
    """Suppress lines beyond the limits, and append their number to the next one that is written."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._total = TokenBucket(TOTAL_BURST, TOTAL_REFILL_S, clock())
        # By file and line of the call, so their number is bounded by the code.
        self._sources: dict[tuple[str, int], TokenBucket] = {}
        self._num_suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        if record.levelno < logging.INFO:  # somebody is looking for something
            return True
        now_s, place = self._clock(), (record.pathname, record.lineno)
        source = self._sources.get(place)
        if source is None:
            source = self._sources[place] = TokenBucket(SOURCE_BURST, SOURCE_REFILL_S, now_s)
        if not (source.take(now_s) and self._total.take(now_s)):
            self._num_suppressed += 1
            return False
        if self._num_suppressed:
            record.msg = f"{record.getMessage()} ({self._num_suppressed} lines before it left out)"
            record.args, self._num_suppressed = (), 0
        return True


class _Escaped(logging.Formatter):
    """Escape control characters and, for the journal, put the priority first."""

    def __init__(self, pattern: str, *, is_journal: bool) -> None:
        super().__init__(pattern)
        self._is_journal = is_journal

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """Return the message as one line."""
        line = super().formatMessage(record)
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text: one line, and a traceback of our own where there is one."""
        text = super().format(record)
        if not self._is_journal:
            return text
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{part}" for part in text.split("\n"))


def configure_logging(level: str, log_format: LogFormat) -> None:
    """Send the log to standard error, in the journal's form if systemd reads that."""
    is_journal = log_format is LogFormat.JOURNAL or (
        log_format is LogFormat.AUTO and "JOURNAL_STREAM" in os.environ
    )
    pattern = "%(message)s" if is_journal else "%(asctime)s %(levelname)-7s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped(pattern, is_journal=is_journal))
    handler.addFilter(RateLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
