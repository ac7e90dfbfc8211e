"""What may be in the place of a file that a process reads when it starts."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        _remove(path)
        make(path)

    return damage


def _make_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)  # takes no room on the disk


# What a start replaces by a file of its own.
CONTENTS: dict[str, Callable[[Path], None]] = {
    "nothing": _replaced(Path.touch),
    "garbage": _replaced(lambda path: path.write_bytes(bytes(range(256)) * 40)),
    "another kind of JSON": _replaced(lambda path: path.write_bytes(b"[1]")),
    "deep JSON": _replaced(lambda path: path.write_bytes(b"[" * 4000)),
    "huge": _replaced(_make_huge),
}
# What it leaves alone.
OTHERS: dict[str, Callable[[Path], None]] = {
    "a folder": _replaced(lambda path: (path / "x").mkdir(parents=True)),
    "a pipe": _replaced(os.mkfifo),
    "a link": _replaced(lambda path: path.symlink_to("/dev/zero")),
}
DAMAGES = CONTENTS | OTHERS
