"""Small files of the daemon's own: one that is replaced, one that is overwritten in place.

Rule: a disk that is full or read-only costs what the file is for and nothing else; answers go on.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)

PAGE_BYTES = 4096
"""Size of a page of a ``PageFile``: one block of every common file system."""


class _File:
    """A path that may be absent, and a complaint that is made once until it works again.

    Args:
        path: The file; None writes nothing.
        setting: The configuration key that names it, for the log.
    """

    def __init__(self, path: Path | None, setting: str) -> None:
        self.path = path
        self._setting = setting
        self._is_failing = False

    def _attempt(self, put: Callable[[Path], None]) -> None:
        if self.path is None:
            return
        try:
            put(self.path)
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("%s: cannot be written: %s", self._setting, error)
            self._is_failing = True
        else:
            self._is_failing = False


class KeptFile(_File):
    """A file for others to read: always whole, because it is replaced and never changed."""

    def write(self, content: bytes) -> None:
        """Replace the file."""
        self._attempt(lambda path: _replace(path, content))


class PageFile(_File):
    """A file for the next process, which outlives a power cut at the price of one small write.

    Its blocks are allocated once and overwritten from then on: no space is needed on a full disk,
    and the file system has nothing of its own to write. Replacing it would cost 40 times as much.
    """

    def write(self, page: int, content: bytes, *, is_durable: bool) -> None:
        """Overwrite one page with up to so many bytes of text, filled up with spaces.

        Args:
            page: Its number, from 0.
            content: What the next process must find.
            is_durable: Whether it must outlive a power cut, not only this process; blocks for it.
        """
        block, offset = content.ljust(PAGE_BYTES), page * PAGE_BYTES
        self._attempt(lambda path: _overwrite(path, block, offset, is_durable=is_durable))

    def read(self, page: int) -> bytes:
        """Return what a page holds, empty where it was never written; blocks.

        Raises:
            OSError: The file is there and cannot be read.
        """
        if self.path is None or not self.path.exists():
            return b""
        with self.path.open("rb") as file:
            file.seek(page * PAGE_BYTES)
            return file.read(PAGE_BYTES).strip()


def _replace(path: Path, content: bytes) -> None:
    new_path = path.with_name(path.name + ".new")
    new_path.write_bytes(content)
    new_path.replace(path)


def _overwrite(path: Path, block: bytes, offset: int, *, is_durable: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(file, block, offset)
        if is_durable:
            os.fdatasync(file)
    finally:
        os.close(file)
