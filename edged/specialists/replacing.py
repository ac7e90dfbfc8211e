"""Files of a specialist's folder that are replaced together.

Rule: what worked before stays as it was until everything new is on the disk.
"""

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from edged.bundle.disk import Disk, make_folders
from edged.bundle.plain_file import read_plain


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of a folder; where one cannot be written, all of the old ones stay.

    After a kill or a power cut, ``read_described`` finds the old ones or the new ones. All may
    read them, whatever the umask is: the node has a user of its own.

    Args:
        folder: Made if it is not there.
        files: Contents by name, which may be in a folder of the folder. The last one describes the
            others: a node looks at it for changes.

    Raises:
        OSError: A file cannot be written.
    """
    disk, paths = Disk(), {folder / name: _new(folder / name) for name in files}
    parents = {path.parent for path in paths}
    try:
        for new_path, content in zip(paths.values(), files.values(), strict=True):
            make_folders(new_path.parent)
            disk.remove(new_path)
            disk.write(new_path, content)
        for parent in parents:
            disk.sync(parent)
    except BaseException:
        for new_path in paths.values():
            disk.remove(new_path)
        raise
    # They need no more room. The description comes first: what it names is on the disk by then,
    # under one name or the other.
    for path in reversed(paths):
        disk.rename(paths[path], path)
        disk.sync(path.parent)


def read_described(path: Path, max_bytes: int, sha256: str) -> bytes:
    """Return the content that a description names by its hash, or else that of the file.

    Raises:
        OSError: The file cannot be read, or is longer: ``EFBIG``.
    """
    for place in (path, _new(path)):
        with contextlib.suppress(OSError):
            content = read_plain(place, max_bytes)
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
    return read_plain(path, max_bytes)  # damaged, or renamed just now


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")
