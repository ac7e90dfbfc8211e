"""The store of models: cut at any step, what was accepted answers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edged.bundle import store_state
from edged.bundle.disk import Disk
from edged.bundle.store import INCOMING, LOADING, Store, locked
from edged.bundle.store_state import Step, StoreState
from edged.errors import BundleError, UnavailableError
from tests.examples import num_examples
from tests.store_faults import (
    ACTS,
    FAULTS,
    KEYS,
    MODEL,
    SIGNATURE,
    filled,
    install,
    is_whole,
    num_steps,
    prepared,
    suffer,
)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("index", range(len(ACTS)), ids=list(ACTS))
def test_whatever_happens_at_any_step_what_was_accepted_serves_and_all_can_go_on(
    index: int, fault: str
) -> None:
    steps = num_steps(index)
    assert steps > 0
    for step in range(steps):
        suffer(index, fault, step)


@pytest.mark.parametrize("index", range(len(ACTS)), ids=list(ACTS))
def test_what_was_done_outlives_a_power_cut(index: int) -> None:
    disk, store = prepared(index)
    list(ACTS.values())[index](store)
    done = all_of(store)
    disk.cut(lambda: False)
    assert all_of(store) == done


def all_of(store: Store) -> tuple[object, ...]:
    signatures = {name: store._disk.read(store.folder(name) / SIGNATURE) for name in store.ids()}
    return store.state(), store.versions(), signatures


class Model(RuleBasedStateMachine):
    """The pure steps against what is said of them, cut anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.state = StoreState()
        self.accepted: set[str] = set()
        self.next = 0

    def take(self, steps: list[Step], most: int, accepted: set[str]) -> None:
        for index, step in enumerate(steps):
            if index == most:
                break
            self.state = self.state.after(step)
            self.accepted |= accepted
        for step in store_state.repair(self.state):
            self.state = self.state.after(step)
        assert store_state.repair(self.state) == []

    @rule(most=st.integers(0, 3))
    @precondition(lambda self: self.state.trial is None)
    def begin(self, most: int) -> None:
        self.next += 1
        name = str(self.next)
        first = {name} if self.state.current is None else set()
        self.take(store_state.begin(self.state, name), most, first)

    @rule(most=st.integers(0, 3))
    def commit(self, most: int) -> None:
        trial = self.state.trial
        self.take(
            store_state.commit(self.state), most, set() if trial is None else {trial.candidate}
        )

    @rule(most=st.integers(0, 3))
    @precondition(lambda self: self.state.trial is not None or self.state.previous is not None)
    def roll_back(self, most: int) -> None:
        self.take(store_state.roll_back(self.state), most, set())

    @invariant()
    def what_serves_was_accepted_or_can_be_taken_back(self) -> None:
        state = self.state
        if state.trial is None:
            assert state.current is None or state.current in self.accepted
        else:
            assert state.is_on_trial
            assert state.trial.fallback in self.accepted
        assert state.previous is None or state.previous in self.accepted
        assert state.previous is None or state.previous != state.current
        assert state.current is not None or not self.accepted


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=num_examples(300), deadline=None)


def test_what_cannot_be_done_is_refused() -> None:
    _, store = prepared(0)
    with pytest.raises(ValueError, match="nothing served before"):
        store.roll_back()
    install(store, "a")
    install(store, "a")
    assert store.state() == StoreState("a")
    install(store, "b")
    assert store.state().is_on_trial
    with pytest.raises(ValueError, match="another one is on trial"):
        store.begin("a")
    for name in ("a", "b"):
        with pytest.raises(ValueError, match="it serves, or is what"):
            store.remove(name)
    with pytest.raises(ValueError, match="not there"):
        store.remove("z")


def test_what_its_maker_refuses_is_not_kept() -> None:
    disk, store = prepared(1)

    def fill(folder: Path) -> str:
        filled(disk, "x")(folder)
        raise BundleError("damaged")

    with pytest.raises(BundleError, match="damaged"):
        store.stage(fill)
    assert store.ids() == ["a"]
    assert disk.node(store.root / INCOMING) is None


@given(st.lists(st.integers(0, 10**6), max_size=4))
def test_the_highest_version_that_was_accepted_stays(versions: list[int]) -> None:
    _, store = prepared(1)
    for version in versions:
        store.commit("toy", version)
        store.commit("other", 1)
    assert store.versions().get("toy", 0) == max(versions, default=0)


def test_on_a_real_disk_it_is_the_same(tmp_path: Path) -> None:
    disk = Disk()
    store = Store(tmp_path / "store", disk)
    for act in ACTS.values():
        act(store)
        assert is_whole(disk, store.current.resolve())
    assert store.state() == StoreState("c", "a")
    assert store.ids() == ["a", "c"]
    assert store.versions() == {"toy": 3}
    assert disk.read(store.current / SIGNATURE) == KEYS[1]
    assert sorted(path.name for path in store.root.iterdir()) == [
        *("current", "models", "previous", "versions.json")
    ]


def damaged(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"xc")


def signed_anew(folder: Path) -> None:
    (folder / SIGNATURE).write_bytes(KEYS[1])


def unreadable(folder: Path) -> None:
    (folder / MODEL).unlink()
    (folder / MODEL).symlink_to("nowhere")


@pytest.mark.parametrize("change", [damaged, signed_anew, unreadable])
@pytest.mark.parametrize("name", ["a", "b"])
def test_what_is_not_the_same_under_its_name_is_replaced(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    store = Store(tmp_path / "store", Disk())
    install(store, "a")
    assert store.stage(filled(Disk(), "b")) == ("b", True)
    change(store.folder(name))
    for is_new in (True, False):
        assert store.stage(filled(Disk(), name)) == (name, is_new)
        assert (store.folder(name) / MODEL).read_bytes() == name.encode() * 2
        assert (store.folder(name) / SIGNATURE).read_bytes() == KEYS[0]
    assert store.state() == StoreState("a")
    assert not (store.root / INCOMING).exists()


def test_what_cannot_be_exchanged_stays(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(OSError, match="cannot exchange folders: No such file"):
        Disk().exchange(tmp_path / "one", tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_a_command_left_that_was_killed_is_removed_by_the_next_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Disk())
    install(store, "a")
    for name in (INCOMING, LOADING):
        (store.root / name / "inner").mkdir(parents=True)
    store.repair()
    assert sorted(path.name for path in store.root.iterdir()) == ["current", "models"]


@pytest.mark.parametrize("name", ["trial.json", "versions.json"])
@pytest.mark.parametrize("content", ["[", "[1]", '{"a": "b"}'])
def test_a_file_that_is_damaged_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    store = Store(tmp_path, Disk())
    read = store.state if name == "trial.json" else store.versions
    with pytest.raises(BundleError, match=f"{name}: .*remove it"):
        read()


def test_two_at_once_do_not_change_one_store(tmp_path: Path) -> None:
    with locked(tmp_path / "store"), pytest.raises(UnavailableError, match="at work"):  # noqa: SIM117
        with locked(tmp_path / "store"):
            pass
    with locked(tmp_path / "store"):
        pass
