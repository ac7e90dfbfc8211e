"""A small file that is replaced as a whole, so that a reader never sees half of it.

Rule: a full or read-only disk costs what the file is for and one line of log, never an answer.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edged.bundle.plain_file import open_plain

_LOG = logging.getLogger(__name__)


class WriteErrors:
    """Log the first failure to write a file, and another one only after a success."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_failing = False

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Catch an ``OSError`` of the block."""
        try:
            yield
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("%s cannot be written: %s", self._name, error)
            self._is_failing = True
        else:
            self._is_failing = False


class AtomicFile:
    """A file that the configuration key ``setting`` names; without a path nothing is written.

    Args:
        path: Of the file.
        setting: The key.
        is_public: Whether others on this machine may read it, whatever the process's umask is.
    """

    def __init__(self, path: Path | None, setting: str, *, is_public: bool = False) -> None:
        self.path = path
        self._mode = 0o644 if is_public else 0o600
        self._errors = WriteErrors(f"{setting}:")

    def write(self, content: bytes) -> None:
        """Replace the file; a failure is logged."""
        if self.path is None:
            return
        new_path = self.path.with_name(self.path.name + ".new")
        with self._errors.caught():
            # What is there may be a link, or a pipe that nobody reads.
            new_path.unlink(missing_ok=True)
            descriptor = open_plain(new_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(descriptor, self._mode)
            new_path.replace(self.path)
