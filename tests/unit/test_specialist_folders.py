"""The specialists of a node: those that can be used serve, and a reload exchanges them."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from edged.bundle.disk import Disk
from edged.bundle.folder import Bundle, open_bundle, write_manifest
from edged.bundle.signature import SIGNATURE
from edged.bundle.store import Store
from edged.bundle.trust import PINNED, read_trust
from edged.config.keys import Config, ModelConfig
from edged.daemon.check import Checked
from edged.daemon.model_trial import ModelTrial, TrialFailedError
from edged.daemon.run import exchange_specialists
from edged.daemon.specialist_folders import SpecialistFolders, needs_adapters, planned_bytes
from edged.errors import UnavailableError
from edged.node.ledger import Account, Ledger
from edged.node.metrics import Metrics
from edged.specialists.features import Template
from edged.specialists.folder import ARRAYS, DESCRIPTION, Specialist, write_specialist
from edged.specialists.lesson import taught
from edged.specialists.writer import CHOICE, WRITER
from tests.signing import private_key, public_key, public_pem, sign
from tests.unit.lessons import BASE, LAYOUT, lesson
from tests.unit.test_bundle import GRAPH
from tests.unit.test_manifest import make_manifest

if TYPE_CHECKING:
    from edged.daemon.loader import ResidentModel
    from edged.daemon.main_loop import Parts

TEMPLATE = Template(lambda text: [ord(character) for character in text], [0])


@pytest.fixture(scope="module")
def made() -> Specialist:
    return taught(lesson(), lambda _: None)


@pytest.fixture
def write(made: Specialist, tmp_path: Path) -> Callable[..., Path]:
    """Write a specialist of this name, and return its folder."""

    def write(name: str, escalate: str | None = None) -> Path:
        folder = tmp_path / name
        description = replace(made.description, name=name, escalate=escalate)
        write_specialist(folder, replace(made, description=description))
        return folder

    return write


def served() -> SpecialistFolders:
    return SpecialistFolders(BASE, TEMPLATE, LAYOUT)


def test_what_cannot_be_used_is_left_out_with_its_reason_and_the_others_serve(
    write: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, damaged, twin = write("lamp"), write("door"), write("twin")
    (damaged / ARRAYS).write_bytes(b"no")
    text = json.loads((twin / DESCRIPTION).read_text("utf-8"))
    (twin / DESCRIPTION).write_text(json.dumps(text | {"name": "lamp"}), "utf-8")
    folders = served()
    folders.read([good, damaged, twin, tmp_path / "missing", write("auto"), write("model")])
    assert list(folders.installed.specialists) == ["lamp"]
    assert list(folders.problems) == ["door", "twin", "missing", "auto", "model"]
    assert "is not what specialist.json says" in folders.problems["door"]
    assert "the name lamp is taken" in folders.problems["twin"]
    assert "cannot be read" in folders.problems["missing"]
    assert caplog.text.count("specialist not used") == 5
    lamp, *broken = folders.info()
    assert lamp["name"] == "lamp"
    assert [one["name"] for one in broken] == list(folders.problems)
    assert all(one["error"] for one in broken)


def test_who_passes_on_to_one_that_does_not_serve_is_named(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    served().read([write("lamp", "door"), write("door", "model"), write("oven", "hob")])
    warnings = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert warnings == ["specialist oven passes on to hob, which does not serve"]


def test_a_bundle_without_hidden_states_names_the_rebuild(write: Callable[..., Path]) -> None:
    folders = SpecialistFolders(BASE, TEMPLATE)
    folders.read([write("lamp")])
    assert "rebuild it with this version's `edged build`" in folders.problems["lamp"]


def test_a_specialist_of_other_hidden_states_is_refused(made: Specialist, tmp_path: Path) -> None:
    """What it says of its base may be right, and its layers another model's."""
    other = replace(LAYOUT, hidden_size=2 * LAYOUT.hidden_size)
    folders = SpecialistFolders(BASE, TEMPLATE, other)
    write_specialist(tmp_path / "six", made)
    folders.read([tmp_path / "six"])
    assert "the model gives" in folders.problems["six"]


def test_a_gate_over_all_is_fitted_and_what_it_was_fitted_to_is_freed(
    write: Callable[..., Path], made: Specialist
) -> None:
    folders = served()
    folders.read([write("lamp"), write("door")])
    gate = folders.installed.gate
    assert gate is not None
    assert list(gate.names) == ["lamp", "door"]
    assert made.gate is not None
    (lamp, _) = folders.installed.specialists.values()
    assert lamp.gate is None
    assert 0 < lamp.size_bytes < made.size_bytes - made.gate.nbytes
    folders.read([])
    assert folders.installed.size_bytes == 0


def test_memory_is_planned_for_what_can_be_read(
    write: Callable[..., Path], made: Specialist, tmp_path: Path
) -> None:
    assert planned_bytes([write("lamp"), tmp_path / "missing"], 4) >= made.size_bytes / 2
    assert planned_bytes([], 4) == 0
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / ARRAYS).touch()
    os.truncate(tmp_path / "huge" / ARRAYS, 1 << 40)
    assert planned_bytes([tmp_path / "huge"], 4) == 0
    (tmp_path / "writer" / CHOICE).mkdir(parents=True)
    (tmp_path / "writer" / CHOICE / ARRAYS).write_bytes(bytes(1000))
    assert planned_bytes([tmp_path / "writer"], 4) == 1000  # no gate is fitted to it


