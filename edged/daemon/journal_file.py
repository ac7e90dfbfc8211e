"""The crash journal's file, and the thread that makes it survive a power cut.

Rule: a written page survives the process at once; only ``fdatasync``, which waits for the disk, is
left to the journal's thread. A full, read-only or failing disk costs the journal, never an answer.
"""

import contextlib
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from edged.bundle.plain_file import open_plain, read_plain
from edged.daemon.atomic_file import WriteErrors

_LOG = logging.getLogger(__name__)

FILE_NAME = "attempts.json"
# One block of every common file system. Blocks are allocated once and overwritten from then on: a
# full disk is no obstacle, and the file system has no metadata to write. To replace the file
# instead would cost 40 times as much.
PAGE_BYTES = 4096
NUM_PAGES = 2


class JournalFile:
    """Two pages of a file.

    Args:
        folder: Of the file; None keeps no journal.
        synced: Called on the journal's thread with the key of each ``sync``; must not block.
    """

    def __init__(self, folder: Path | None, synced: Callable[[int], None]) -> None:
        self._path = None if folder is None else folder / FILE_NAME
        self._synced = synced
        self._errors = WriteErrors("state.folder: the crash journal")
        self._keys: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="journal", daemon=True)
        if self._path is not None:
            self._thread.start()

    def read(self) -> tuple[bytes, bytes] | None:
        """Return the pages, empty where they were never written; None without a folder; blocks."""
        if self._path is None:
            return None
        content = b""
        try:
            content = read_plain(self._path, NUM_PAGES * PAGE_BYTES)
        except FileNotFoundError:
            pass
        except OSError as error:
            _LOG.warning("%s: cannot be read, and is started anew: %s", self._path, error.strerror)
            if error.errno == errno.EFBIG:  # its rest would stay for ever
                self._try(lambda file: os.ftruncate(file, 0))
        # Padded with spaces by ``write``; NUL where only the other page was written.
        pages = content[:PAGE_BYTES], content[PAGE_BYTES : NUM_PAGES * PAGE_BYTES]
        return pages[0].strip(b" \0"), pages[1].strip(b" \0")

    def write(self, page: int, content: bytes) -> None:
        """Overwrite a page with at most ``PAGE_BYTES``; they survive this process."""
        block = content.ljust(PAGE_BYTES)
        self._try(lambda file: os.pwrite(file, block, page * PAGE_BYTES))

    def sync(self, key: int) -> bool:
        """Begin to sync the pages to the disk; return whether ``synced`` will be called."""
        if self._path is None:
            return False
        self._keys.put(key)
        return True

    def _loop(self) -> None:
        while True:
            keys = [self._keys.get()]
            with contextlib.suppress(queue.Empty):  # one sync serves all keys in the queue
                while True:
                    keys.append(self._keys.get_nowait())
            self._try(os.fdatasync)
            for key in keys:
                self._synced(key)

    def _try(self, act: Callable[[int], object]) -> None:
        """Act on the open file."""
        if self._path is None:
            return
        # Opened each time: a folder that is mounted, or a disk that is freed, later is used then.
        with self._errors.caught():
            file = open_plain(self._path, os.O_WRONLY | os.O_CREAT)
            try:
                act(file)
            finally:
                os.close(file)
