"""Install a finished bundle atomically.

Rule: a folder that is not a bundle is never replaced, and a bundle is replaced by a rename only.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edged.builder.store import partial_folder
from edged.bundle.disk import take_name
from edged.bundle.manifest import MANIFEST
from edged.errors import BuildError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def check_target(folder: Path) -> None:
    """Check that a bundle may be installed here.

    Raises:
        BuildError: it is a file, or a folder that is neither empty nor a bundle.
    """
    if folder.is_dir():
        if (folder / MANIFEST).is_file() or not any(folder.iterdir()):
            return
    elif not folder.exists() and not folder.is_symlink():
        return
    raise BuildError(f"{folder}: exists and is not a bundle; give another folder with --output")


@contextmanager
def staging(folder: Path, need_bytes: int) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; what has its name after the block is deleted.

    Args:
        folder: where the bundle will be installed.
        need_bytes: approximate size of the bundle.

    Raises:
        BuildError: the disk is full or read-only, or access is denied.
        OSError: any other error of the system.
    """
    parent = folder.absolute().parent
    try:
        with partial_folder(folder.absolute(), need_bytes) as partial:
            # It is made private, but the daemon's own user must read the bundle.
            partial.chmod(0o755)
            yield partial
    except OSError as error:
        if error.errno in _FULL:
            raise BuildError(
                f"{parent}: the disk is full: the bundle needs about {need_bytes / 1e6:.0f} MB "
                f"there, {shutil.disk_usage(parent).free / 1e6:.0f} MB are free; "
                "free some space or give another folder with --output"
            ) from error
        if error.errno in _FORBIDDEN:
            raise BuildError(
                f"{parent}: cannot be written ({error.strerror}); give another folder with --output"
            ) from error
        raise


def install(partial: Path, folder: Path) -> None:
    """Rename ``partial`` to ``folder``; a bundle there gets the name ``partial``.

    Raises:
        BuildError: ``folder`` is neither empty nor a bundle.
    """
    check_target(folder)
    for path in partial.iterdir():
        path.chmod(0o644)  # independent of the umask, as the folder
    take_name(partial, folder)
