"""The build cache: folders that are written atomically and checked by hash.

Rule: an entry is used only after its recorded hashes were compared, and it gets its final name only
when it is complete.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edged.bundle.disk import remove, take_name
from edged.bundle.plain_file import opened_folder
from edged.errors import BuildError

# The file of an entry that lists all others with their hashes; written last.
RECORD_NAME = "edged.json"

_CHUNK_BYTES = 1 << 22

# Called with the number of bytes since the last call.
OnBytes = Callable[[int], None]


def hash_file(path: Path, on_bytes: OnBytes | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))
    return digest.hexdigest()


def hash_files(folder: Path, names: list[str], on_bytes: OnBytes | None = None) -> str:
    """Return one SHA-256 over several files of a folder, in any order.

    It is the hash of the lines that ``sha256sum`` prints for the files sorted by name.
    """
    lines = [f"{hash_file(folder / name, on_bytes)}  {name}\n" for name in sorted(names)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def disk_errors(folder: Path, need_bytes: int) -> Iterator[None]:
    """Turn a full disk or denied access into a clear error.

    Raises:
        BuildError: For ENOSPC, EDQUOT, EROFS, EACCES and EPERM.
        OSError: Any other.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise BuildError(no_space(folder, need_bytes)) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise BuildError(
                f"{folder}: cannot be written ({error.strerror}): "
                "give another cache folder with XDG_CACHE_HOME"
            ) from error
        raise


def no_space(folder: Path, need_bytes: int) -> str:
    """Return the error message for a full disk."""
    return (
        f"{folder}: the disk is full: this step needs about {need_bytes / 1e9:.2f} GB there; "
        "free some space or give another cache folder with XDG_CACHE_HOME"
    )


@contextlib.contextmanager
def new_entry(folder: Path, need_bytes: int) -> Iterator[Path]:
    """Yield an empty folder that is renamed to ``folder`` after success, else deleted.

    Raises:
        BuildError: The disk has less than ``need_bytes`` left, or fills up while writing.
    """
    with disk_errors(folder.parent, need_bytes), partial_folder(folder, need_bytes) as partial:
        yield partial
        take_name(partial, folder)


@contextlib.contextmanager
def partial_folder(folder: Path, need_bytes: int) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; what has its name after the block is removed.

    So is, before it, what a process left that was killed in such a block.

    Raises:
        OSError: It cannot be made, or the disk has less than ``need_bytes`` left: ``ENOSPC``.
    """
    parent, prefix = folder.parent, f".edged-{folder.name[:64]}-"
    parent.mkdir(parents=True, exist_ok=True)
    with opened_folder(parent) as parent_fd:
        _lock(parent_fd)  # so that nobody finds one that is not locked yet
        for path in parent.iterdir():
            if path.name.startswith(prefix):
                _remove_unless_locked(path)
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        partial_fd = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _lock(partial_fd)
    try:
        if shutil.disk_usage(parent).free < need_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(parent))
        yield partial
    finally:
        with contextlib.suppress(OSError):
            remove(partial)
        os.close(partial_fd)


def _lock(folder_fd: int) -> None:
    with contextlib.suppress(OSError):  # where nothing can be locked, nothing is removed
        fcntl.flock(folder_fd, fcntl.LOCK_EX)


def _remove_unless_locked(path: Path) -> None:
    with contextlib.suppress(OSError), opened_folder(path) as folder_fd:
        fcntl.flock(folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)


def seal(folder: Path, facts: dict[str, Any]) -> None:
    """Write the record of an entry: the hash of every file in it, and ``facts``."""
    names = sorted(path.name for path in folder.iterdir() if path.name != RECORD_NAME)
    files = {
        name: {"size_bytes": (folder / name).stat().st_size, "sha256": hash_file(folder / name)}
        for name in names
    }
    record = {"facts": facts, "files": files}
    text = json.dumps({**record, "sha256": _digest(record)}, indent=1, sort_keys=True) + "\n"
    partial = folder / f".{RECORD_NAME}"
    partial.write_text(text, encoding="utf-8")
    for name in [*names, partial.name]:
        _sync(folder / name)
    partial.replace(folder / RECORD_NAME)


def open_entry(folder: Path, on_bytes: OnBytes | None = None) -> dict[str, Any] | None:
    """Return the facts of an entry whose every file still has its recorded hash, else None."""
    try:
        record = json.loads((folder / RECORD_NAME).read_bytes())
        # A record of an older version has no hash of its own.
        if record.pop("sha256", None) not in {None, _digest(record)}:
            return None
        files, facts = record["files"], dict(record["facts"])
        is_whole = {path.name for path in folder.iterdir()} == {*files, RECORD_NAME} and all(
            (folder / name).stat().st_size == expected["size_bytes"]
            and hash_file(folder / name, on_bytes) == expected["sha256"]
            for name, expected in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return facts if is_whole else None


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    # A rename can reach the disk before the data does: after a power cut an entry would look
    # complete and hold zeros.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
