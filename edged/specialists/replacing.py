"""Files of a specialist's folder that are replaced together.

Rule: what worked before stays as it was until everything new is on the disk.
"""

from collections.abc import Mapping
from pathlib import Path

from edged.bundle.disk import Disk, make_folders


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files of a folder; where one cannot be written, all of the old ones stay.

    All may read them, whatever the umask is: the node has a user of its own.

    Args:
        folder: Made if it is not there.
        files: Contents by name, which may be in a folder of the folder. The last one describes the
            others: a node looks at it for changes.

    Raises:
        OSError: A file cannot be written.
    """
    disk, paths = Disk(), {folder / name: folder / f"{name}.new" for name in files}
    try:
        for new_path, content in zip(paths.values(), files.values(), strict=True):
            make_folders(new_path.parent)
            disk.remove(new_path)
            disk.write(new_path, content)
        # They need no more room. Only a kill or a power cut between them leaves new arrays with the
        # old description: its hash is not theirs, and the folder is refused until it is taught
        # again.
        for path, new_path in paths.items():
            new_path.replace(path)
    finally:
        for new_path in paths.values():
            new_path.unlink(missing_ok=True)
    for parent in {path.parent for path in paths}:
        disk.sync(parent)
