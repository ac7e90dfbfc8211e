"""The folders of one model, or one specialist, side by side, and which of them serves.

    models/ID/    never changed once they have that name; replaced where damaged, or signed anew
    current       link to what serves, previous: to what served before
    trial.json    there while what serves was not accepted yet
    failed.json   what was taken back last, and why; means nothing for what serves
    versions.json the highest version accepted, by the model's name
    incoming/     what is being copied or removed; means nothing
    loading/      of a model that is being tried; means nothing

Rule: a name in ``models`` is given to what is on the disk as a whole. Of one store, one process
changes something at a time (``locked``). No clock is read.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edged.bundle import store_state
from edged.bundle.disk import Disk, make_folders, replace_file, replace_link
from edged.bundle.store_state import Place, Step, StoreState, Trial
from edged.bundle.strict_json import WrongValueError, decode, read_json
from edged.errors import BundleError, UnavailableError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MODELS, INCOMING, LOADING = "models", "incoming", "loading"
VERSIONS, _FAILED, _LOCK = "versions.json", "failed.json", "lock"
_T = TypeVar("_T", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a folder was taken back by itself."""

    model: str
    """Its id."""
    reason: str


class Store:
    """The store in a folder.

    Args:
        root: The folder; made when something is staged.
        disk: Carries out each step.
    """

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root = root
        self._disk = disk
        self._models = root / MODELS
        self._incoming = root / INCOMING

    @property
    def current(self) -> Path:
        """What the configuration names."""
        return self.root / Place.CURRENT.value

    def folder(self, model_id: str) -> Path:
        """Return the folder of an id."""
        return self._models / model_id

    def state(self) -> StoreState:
        """Return what the store says.

        Raises:
            BundleError: It is damaged.
            OSError: It cannot be read.
        """
        trial = self._decoded(Trial, Place.TRIAL.value)
        return StoreState(self._linked(Place.CURRENT), self._linked(Place.PREVIOUS), trial)

    def ids(self) -> list[str]:
        """Return the folders that there are.

        Raises:
            OSError: They cannot be listed.
        """
        return self._disk.names(self._models)

    def repair(self) -> StoreState:
        """End what a power cut left half done; return the state.

        Raises:
            BundleError: The store is damaged.
            OSError: It cannot be written.
        """
        # Who was killed may have left changes that are seen and not on the disk.
        for folder in (self.root, self._models):
            if self._disk.names(folder):
                self._disk.sync(folder)
        while steps := store_state.repair(self.state()):
            self._take(steps)
        for name in (INCOMING, LOADING):
            with contextlib.suppress(OSError):
                self._disk.remove(self.root / name)
        return self.state()

    def stage(self, fill: Callable[[Path], str]) -> tuple[str, bool]:
        """Bring a folder into the store, whole or not at all; blocks.

        What has the same id and is damaged, or signed by another key, is replaced.

        Args:
            fill: Makes the folder at a path, checks it and returns its id. What it raises is
                raised, and the folder is removed.

        Returns:
            Its id, and whether it was not there, or not the same.

        Raises:
            OSError: It cannot be written.
        """
        disk = self._disk
        for folder in (self.root, self._models):
            disk.make_folder(folder)
        # The folders above may be new as well, made by ``locked``.
        for folder in (*list(self.root.parents)[:3], self.root):
            disk.sync(folder)
        disk.remove(self._incoming)
        try:
            model_id = fill(self._incoming)
            folder, is_there = self.folder(model_id), model_id in self.ids()
            is_new = not is_there or not disk.is_same(folder, self._incoming)
            if is_new:
                disk.sync_all(self._incoming)
                # What is there may serve: at every moment one of the two has its name.
                change = disk.exchange if is_there else disk.rename
                change(self._incoming, folder)
            disk.sync(self._models)
        finally:
            with contextlib.suppress(OSError):
                disk.remove(self._incoming)
        return model_id, is_new

    def begin(self, model_id: str) -> None:
        """Have a folder serve, on trial unless it is the first.

        Raises:
            ValueError: Another one is on trial.
            OSError: It cannot be written.
        """
        self._take(store_state.begin(self.state(), model_id))
        self._disk.remove(self.root / _FAILED)

    def commit(self, name: str, version: int) -> None:
        """Accept what is on trial, and no version below from now on.

        Raises:
            OSError: It cannot be written.
        """
        versions = self.versions()
        if version > versions.get(name, 0):
            text = json.dumps({**versions, name: version}, sort_keys=True) + "\n"
            replace_file(self._disk, self.root / VERSIONS, text.encode())
        self._take(store_state.commit(self.state()))

    def roll_back(self, failure: Failure | None = None) -> None:
        """Have serve what served before.

        Args:
            failure: Why, where nobody asked for it.

        Raises:
            ValueError: Nothing did.
            OSError: It cannot be written.
        """
        if failure is not None:
            text = json.dumps(asdict(failure)).encode() + b"\n"
            replace_file(self._disk, self.root / _FAILED, text)
        self._take(store_state.roll_back(self.state()))

    def remove(self, model_id: str) -> None:
        """Remove a folder that neither serves nor may have to.

        Raises:
            ValueError: It does, or is not there.
            OSError: It cannot be removed.
        """
        if model_id not in self.ids():
            raise ValueError("it is not there")
        if model_id in self.state().needed:
            raise ValueError("it serves, or is what can be gone back to")
        # Half of a folder must not have the name of a whole one.
        self._disk.remove(self._incoming)
        self._disk.rename(self.folder(model_id), self._incoming)
        self._disk.sync(self._models)
        self._disk.remove(self._incoming)

    def versions(self) -> dict[str, int]:
        """Return the highest version accepted of each model.

        Raises:
            BundleError: The file is damaged.
            OSError: It cannot be read.
        """
        data = self._disk.read(self.root / VERSIONS)
        tree = {} if data is None else self._json(VERSIONS, data)
        if not isinstance(tree, dict) or not all(type(one) is int for one in tree.values()):
            raise BundleError(f"{self.root / VERSIONS}: not numbers by name; remove it")
        return tree

    def failure(self) -> Failure | None:
        """Return what was taken back by itself since something was installed; None for nothing.

        Raises:
            BundleError: The file is damaged.
            OSError: It cannot be read.
        """
        return self._decoded(Failure, _FAILED)

    def _take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            path = self.root / step.place.value
            if step.value is None:
                self._disk.remove(path)
                self._disk.sync(self.root)
            elif isinstance(step.value, Trial):
                trial = {"candidate": step.value.candidate, "fallback": step.value.fallback}
                replace_file(self._disk, path, json.dumps(trial).encode() + b"\n")
            else:
                replace_link(self._disk, path, f"{MODELS}/{step.value}")

    def _linked(self, place: Place) -> str | None:
        target = self._disk.target(self.root / place.value)
        return None if target is None else target.removeprefix(f"{MODELS}/")

    def _decoded(self, kind: type[_T], name: str) -> _T | None:
        data = self._disk.read(self.root / name)
        if data is None:
            return None
        try:
            return decode(kind, self._json(name, data))
        except WrongValueError as error:
            raise BundleError(f"{self.root / name}: {error}; remove it") from error

    def _json(self, name: str, data: bytes) -> object:
        try:
            return read_json(data)
        except (ValueError, RecursionError) as error:
            path = self.root / name
            raise BundleError(f"{path}: not valid JSON ({error}); remove it") from error


def stores_of(paths: Iterable[Path]) -> Iterator[Store]:
    """Yield the stores of which a configuration names what serves."""
    for path in paths:
        if is_of_store(path):
            yield Store(path.parent, Disk())


def is_of_store(path: Path) -> bool:
    """Return whether a path is the link of a store to what serves."""
    return path.name == Place.CURRENT.value and path.is_symlink()


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Have no other process change a store meanwhile.

    Raises:
        UnavailableError: One does just now.
        OSError: The folder cannot be made or written.
    """
    make_folders(root)
    lock_fd = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UnavailableError(
                f"{root}: another `edged model` is at work; try again when it has ended"
            ) from error
        yield
    finally:
        os.close(lock_fd)