def test_what_nobody_signed_is_left_out_and_a_revoked_key_is_a_change(
    made: Specialist, write: Callable[..., Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    key = private_key()
    (keys / "maker.pem").write_bytes(public_pem(key))
    signed, unsigned = write("lamp"), write("door")
    sign(signed, key)
    folders = SpecialistFolders(BASE, TEMPLATE, LAYOUT, read_trust=lambda: read_trust(keys))
    folders.read([signed, unsigned])
    assert list(folders.installed.specialists) == ["lamp"]
    assert "not signed: it has no model.sig" in folders.problems["door"]
    assert not folders.is_changed([signed, unsigned])
    (keys / "revoked").write_text(f"{public_key(key).key_id}  maker")
    assert folders.is_changed([signed, unsigned])
    folders.read([signed, unsigned])
    assert "which was revoked" in folders.problems["lamp"]
    (keys / "revoked").write_text("nonsense")
    assert folders.is_changed([signed, unsigned])
    folders.read([signed])
    assert "revoked: line 1" in folders.problems["lamp"]


@pytest.mark.parametrize("name", [DESCRIPTION, ARRAYS, WRITER, SIGNATURE])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_no_pipe_and_no_link_of_a_folder_is_waited_for(
    write: Callable[..., Path], name: str, make: Callable[[Path], None]
) -> None:
    good, bad = write("lamp"), write("door")
    (bad / name).unlink(missing_ok=True)
    make(bad / name)
    folders = served()
    folders.read([good, bad])
    # Without keys nobody looks at the signature.
    assert list(folders.problems) == ([] if name == SIGNATURE else ["door"])
    assert "lamp" in folders.installed.specialists
    assert not folders.is_changed([good, bad])


def test_a_name_that_is_no_text_leaves_out_its_folder_alone(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    key = private_key()
    (keys / "maker.pem").write_bytes(public_pem(key))
    (keys / PINNED).write_text("ab" * 32)
    good, bad = write("lamp"), write("door")
    for folder in (good, bad):
        sign(folder, key)
    (bad / os.fsdecode(b"\xff")).write_text("")
    folders = SpecialistFolders(BASE, TEMPLATE, LAYOUT, read_trust=lambda: read_trust(keys))
    folders.read([good, bad])
    assert list(folders.installed.specialists) == ["lamp"]
    assert "control characters in a name, or not UTF-8" in folders.problems["door"]


class Stage:
    """A node that serves a model and these folders, and a configuration that may change."""

    def __init__(
        self, bundle: Bundle, folders: tuple[Path, ...], limit_bytes: int = 100 << 20
    ) -> None:
        self.config = Config(model=ModelConfig(path=bundle.folder), specialists=folders)
        self.specialists = served()
        self.specialists.read(folders)
        size_bytes = self.specialists.installed.size_bytes
        self.ledger = Ledger(limit_bytes, {Account.SPECIALISTS: size_bytes})
        self.announced = 0
        self.engine = SimpleNamespace(num_slots=4, adapter_shape={})
        self.manifest = SimpleNamespace(takes_adapters=False)
        model = SimpleNamespace(
            config=self.config,
            specialists=self.specialists,
            engine=self.engine,
            bundle=SimpleNamespace(
                manifest=self.manifest, resolved=bundle.resolved, sha256=bundle.sha256
            ),
        )
        self._model = cast("ResidentModel", model)
        guard = SimpleNamespace(ledger=self.ledger)
        driver = SimpleNamespace(node=SimpleNamespace(guard=guard, metrics=Metrics()))
        reporter = SimpleNamespace(announce=self._announce)
        self.trial = ModelTrial(self.config, lambda: 0.0)
        parts = SimpleNamespace(driver=driver, reporter=reporter, trial=self.trial)
        self._parts = cast("Parts", parts)

    def _announce(self) -> None:
        self.announced += 1

    def exchange(self, **changed: object) -> bool:
        config = replace(self.config, **changed)  # type: ignore[arg-type]
        checked = Checked(config, open_bundle(config.model.path, verify=False))
        return exchange_specialists(self._model, self._parts, checked)

    @property
    def names(self) -> list[str]:
        return sorted(self.specialists.installed.specialists)


def install(store: Store, model_id: str, source: Path) -> None:
    """Have a copy of a folder serve."""

    def fill(target: Path) -> str:
        shutil.copytree(source, target)
        return model_id

    store.stage(fill)
    store.begin(model_id)


def write_bundle(folder: Path, data: bytes) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(GRAPH)
    (folder / "model.onnx.data").write_bytes(data)
    (folder / "tokenizer.json").write_bytes(b"{}")
    write_manifest(folder, make_manifest())
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Store:
    """The store of the model."""
    store = Store(tmp_path / "model", Disk())
    install(store, "old", write_bundle(tmp_path / "bundle", b"1"))
    return store


@pytest.fixture
def make_stage(models: Store) -> Callable[..., Stage]:
    return partial(Stage, open_bundle(models.current))


def test_a_reload_adds_removes_and_exchanges_specialists(
    write: Callable[..., Path], make_stage: Callable[..., Stage]
) -> None:
    lamp, door = write("lamp"), write("door")
    stage = make_stage((lamp,))
    assert stage.exchange(specialists=(lamp, door))
    assert (stage.names, stage.announced) == (["door", "lamp"], 1)
    size_bytes = stage.ledger.accounts()["specialists"]
    assert size_bytes == stage.specialists.installed.size_bytes
    assert 0 < size_bytes < planned_bytes((lamp, door), 4)
    assert stage.exchange(specialists=(door,))
    assert (stage.names, stage.announced) == (["door"], 2)
    assert stage.exchange(specialists=())
    assert (stage.names, stage.ledger.accounts()["specialists"]) == ([], 0)
    (door / DESCRIPTION).unlink()
    assert stage.exchange(specialists=(door,))
    assert (stage.names, list(stage.specialists.problems)) == ([], ["door"])


def test_what_a_store_has_on_trial_is_watched_from_the_reload_on(
    write: Callable[..., Path], make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    lamp = write("lamp")
    store = Store(tmp_path / "lamps", Disk())
    install(store, "old", lamp)
    stage = make_stage((store.current,))
    assert stage.trial.members() is None
    write("lamp", "model")
    install(store, "new", lamp)
    assert stage.exchange()
    assert stage.trial.members() == {"models": ["new"], "status": "running", "reason": None}
    (store.current / DESCRIPTION).unlink()
    with pytest.raises(TrialFailedError, match="new: on trial, and taken back: "):
        stage.exchange()


def test_what_is_installed_while_others_are_read_is_watched_from_its_own_reload_on(
    write: Callable[..., Path],
    make_stage: Callable[..., Stage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lamp, door = write("lamp"), write("door")
    store = Store(tmp_path / "lamps", Disk())
    install(store, "old", lamp)
    stage = make_stage((store.current,))
    read = stage.specialists.read

    def read_and_install(folders: tuple[Path, ...]) -> None:
        read(folders)
        install(store, "new", write("lamp", "model"))

    monkeypatch.setattr(stage.specialists, "read", read_and_install)
    assert stage.exchange(specialists=(store.current, door))
    assert store.state().is_on_trial
    assert stage.trial.members() is None


@pytest.mark.parametrize("data", [b"1", b"2"], ids=["signed again", "another one"])
def test_another_model_behind_the_same_link_takes_a_restart_and_is_not_watched_before(
    write: Callable[..., Path],
    make_stage: Callable[..., Stage],
    models: Store,
    tmp_path: Path,
    data: bytes,
) -> None:
    lamp = write("lamp")
    stage = make_stage((lamp,))
    install(models, "new", write_bundle(tmp_path / "other", data))
    write("lamp", "model")
    assert stage.specialists.is_changed((lamp,))
    assert not stage.exchange()
    assert stage.trial.members() is None
    models.roll_back()
    assert stage.exchange()


def test_what_else_changes_takes_a_restart(
    write: Callable[..., Path], make_stage: Callable[..., Stage]
) -> None:
    lamp, door = write("lamp"), write("door")
    stage = make_stage((lamp,))
    assert not stage.exchange(specialists=(lamp, door), node="other")
    assert not stage.exchange()  # the bundle may have changed
    assert not make_stage(()).exchange(specialists=(lamp,))
    assert stage.names == ["lamp"]


def test_the_first_that_writes_takes_a_restart(
    write: Callable[..., Path], make_stage: Callable[..., Stage], tmp_path: Path
) -> None:
    """For the graph that takes adapters: not where it is loaded already, or the bundle has none."""
    lamp, home = write("lamp"), tmp_path / "home"
    home.mkdir()
    (home / WRITER).write_text("{}")
    stage = make_stage((lamp,))
    assert stage.exchange(specialists=(lamp, home))
    assert list(stage.specialists.problems) == ["home"]
    stage = make_stage((lamp,))
    stage.manifest.takes_adapters = True
    assert not stage.exchange(specialists=(lamp, home))
    assert stage.exchange(specialists=(lamp, write("door")))
    stage.engine.adapter_shape = {"0.attn.o_proj": None}
    assert stage.exchange(specialists=(lamp, home))


def test_a_folder_that_cannot_be_looked_into_needs_no_adapters(tmp_path: Path) -> None:
    assert not needs_adapters([tmp_path / "missing", tmp_path / ("n" * 300)])


def test_what_does_not_fit_the_budget_is_not_taken_up(
    write: Callable[..., Path], make_stage: Callable[..., Stage]
) -> None:
    lamp, door = write("lamp"), write("door")
    stage = make_stage((lamp,), planned_bytes((lamp,), 4))
    with pytest.raises(UnavailableError, match="specialists: 0 MiB do not fit"):
        stage.exchange(specialists=(lamp, door))
    assert (stage.names, stage.announced) == (["lamp"], 0)
