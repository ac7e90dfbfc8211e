"""Files that root reads and writes, through descriptors.

Rule: what was opened is what is checked, read, replaced or removed, wherever a name leads by then.
Below the root of the target system no link is followed. On the running system those are that exist
when a folder is opened, since only root can make them where edged is installed.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.bundle.disk import remove, take_name
from edged.bundle.plain_file import open_plain
from edged.commands.install.layout import InstallError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def opened_folder(root: Path, folder: Path, *, is_made: bool = False) -> Iterator[int]:
    """Open a folder below ``root``, one name after the other; yield its descriptor.

    Args:
        root: Of the target system.
        folder: As seen from this machine.
        is_made: Whether folders that are missing are made.

    Raises:
        InstallError: If a name is a link or no folder.
        OSError: If it is missing, or cannot be opened.
    """
    if root == Path("/"):
        folder = Path(os.path.realpath(folder))
    descriptor = os.open(root, _FOLDER)
    try:
        for name in folder.relative_to(root).parts:
            below = _open_below(descriptor, name, is_made=is_made)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _open_below(folder_fd: int, name: str, *, is_made: bool) -> int:
    if is_made:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder_fd)
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder_fd)
    except NotADirectoryError as error:
        raise InstallError(
            f"{name}: a link or no folder; remove it, or mount there what it leads to"
        ) from error


def read_plain(name: Path | str, folder_fd: int | None = None) -> tuple[bytes, int]:
    """Return content and mode of a regular file.

    Raises:
        OSError: If it cannot be read, or is a link or anything else.
    """
    with os.fdopen(open_plain(name, os.O_RDONLY, folder=folder_fd), "rb") as file:
        return file.read(), stat.S_IMODE(os.fstat(file.fileno()).st_mode)


def replace_file(folder_fd: int, name: str, content: bytes, mode: int) -> None:
    """Replace a file atomically; a secret is never readable by others."""
    partial = f".{name}.partial"
    remove(partial, folder_fd)
    file_fd = open_plain(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder=folder_fd)
    with os.fdopen(file_fd, "wb") as file:
        os.fchmod(file.fileno(), mode)  # independent of the umask
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)


def replace_folder(folder_fd: int, name: str, fill: Callable[[int], object]) -> None:
    """Replace a folder by one that ``fill`` fills; until then nobody else can look into it.

    Interrupted at any point, or without power, there is the old one or the new one, if ``fill``
    has the files on the disk.
    """
    partial = f".{name}.partial"
    remove(partial, folder_fd)
    os.mkdir(partial, 0o700, dir_fd=folder_fd)
    try:
        partial_fd = os.open(partial, _FOLDER | os.O_NOFOLLOW, dir_fd=folder_fd)
        try:
            fill(partial_fd)
            os.fchmod(partial_fd, 0o755)
            os.fsync(partial_fd)
        finally:
            os.close(partial_fd)
        take_name(partial, name, folder_fd)
    finally:
        remove(partial, folder_fd)  # what had the name, or an incomplete one
    os.fsync(folder_fd)
