"""A file system in memory that can be cut off at any step and loses what was not synced.

Each method of ``Disk`` that changes something is one step, a write two: half of the content may be
all that there is. After a cut, each name of a folder that was not synced is there or not, as one
chooses; so a file system is imitated that keeps no order between changes. A rename is one change:
what it moved has its old name or its new one, not both.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edged.bundle.disk import Disk


class PowerCutError(BaseException):
    """The machine is off; nothing catches it."""


@dataclass
class FakeFile:
    content: bytes


@dataclass
class FakeLink:
    target: str


@dataclass
class FakeFolder:
    """Its names, and those that are on the disk."""

    live: "dict[str, Node]" = field(default_factory=dict)
    durable: "dict[str, Node]" = field(default_factory=dict)


Node = FakeFile | FakeLink | FakeFolder
Choose = Callable[[], bool]


class FakeDisk(Disk):
    """The file system."""

    def __init__(self) -> None:
        self._root = FakeFolder()
        self.steps_left = 10**9
        """Until the cut, or the disk is full."""
        self.is_full_instead = False
        self.num_steps = 0

    def node(self, path: Path) -> Node | None:
        """Return what has a name; None for nothing."""
        found: Node | None = self._root
        for name in path.parts[1:]:
            if not isinstance(found, FakeFolder):
                return None
            found = found.live.get(name)
        return found

    def cut(self, is_kept: Choose) -> None:
        """Go off and on again: each change that was not synced is kept or lost."""
        self._settle(self._root, is_kept, {})
        self.steps_left = 10**9

    def read(self, path: Path) -> bytes | None:
        found = self.node(path)
        return found.content if isinstance(found, FakeFile) else None

    def target(self, path: Path) -> str | None:
        found = self.node(path)
        return found.target if isinstance(found, FakeLink) else None

    def names(self, folder: Path) -> list[str]:
        found = self.node(folder)
        return sorted(found.live) if isinstance(found, FakeFolder) else []

    def make_folder(self, path: Path) -> None:
        if self.node(path) is None:
            self._step()
            self._parent(path).live[path.name] = FakeFolder()

    def write(self, path: Path, content: bytes) -> None:
        self._step()
        names = self._parent(path).live
        if path.name in names:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        names[path.name] = FakeFile(content[: len(content) // 2])
        self._step()
        names[path.name] = FakeFile(content)

    def link(self, target: str, path: Path) -> None:
        self._step()
        names = self._parent(path).live
        if path.name in names:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        names[path.name] = FakeLink(target)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        self._parent(target).live[target.name] = self._parent(source).live.pop(source.name)

    def is_same(self, folder: Path, wanted: Path) -> bool:
        names = self.names(wanted)
        return self.names(folder) == names and all(
            self.read(folder / name) == self.read(wanted / name) for name in names
        )

    def exchange(self, one: Path, other: Path) -> None:
        self._step()
        names, others = self._parent(one).live, self._parent(other).live
        names[one.name], others[other.name] = others[other.name], names[one.name]

    def remove(self, path: Path) -> None:
        found = self.node(path)
        if isinstance(found, FakeFolder):
            for name in list(found.live):
                self.remove(path / name)
        if found is not None:
            self._step(needs_room=False)
            del self._parent(path).live[path.name]

    def sync(self, folder: Path) -> None:
        self._step(needs_room=False)
        found = self.node(folder)
        if not isinstance(found, FakeFolder):
            raise FileNotFoundError(errno.ENOENT, "No such folder", str(folder))
        found.durable = dict(found.live)

    def sync_all(self, folder: Path) -> None:
        for name in self.names(folder):
            if isinstance(self.node(folder / name), FakeFolder):
                self.sync_all(folder / name)
        self.sync(folder)

    def _parent(self, path: Path) -> FakeFolder:
        found = self.node(path.parent)
        if not isinstance(found, FakeFolder):
            raise FileNotFoundError(errno.ENOENT, "No such folder", str(path.parent))
        return found

    def _step(self, *, needs_room: bool = True) -> None:
        self.num_steps += 1
        self.steps_left -= 1
        if self.steps_left >= 0:
            return
        if not self.is_full_instead:
            raise PowerCutError
        if needs_room:
            raise OSError(errno.ENOSPC, "No space left on device")

    def _settle(self, folder: FakeFolder, is_kept: Choose, kept: dict[int, bool]) -> None:
        # By what a change has moved, ``kept`` has what was chosen for its other name.
        found: dict[str, Node] = {}
        for name in sorted(folder.live.keys() | folder.durable.keys()):
            live, durable = folder.live.get(name), folder.durable.get(name)
            moved = id(durable or live)
            if live is not durable and moved not in kept:
                kept[moved] = is_kept()
            node = live if live is durable or kept[moved] else durable
            if node is not None:
                found[name] = node
        folder.live, folder.durable = found, dict(found)
        for node in found.values():
            if isinstance(node, FakeFolder):
                self._settle(node, is_kept, kept)
