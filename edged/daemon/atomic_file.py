"""A small file for others to read: always whole, because it is replaced and never changed.

Rule: a disk that is full or read-only costs what the file is for and nothing else; answers go on.
"""

import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)


class AtomicFile:
    """A path that may be absent, and a warning that is logged once until it works again.

    Args:
        path: The file; None writes nothing.
        setting: The configuration key that names it, for the log.
    """

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path = path
        self._setting = setting
        self._is_failing = False

    def write(self, content: bytes) -> None:
        """Replace the file; a failure is logged."""
        if self.path is None:
            return
        new_path = self.path.with_name(self.path.name + ".new")
        try:
            new_path.write_bytes(content)
            new_path.replace(self.path)
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("%s: cannot be written: %s", self._setting, error)
            self._is_failing = True
        else:
            self._is_failing = False
