"""A model bundle on disk: its folder is checked against its manifest.

Rule: no file of a bundle is used before it was compared with the manifest.
"""

import contextlib
import errno
import hashlib
import io
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edged.bundle.graph_file import GraphFileError, check_locations
from edged.bundle.manifest import (
    ADAPTED_MODEL,
    GOLDEN,
    MANIFEST,
    MODEL,
    MODEL_DATA,
    REPAIR,
    TOKENIZER,
    FileEntry,
    Manifest,
)
from edged.bundle.plain_file import open_plain
from edged.bundle.signature import MAX_SIGNATURE_BYTES, SIGNATURE
from edged.bundle.trust import Trust
from edged.bundle.version import MAX_VERSION_BYTES, VERSION
from edged.errors import BundleError, BundleUnavailableError

_MANIFEST_BYTES_MAX = 1 << 20
_COPY_BYTES = 1 << 20
MAX_GOLDEN_BYTES = 1 << 16
# What may be beside the files of the manifest, and its largest size.
_BESIDE = {
    SIGNATURE: MAX_SIGNATURE_BYTES,
    VERSION: MAX_VERSION_BYTES,
    GOLDEN: MAX_GOLDEN_BYTES,
}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder whose files match its manifest."""

    folder: Path
    """As it was named."""
    resolved: Path
    """Where its files were checked: a link may lead elsewhere by now."""
    manifest: Manifest
    sha256: str
    """Of ``manifest.json``, which holds the hashes of all other files."""

    @property
    def model_id(self) -> str:
        """The name in replies: model, scheme and the start of the bundle's hash."""
        return f"{self.manifest.name}-{self.manifest.scheme}@{self.sha256[:6]}"

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file that is used, in hex, by its name."""
        entries = self.manifest.files.items()
        return {MANIFEST: self.sha256} | {name: entry.sha256 for name, entry in entries}

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.resolved / MODEL

    @property
    def adapted_path(self) -> Path:
        """The graph whose products take adapters.

        Raises:
            BundleError: there is none.
        """
        if not self.manifest.takes_adapters:
            raise BundleError(
                f"{self.folder}: it has no {ADAPTED_MODEL}, so it takes no adapters; rebuild it "
                "with this version's `edged build`"
            )
        return self.resolved / ADAPTED_MODEL

    @property
    def tokenizer_path(self) -> Path:
        """The vocabulary, in the format of the tokenizers library."""
        return self.resolved / TOKENIZER


def open_bundle(folder: Path, *, verify: bool = True, trust: Trust | None = None) -> Bundle:
    """Check a bundle's files against its manifest; blocks while it reads them all.

    Args:
        folder: the bundle; may be a symbolic link, its files may not.
        verify: compare the hashes, too; False checks names, kinds, sizes and links only.
        trust: who must have signed it; None where nobody must.

    Raises:
        BundleError: the first problem, with the file's name and what to do.
        BundleUnavailableError: a file is missing, or cannot be read now.
    """
    with _opened(folder) as (resolved, folder_fd):
        bundle = _open_checked(folder, resolved, folder_fd, verify=verify)
        if trust is not None:
            trust.check_folder(folder, folder_fd, bundle.hashes)
        return bundle


def copy_bundle(folder: Path, target_fd: int) -> Bundle:
    """Copy a bundle's files into an empty folder, have them on the disk, and verify the copy.

    Each file is copied from the descriptor that was checked: its name may lead elsewhere by then.

    Args:
        folder: the bundle; may be a symbolic link, its files may not.
        target_fd: the open folder of the copy.

    Raises:
        BundleError: the first problem, as of ``open_bundle``.
        BundleUnavailableError: a file is missing, or cannot be read or written now.
    """
    with _opened(folder) as (resolved, folder_fd):
        _open_checked(folder, resolved, folder_fd, verify=False, target_fd=target_fd)
        return _open_checked(folder, resolved, target_fd, verify=True)


def write_manifest(folder: Path, manifest: Manifest) -> Bundle:
    """Write ``manifest.json`` with the sizes and hashes of the files in ``folder``, and open it.

    Raises:
        BundleError: the folder holds a file that does not belong into a bundle.
        OSError: the folder cannot be read or written.
    """
    entries = {}
    for path in sorted(folder.iterdir()):
        if path.name not in {MANIFEST, *_BESIDE}:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries[path.name] = FileEntry(path.stat().st_size, digest)
    partial = folder / f"{MANIFEST}.partial"
    partial.write_bytes(replace(manifest, files=entries).to_json())
    partial.replace(folder / MANIFEST)
    return open_bundle(folder, verify=False)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[tuple[Path, int]]:
    # Not ``Path.resolve``, which raises another error for links in a circle.
    resolved = Path(os.path.realpath(folder))
    try:
        folder_fd = os.open(resolved, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleUnavailableError(
            f"{folder}: {error.strerror}; give the folder that `edged build` made"
        ) from error
    try:
        yield resolved, folder_fd
    except OSError as error:  # a disk that fails
        raise BundleUnavailableError(f"{folder}: cannot be read: {error.strerror}") from error
    finally:
        os.close(folder_fd)


def _open_checked(
    folder: Path, resolved: Path, folder_fd: int, *, verify: bool, target_fd: int | None = None
) -> Bundle:
    with _open_plain(folder_fd, MANIFEST, f"no {MANIFEST} in {folder}: not a bundle") as file:
        data = file.read(_MANIFEST_BYTES_MAX + 1)
    if len(data) > _MANIFEST_BYTES_MAX:
        raise BundleError(f"{MANIFEST}: larger than {_MANIFEST_BYTES_MAX} bytes; {REPAIR}")
    manifest = Manifest.from_json(data)
    names = set(os.listdir(folder_fd))
    for name in sorted(names - {MANIFEST, *manifest.files, *_BESIDE}):
        raise BundleError(f"{name}: not in the manifest of {folder}; remove it, or {REPAIR}")
    for name, entry in manifest.files.items():
        missing = f"{name}: listed in the manifest but missing; {REPAIR}"
        with _open_plain(folder_fd, name, missing) as file:
            _check_file(file, name, entry, verify=verify)
            if target_fd is not None:
                file.seek(0)
                _write_file(target_fd, name, file, entry.size_bytes)
    if target_fd is not None:
        for name in sorted(names & _BESIDE.keys()):
            with _open_plain(folder_fd, name, f"{name}: removed meanwhile; {REPAIR}") as file:
                _write_file(target_fd, name, file, _BESIDE[name])
        _write_file(target_fd, MANIFEST, io.BytesIO(data), len(data))
    return Bundle(folder, resolved, manifest, hashlib.sha256(data).hexdigest())


def _open_plain(folder_fd: int, name: str, missing: str) -> io.BufferedReader:
    """Open a regular file without a second hard link.

    Raises:
        BundleError: it is a link, has a second one, or is no regular file.
        BundleUnavailableError: it cannot be opened, or is ``missing``.
    """
    try:
        file_fd = open_plain(name, os.O_RDONLY, folder=folder_fd)
    except FileNotFoundError as error:
        raise BundleUnavailableError(missing) from error
    except OSError as error:
        is_other = error.errno in (errno.ELOOP, errno.EINVAL)
        failure = BundleError if is_other else BundleUnavailableError
        problem = f"cannot be opened as a plain file ({error.strerror})"
        raise failure(f"{name}: {problem}; {REPAIR}") from error
    if os.fstat(file_fd).st_nlink == 1:
        return os.fdopen(file_fd, "rb")
    os.close(file_fd)
    raise BundleError(f"{name}: has a second hard link; {REPAIR}")


def _write_file(folder_fd: int, name: str, content: io.BufferedIOBase, size_bytes: int) -> None:
    file_fd = open_plain(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder=folder_fd)
    with os.fdopen(file_fd, "wb") as copy:
        os.fchmod(copy.fileno(), 0o644)  # independent of the umask
        # No more than was said, although the file may grow meanwhile.
        while size_bytes > 0 and (piece := content.read(min(size_bytes, _COPY_BYTES))):
            copy.write(piece)
            size_bytes -= len(piece)
        copy.flush()
        os.fsync(copy.fileno())


def _check_file(file: io.BufferedReader, name: str, entry: FileEntry, *, verify: bool) -> None:
    size_bytes = os.fstat(file.fileno()).st_size
    if size_bytes != entry.size_bytes:
        problem = f"{size_bytes} bytes, the manifest says {entry.size_bytes}"
        raise BundleError(f"{name}: {problem}; {REPAIR}")
    digest = hashlib.file_digest(file, "sha256").hexdigest() if verify else entry.sha256
    if digest != entry.sha256:
        problem = f"sha256 differs from the manifest ({digest[:12]}…, not {entry.sha256[:12]}…)"
        raise BundleError(f"{name}: {problem}; {REPAIR}")
    if name in {MODEL, ADAPTED_MODEL}:
        _check_graph(file.fileno(), name, size_bytes)


def _check_graph(file_fd: int, name: str, size_bytes: int) -> None:
    # External data is read by ONNX Runtime from whatever path the graph names.
    if size_bytes == 0:
        raise BundleError(f"{name}: empty; {REPAIR}")
    with mmap.mmap(file_fd, 0, access=mmap.ACCESS_READ) as view:
        try:
            check_locations(view, MODEL_DATA)
        except GraphFileError as error:
            raise BundleError(
                f"{name}: {error}; do not use this bundle, rebuild it with `edged build`"
            ) from error
