"""Whether a folder is what somebody signed: all its files hashed, and compared with ``model.sig``.

Rule: files are read through descriptors that were checked, and no link is followed. A file that was
read already is not read again: its hash is what was loaded, whatever its name leads to by now.
"""

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping

from edged.bundle.plain_file import open_plain, opened_folder
from edged.bundle.signature import (
    MAX_FILES,
    MAX_PATH_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    FolderSignature,
    SignatureError,
)

_MAX_DEPTH = 16
# Of a name with a line break, the list of all files would have two readings.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def signature_in(folder_fd: int) -> bytes | None:
    """Return the content of ``model.sig``; None where there is none.

    Raises:
        SignatureError: it is a link or no regular file, or too long.
        OSError: it cannot be read.
    """
    try:
        with _plain(folder_fd, SIGNATURE, SIGNATURE) as file_fd:
            data = b""
            while piece := os.read(file_fd, MAX_SIGNATURE_BYTES + 1 - len(data)):
                data += piece
    except FileNotFoundError:
        return None
    if len(data) > MAX_SIGNATURE_BYTES:
        raise SignatureError(f"{SIGNATURE}: larger than {MAX_SIGNATURE_BYTES} bytes")
    return data


def hash_folder(
    folder_fd: int,
    known: Mapping[str, str],
    signed: FolderSignature | None = None,
    *,
    max_bytes: int | None = None,
) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder but ``model.sig``, by its path; blocks.

    Args:
        folder_fd: The open folder.
        known: Hashes of files that were read already.
        signed: Says what is left out.
        max_bytes: Most that is read; None for all.

    Raises:
        SignatureError: There is what is no plain file, or has no plain name, or too much; or a
            known file is missing, or was left out by who signed.
        OSError: A file cannot be read.
    """
    found: dict[str, str] = {}
    size_bytes = 0
    for path, parent_fd in _files(folder_fd, "", signed):
        if len(found) >= MAX_FILES:
            raise SignatureError(f"more than {MAX_FILES} files")
        if path in known:
            found[path] = known[path]
            continue
        with (
            _plain(parent_fd, path.rpartition("/")[2], path) as file_fd,
            os.fdopen(os.dup(file_fd), "rb") as file,
        ):
            size_bytes += os.fstat(file_fd).st_size
            if max_bytes is not None and size_bytes > max_bytes:
                raise SignatureError(f"{path}: more than {max_bytes} bytes beside what is used")
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    for path in sorted(known.keys() - found.keys()):
        is_ignored = signed is not None and signed.ignores(path)
        problem = "not signed: the signature leaves it out" if is_ignored else "missing"
        raise SignatureError(f"{path}: {problem}")
    return found


def _files(
    folder_fd: int, prefix: str, signed: FolderSignature | None, depth: int = 1
) -> Iterator[tuple[str, int]]:
    """Yield the path of each file and the descriptor of its folder.

    Raises:
        SignatureError: There are too many folders in folders, or a name is not plain.
    """
    if depth > _MAX_DEPTH:
        raise SignatureError(f"{prefix[:MAX_PATH_BYTES]}: folders in folders, too many")
    for name in sorted(os.listdir(folder_fd)):
        path = prefix + name
        if path == SIGNATURE or (signed is not None and signed.ignores(path)):
            continue
        if _UNPRINTABLE.search(name):
            raise SignatureError(f"{path!r}: control characters in a name, or not UTF-8; remove it")
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            yield path, folder_fd
            continue
        with opened_folder(name, folder_fd) as below_fd:
            yield from _files(below_fd, f"{path}/", signed, depth + 1)


@contextlib.contextmanager
def _plain(folder_fd: int, name: str, path: str) -> Iterator[int]:
    """Open a regular file that has one name.

    Raises:
        SignatureError: it is something else.
        OSError: it cannot be opened.
    """
    try:
        file_fd = open_plain(name, os.O_RDONLY, folder=folder_fd)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL):
            raise SignatureError(f"{path}: a link, or no regular file; remove it") from error
        raise
    try:
        if os.fstat(file_fd).st_nlink != 1:
            raise SignatureError(f"{path}: has a second hard link; copy the folder again")
        yield file_fd
    finally:
        os.close(file_fd)
