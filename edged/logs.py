"""The daemon's log: one line per event on standard error, with priorities for systemd's journal.

Rule: no prompt and no answer text, at any level; ids, lengths and codes only. Control characters in
what a peer sent are escaped, so that nobody can write lines of their own into the log.
"""

import logging
import os
import sys
from collections.abc import Mapping

from edged.config import LogFormat

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Syslog priorities, as sd-daemon(3) reads them from the start of a line."""


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


def configure_logging(
    level: str, log_format: LogFormat, environment: Mapping[str, str] = os.environ
) -> None:
    """Send the log to standard error.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``auto`` is the journal's form when systemd reads standard error.
        environment: Where ``JOURNAL_STREAM`` tells that it does.
    """
    is_journal = log_format is LogFormat.JOURNAL or (
        log_format is LogFormat.AUTO and "JOURNAL_STREAM" in environment
    )
    pattern = "%(message)s" if is_journal else "%(asctime)s %(levelname)-7s %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Escaped(pattern, is_journal=is_journal))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
