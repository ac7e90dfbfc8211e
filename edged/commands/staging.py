"""Copy a bundle or a specialist into a store, and check the copy: what is checked is what serves.

The source may be another user's, who changes it meanwhile; so nothing that was found in it counts
but what is found in the copy again.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edged.bundle.folder import copy_bundle, open_bundle
from edged.bundle.manifest import MANIFEST, Manifest
from edged.bundle.plain_file import open_plain, opened_folder, read_plain
from edged.bundle.signature import MAX_FILES
from edged.bundle.signed_folder import hash_folder
from edged.bundle.strict_json import read_json
from edged.bundle.trust import Trust, content_id
from edged.bundle.version import version_in
from edged.errors import BundleError, UsageError
from edged.specialists.adapter import MAX_BYTES, AdaptedModel
from edged.specialists.folder import (
    DESCRIPTION,
    MAX_ARRAYS_BYTES,
    MAX_DESCRIPTION_BYTES,
    BaseModel,
    read_specialist,
)
from edged.specialists.names import NAME, PLAIN_MODEL
from edged.specialists.writer import MAX_WRITER_BYTES, WRITER, read_files

_MAX_FILE_BYTES = max(MAX_ARRAYS_BYTES, MAX_BYTES)
_COPY_BYTES = 1 << 20
_ID_DIGITS = 12
_MAX_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Arrived:
    """A copy that was checked."""

    id: str
    name: str
    version: int
    """0 where it says none."""


def said_name(source: Path) -> str | None:
    """Return which specialist a folder says to be; None for a bundle.

    Raises:
        UsageError: It is neither.
    """
    try:
        if (source / MANIFEST).exists():
            return None
    except OSError as error:
        raise UsageError(f"{source}: cannot be read: {error.strerror}") from error
    # Of a folder with both, a node reads the writer.
    for name, most in ((WRITER, MAX_WRITER_BYTES), (DESCRIPTION, MAX_DESCRIPTION_BYTES)):
        try:
            tree = read_json(read_plain(source / name, most))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{source / name}: cannot be read: {error}") from error
        said = tree.get("name") if isinstance(tree, dict) else None
        if isinstance(said, str) and NAME.fullmatch(said) and said != PLAIN_MODEL:
            return said
    raise UsageError(f"{source}: neither a bundle of `edged build` nor one of `edged teach`")


def version_of(folder: Path) -> tuple[str, int]:
    """Return the name and the version of a folder in a store.

    Raises:
        BundleError: It is damaged.
        OSError: It cannot be read.
    """
    name = said_name(folder)
    if name is None:
        name = open_bundle(folder, verify=False).manifest.name
    with opened_folder(folder) as folder_fd:
        return name, version_in(folder_fd)


def bring_bundle(source: Path, trust: Trust, floors: Mapping[str, int], target: Path) -> Arrived:
    """Copy a bundle; blocks while it reads the files twice.

    Args:
        source: The bundle.
        trust: Who must have signed it.
        floors: The highest version accepted, by the model's name.
        target: Where the copy is made.

    Raises:
        BundleError: It is damaged, not signed, or of a version that is too low.
        OSError: It cannot be written.
    """
    with _made(target) as target_fd:
        copy_bundle(source, target_fd)
        bundle = open_bundle(target, verify=False, trust=trust)
        return _arrived(target_fd, bundle.manifest.name, bundle.hashes, floors)


def bring_specialist(
    name: str, source: Path, trust: Trust, floors: Mapping[str, int], base: Manifest, target: Path
) -> Arrived:
    """Copy the specialist ``name``, for the model with the manifest ``base``; as ``bring_bundle``.

    Raises:
        BundleError: It is damaged, not signed, another one, made for another model, or of a version
            that is too low.
        OSError: It cannot be read or written.
    """
    with _made(target) as target_fd:
        with opened_folder(source) as source_fd:
            _copy_files(source_fd, target_fd)
        found = checked_name(target, trust, base)
        if found != name:
            raise BundleError(f"{source}: is {found} by now, and was {name}; copy it again")
        return _arrived(target_fd, name, {}, floors)


def checked_name(folder: Path, trust: Trust, base: Manifest) -> str:
    """Return the name of a specialist for the model with the manifest ``base``.

    Raises:
        BundleError: It is damaged, not signed, or made for another model.
        BundleUnavailableError: It cannot be read now.
    """
    if (folder / WRITER).exists():
        files = read_files(folder, AdaptedModel.of(base), trust=trust)
        files.check_adapter(folder)
        return files.description.name
    return read_specialist(folder, BaseModel.of(base), trust=trust).description.name


@contextmanager
def _made(target: Path) -> Iterator[int]:
    """Make the folder of a copy; nobody else can look into it until it was checked.

    By then the source may be a link to what only root may read.
    """
    target.mkdir(mode=0o700)
    with opened_folder(target) as target_fd:
        yield target_fd
        os.fchmod(target_fd, 0o755)  # independent of the umask


def _arrived(
    folder_fd: int, name: str, known: Mapping[str, str], floors: Mapping[str, int]
) -> Arrived:
    """Return what was copied.

    Raises:
        BundleError: Its version is too low.
    """
    version, floor = version_in(folder_fd), floors.get(name, 0)
    if version < floor:
        raise BundleError(
            f"{name}: version {version or 'none'} is below {floor}, which this device has accepted;"
            " sign it with a higher --version"
        )
    digest = content_id(hash_folder(folder_fd, known))
    return Arrived(f"{name}-{digest[:_ID_DIGITS]}", name, version)


def _copy_files(source_fd: int, target_fd: int, num_left: int = MAX_FILES, depth: int = 0) -> int:
    """Copy the files of a folder and of the folders in it; return how many more may come.

    Raises:
        BundleError: There are too many, one is too long, or folders lie in folders too deeply.
        OSError: One is no plain file, or cannot be read or written.
    """
    for name in sorted(os.listdir(source_fd)):
        if stat.S_ISDIR(os.stat(name, dir_fd=source_fd, follow_symlinks=False).st_mode):
            if depth == _MAX_DEPTH:
                raise BundleError(f"{name}: too many folders in folders")
            os.mkdir(name, dir_fd=target_fd)
            with (
                opened_folder(name, source_fd) as inner_fd,
                opened_folder(name, target_fd) as copy_fd,
            ):
                os.fchmod(copy_fd, 0o755)  # independent of the umask
                num_left = _copy_files(inner_fd, copy_fd, num_left, depth + 1)
            continue
        if num_left == 0:
            raise BundleError(f"more than {MAX_FILES} files")
        num_left -= 1
        _copy_file(name, source_fd, target_fd)
    return num_left


def _copy_file(name: str, source_fd: int, target_fd: int) -> None:
    left_bytes = _MAX_FILE_BYTES + 1
    file_fd = open_plain(name, os.O_RDONLY, folder=source_fd)
    copy_fd = open_plain(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder=target_fd)
    with os.fdopen(file_fd, "rb") as file, os.fdopen(copy_fd, "wb") as copy:
        os.fchmod(copy_fd, 0o644)  # independent of the umask
        while piece := file.read(min(left_bytes, _COPY_BYTES)):
            left_bytes -= copy.write(piece)
    if left_bytes == 0:
        raise BundleError(f"{name}: larger than {_MAX_FILE_BYTES} bytes")
