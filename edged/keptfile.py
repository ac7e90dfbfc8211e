"""A small file of the daemon's own that is always whole: replaced, never changed in place.

Rule: a disk that is full or read-only costs what the file is for and nothing else; answers go on.
"""

import logging
import os
from pathlib import Path

_LOG = logging.getLogger(__name__)


class KeptFile:
    """One file, written anew each time.

    Args:
        path: The file; None writes nothing.
        setting: The configuration key that names it, for the log.
        is_durable: Whether it must outlive a power cut; each write then blocks for one fsync.
    """

    def __init__(self, path: Path | None, setting: str, *, is_durable: bool = False) -> None:
        self.path = path
        self._setting = setting
        self._is_durable = is_durable
        self._is_failing = False

    def write(self, content: bytes) -> None:
        """Replace the file; a failure is logged once until it works again."""
        if self.path is None:
            return
        new_path = self.path.with_name(self.path.name + ".new")
        try:
            with new_path.open("wb") as file:
                file.write(content)
                if self._is_durable:
                    file.flush()
                    os.fsync(file.fileno())
            new_path.replace(self.path)
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("%s: cannot be written: %s", self._setting, error)
            self._is_failing = True
        else:
            self._is_failing = False
