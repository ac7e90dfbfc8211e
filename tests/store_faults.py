"""What may happen to a store of models at each of its steps, and the table of it.

    python -m tests.store_faults    write the table into docs/updates.md

Every act is broken off before each change of the file system that it makes, in every way that there
is. Then the store is repaired, which is broken off as well, and must hold what it promises.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.bundle.disk import Disk
from edged.bundle.store import INCOMING, Failure, Store
from tests.fake_disk import Choose, FakeDisk, PowerCutError
from tests.paths import ROOT

STORE = Path("/store")
MODEL, SIGNATURE = "model.onnx", "model.sig"
KEYS = (b"by the first key", b"by another key")
PAGE = ROOT / "docs" / "updates.md"
BEGIN, END = "<!-- python -m tests.store_faults -->\n", "<!-- end -->\n"
# Steps of a repair, at most.
_REPAIR_STEPS = 20
_MIXTURES = 6
_NO_LIMIT = 10**9

Act = Callable[[Store], object]


def filled(disk: Disk, name: str, key: bytes = KEYS[0]) -> Callable[[Path], str]:
    """Return what makes a folder of this name, signed by a key."""

    def fill(folder: Path) -> str:
        disk.make_folder(folder)
        disk.write(folder / MODEL, name.encode() * 2)
        disk.write(folder / SIGNATURE, key)
        return name

    return fill


def install(store: Store, name: str, key: bytes = KEYS[0]) -> None:
    """Stage a folder and have it serve."""
    store.stage(filled(store._disk, name, key))
    store.begin(name)


# What people do; each begins where the one before it ended.
ACTS: dict[str, Act] = {
    "install the first": lambda store: install(store, "a"),
    "install another one": lambda store: install(store, "b"),
    "accept it": lambda store: store.commit("toy", 2),
    "install a third": lambda store: install(store, "c"),
    "take it back, since it crashed": lambda store: store.roll_back(Failure("c", "crash")),
    "go back to the first": lambda store: store.roll_back(),
    "install the third again": lambda store: install(store, "c"),
    "accept that": lambda store: store.commit("toy", 3),
    "install it anew, signed by another key": lambda store: install(store, "c", KEYS[1]),
    "remove the second": lambda store: store.remove("b"),
}
# What may be accepted when each of them has ended.
ACCEPTED = ("a", "a", "ab", "ab", "ab", "ab", "ab", "abc", "abc", "abc")


def is_whole(disk: Disk, folder: Path) -> bool:
    """Tell whether all of a folder is there."""
    is_signed = disk.read(folder / SIGNATURE) in KEYS
    return is_signed and disk.read(folder / MODEL) == folder.name.encode() * 2


def prepared(num_acts: int) -> tuple[FakeDisk, Store]:
    """Return a store after the first acts, with all of it on the disk."""
    disk = FakeDisk()
    store = Store(STORE, disk)
    for act in list(ACTS.values())[:num_acts]:
        act(store)
    disk.cut(lambda: True)
    return disk, store


def num_steps(index: int) -> int:
    """Return how many changes of the file system an act makes."""
    disk, store = prepared(index)
    before = disk.num_steps
    list(ACTS.values())[index](store)
    return disk.num_steps - before


def power_cut(index: int, step: int, is_kept: Choose) -> None:
    """Cut an act before a step, and its repair before each of its steps."""
    disk, store = prepared(index)
    _break_off(index, disk, store, step)
    disk.cut(is_kept)
    for steps in range(_REPAIR_STEPS):
        disk.steps_left = steps
        try:
            store.repair()
        except PowerCutError:
            disk.cut(is_kept)
        else:
            break
    disk.steps_left = _NO_LIMIT
    check(index, store)
    go_on(store)


def _break_off(index: int, disk: FakeDisk, store: Store, step: int) -> None:
    disk.steps_left = step
    try:
        list(ACTS.values())[index](store)
    except PowerCutError:
        return
    raise AssertionError("it has fewer steps")


def _at_random(seed: int) -> Choose:
    chance = random.Random(seed)
    return lambda: chance.random() < 0.5


def any_mixture(index: int, step: int) -> None:
    """Cut, and some of what was not synced is kept."""
    for seed in range(_MIXTURES):
        power_cut(index, step, _at_random(seed))


def killed(index: int, step: int) -> None:
    """Kill who acts, repair, and cut: what a kill leaves is on no disk until somebody syncs it."""
    disk, store = prepared(index)
    _break_off(index, disk, store, step)
    disk.steps_left = _NO_LIMIT
    store.repair()
    disk.cut(lambda: False)
    check(index, store)
    go_on(store)


def full(index: int, step: int) -> None:
    """From a step on, the disk has no room for anything new."""
    disk, store = prepared(index)
    disk.is_full_instead, disk.steps_left = True, step
    with contextlib.suppress(OSError):
        list(ACTS.values())[index](store)
    store.repair()
    check(index, store)
    assert disk.node(STORE / INCOMING) is None, "what was half copied takes room"
    disk.steps_left = _NO_LIMIT
    go_on(store)


FAULTS: dict[str, Callable[[int, int], None]] = {
    "power cut, what was not synced is lost": lambda i, step: power_cut(i, step, lambda: False),
    "power cut, all is kept": lambda i, step: power_cut(i, step, lambda: True),
    "power cut, some is kept": any_mixture,
    "killed, later a power cut": killed,
    "disk full": full,
}


def suffer(index: int, fault: str, step: int) -> None:
    """Have a fault happen before a step of an act, and check what the store promises."""
    FAULTS[fault](index, step)


def check(index: int, store: Store) -> None:
    """Check that what serves is whole and accepted, or on trial before one that is both."""
    disk, state, accepted = store._disk, store.state(), ACCEPTED[index]
    if state.current is None:
        assert index == 0, "nothing serves"
        return
    for name in store.ids():
        assert is_whole(disk, store.folder(name)), "half of a folder has the name of a whole one"
    assert state.needed <= set(store.ids()), "what serves, or may have to, is gone"
    if state.trial is None:
        assert state.current in accepted
    else:
        assert state.is_on_trial
        assert state.trial.fallback in accepted
    assert state.previous is None or state.previous in accepted
    assert state.previous is None or state.previous != state.current


def go_on(store: Store) -> None:
    """Install another one, accept it and take it back."""
    if store.state().trial is not None:
        store.roll_back()
    install(store, "d")
    store.commit("toy", 9)
    assert store.state().current == "d"
    assert is_whole(store._disk, store.folder("d"))
    if store.state().previous is not None:
        store.roll_back()
        assert store.state().previous == "d"


def rows() -> Iterator[str]:
    """Yield the lines of the table; each number is of faults that ended well."""
    yield f"| act | steps | {' | '.join(FAULTS)} |"
    yield "|---" * (2 + len(FAULTS)) + "|"
    for index, name in enumerate(ACTS):
        steps = num_steps(index)
        cells = []
        for suffer_fault in FAULTS.values():
            for step in range(steps):
                suffer_fault(index, step)
            cells.append(steps * (_MIXTURES if suffer_fault is any_mixture else 1))
        yield f"| {name} | {steps} | {' | '.join(map(str, cells))} |"


def page(text: str) -> str:
    """Return the page with the table in its place."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return head + BEGIN + "\n".join(rows()) + "\n" + END + tail


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
