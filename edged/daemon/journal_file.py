"""The crash journal's file, and the thread that has it outlive a power cut.

Rule: what is written outlives this process at once, on the thread that writes; only ``fdatasync``,
which waits for the disk, is left to the journal's own thread. A disk that is full, read-only or
failing costs what the journal is for and nothing else; answers go on.
"""

import contextlib
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

_LOG = logging.getLogger(__name__)

# Size of a page: one block of every common file system.
#
# Blocks are allocated once and overwritten from then on: no space is needed on a full disk, and the
# file system has nothing of its own to write. Replacing the file would cost 40 times as much.
FILE_NAME = "attempts.json"
PAGE_BYTES = 4096
NUM_PAGES = 2


class JournalFile:
    """Two pages of a file.

    Args:
        folder: Where it lies; None remembers nothing beyond the process.
        synced: Called on the journal's thread with the key of each ``sync``; must not block.
    """

    def __init__(self, folder: Path | None, synced: Callable[[int], None]) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self._synced = synced
        self._is_failing = False
        self._keys: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="journal", daemon=True)
        if self._path is not None:
            self._thread.start()

    def read(self) -> tuple[bytes, bytes] | None:
        """Return the pages, empty where they were never written; None without a folder; blocks."""
        if self._path is None:
            return None
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            _LOG.warning("%s: cannot be read, and is started anew: %s", self._path, error)
            content = b""
        return content[:PAGE_BYTES].strip(), content[PAGE_BYTES:][:PAGE_BYTES].strip()

    def write(self, page: int, content: bytes) -> None:
        """Overwrite a page with text of at most ``PAGE_BYTES``; it outlives this process."""
        if self._path is None:
            return
        block = content.ljust(PAGE_BYTES)
        self._attempt(lambda file: os.pwrite(file, block, page * PAGE_BYTES))

    def sync(self, key: int) -> bool:
        """Have what was written outlive a power cut; returns at once.

        Returns:
            False when there is no file, and so nothing to wait for; else ``synced`` is called.
        """
        if self._path is None:
            return False
        self._keys.put(key)
        return True

    def _loop(self) -> None:
        while True:
            keys = [self._keys.get()]
            with contextlib.suppress(queue.Empty):  # one sync serves all that wait for one
                while True:
                    keys.append(self._keys.get_nowait())
            self._attempt(os.fdatasync)
            for key in keys:
                self._synced(key)

    def _attempt(self, act: Callable[[int], object]) -> None:
        """Act on the open file; a failure is logged once until it works again."""
        if self._path is None:
            return
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                act(file)
            finally:
                os.close(file)
        except OSError as error:
            if not self._is_failing:
                _LOG.warning("state.folder: the crash journal cannot be written: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False
