"""Open what must be a regular file or a folder, whatever is in its place.

Rule: never waits, and follows no link to a file: a named pipe would be waited for without an end, a
link may lead to a file of another purpose.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def open_plain(path: Path | str, flags: int, *, folder: int | None = None) -> int:
    """Open a regular file, one that is made for its owner alone; return the descriptor.

    Args:
        path: Of the file; relative to ``folder``, if that is given.
        flags: As for ``os.open``.
        folder: The descriptor of a folder.

    Raises:
        OSError: It cannot be opened; ``ELOOP`` for a link, ``EINVAL`` for what is no regular file.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o600, dir_fd=folder)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextmanager
def opened_folder(path: Path | str, parent_fd: int | None = None) -> Iterator[int]:
    """Open a folder, and yield its descriptor; it is closed at the end.

    Args:
        path: Of the folder, which may be a link; in a ``parent_fd`` no link is followed.
        parent_fd: The descriptor of the folder that it is in.

    Raises:
        OSError: It cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    flags |= 0 if parent_fd is None else os.O_NOFOLLOW
    folder_fd = os.open(path, flags, dir_fd=parent_fd)
    try:
        yield folder_fd
    finally:
        os.close(folder_fd)


def read_plain(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: It cannot be read, or is longer: ``EFBIG``.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"longer than {max_bytes} bytes", str(path))
    return content
