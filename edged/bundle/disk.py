"""Changes of folders that survive a power cut, one step of the file system each.

A name that was made, replaced or removed is on the disk when its folder was synced, the content of
a file when the file was. ``tests/fake_disk.py`` stands in for this class and loses what was not.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from edged.bundle.plain_file import open_plain, opened_folder, read_plain
from edged.bundle.signature import SignatureError
from edged.bundle.signed_folder import hash_folder, signature_in

_MAX_BYTES = 1 << 20
# linux/fcntl.h and linux/fs.h
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class Disk:
    """The file system of this machine; each method raises ``OSError``."""

    def read(self, path: Path) -> bytes | None:
        """Return the content of a small file; None if there is none."""
        try:
            return read_plain(path, _MAX_BYTES)
        except FileNotFoundError:
            return None

    def target(self, path: Path) -> str | None:
        """Return where a symbolic link leads; None if there is none."""
        try:
            return str(path.readlink())
        except FileNotFoundError:
            return None

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; none if there is no folder."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []

    def make_folder(self, path: Path) -> None:
        """Make a folder that all may read, if it is not there."""
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            path.chmod(0o755)  # independent of the umask

    def write(self, path: Path, content: bytes) -> None:
        """Make a file that all may read, and have its content on the disk."""
        file_fd = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(file_fd, "wb") as file:
            os.fchmod(file_fd, 0o644)
            file.write(content)
            file.flush()
            os.fsync(file_fd)

    def link(self, target: str, path: Path) -> None:
        """Make a symbolic link."""
        path.symlink_to(target)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file, a link or a folder another name; what had that name is gone."""
        source.rename(target)

    def is_same(self, folder: Path, wanted: Path) -> bool:
        """Return whether a folder holds what another one does; blocks while it reads both."""
        content = _content(wanted)
        try:
            return _content(folder) == content
        except (OSError, SignatureError):  # a disk that fails
            return False

    def exchange(self, one: Path, other: Path) -> None:
        """Give each of two folders the name of the other one.

        Raises:
            OSError: They cannot, such as on a file system that does not know how.
        """
        exchange_names(one, other)

    def remove(self, path: Path) -> None:
        """Remove a file, a link, or a folder with all that is in it; nothing if it is not there."""
        remove(path)

    def sync(self, folder: Path) -> None:
        """Have the names in a folder on the disk; blocks."""
        with opened_folder(folder) as folder_fd:
            os.fsync(folder_fd)

    def sync_all(self, folder: Path) -> None:
        """Have a folder with all that is in it on the disk; blocks."""
        for parent, _, names in os.walk(folder):
            for name in names:
                file_fd = open_plain(Path(parent, name), os.O_RDONLY)
                try:
                    os.fsync(file_fd)
                finally:
                    os.close(file_fd)
            self.sync(Path(parent))


def exchange_names(one: Path | str, other: Path | str, folder_fd: int = _AT_FDCWD) -> None:
    """Give each of two names what the other one has; relative names are those in a folder.

    Raises:
        OSError: They cannot, such as on a file system that does not know how.
    """
    rename = ctypes.CDLL(None, use_errno=True).renameat2
    if rename(folder_fd, os.fsencode(one), folder_fd, os.fsencode(other), _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot exchange folders: {os.strerror(number)}", str(other))


def take_name(partial: Path | str, name: Path | str, folder_fd: int = _AT_FDCWD) -> None:
    """Give a folder the name of what it replaces, which has the folder's name from then on.

    Whoever reads finds what was there or the folder, also after a power cut if the files of the
    folder are on the disk. Where names cannot be exchanged, there is neither for a moment.

    Raises:
        OSError: It cannot be renamed.
    """

    def rename() -> None:
        os.rename(partial, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)

    try:
        rename()  # where nothing has the name, or an empty folder
    except OSError:
        try:
            exchange_names(partial, name, folder_fd)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOSYS}:
                raise
            remove(name, folder_fd)
            rename()


def remove(name: Path | str, folder_fd: int = _AT_FDCWD) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing if it is not there.

    Raises:
        OSError: It cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=folder_fd)
        else:
            os.unlink(name, dir_fd=folder_fd)


def make_folders(folder: Path) -> None:
    """Make a folder that all may read, and those above it, if they are not there.

    Raises:
        OSError: One cannot be made.
    """
    umask = os.umask(0o022)  # the service must be able to read what is in it
    try:
        folder.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(umask)


def _content(folder: Path) -> tuple[dict[str, str], bytes | None]:
    with opened_folder(folder) as folder_fd:
        return hash_folder(folder_fd, {}), signature_in(folder_fd)


def replace_file(disk: Disk, path: Path, content: bytes) -> None:
    """Replace a file so that after a power cut it is the old one or the new one.

    Raises:
        OSError: It cannot be written.
    """
    _replace(disk, path, lambda partial: disk.write(partial, content))


def replace_link(disk: Disk, path: Path, target: str) -> None:
    """Replace a symbolic link in the same way.

    Raises:
        OSError: It cannot be written.
    """
    _replace(disk, path, lambda partial: disk.link(target, partial))


def _replace(disk: Disk, path: Path, make: Callable[[Path], None]) -> None:
    partial = path.with_name(f".{path.name}.new")
    disk.remove(partial)
    make(partial)
    disk.rename(partial, path)
    disk.sync(path.parent)
