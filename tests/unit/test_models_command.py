"""``edged model``: a folder is checked, copied and served on trial, or refused, and never half."""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edged.bundle.disk import Disk
from edged.bundle.folder import open_bundle, write_manifest
from edged.bundle.manifest import Manifest
from edged.bundle.store import Failure, Store, locked
from edged.bundle.trial_record import TrialRecord, read_record, write_record
from edged.bundle.trust import Trust, read_trust
from edged.bundle.version import VERSION, version_bytes
from edged.cli import main
from edged.commands.install.layout import Layout
from edged.commands.install.settings import Settings, configuration_text
from edged.commands.staging import Arrived, bring_bundle, bring_specialist
from edged.config.broker_url import BrokerAddress
from edged.config.keys import SecurityConfig
from edged.config.load import load_config
from edged.daemon.invocation import configured_trust
from edged.errors import BundleError, ExitCode
from edged.specialists.adapter import AdaptedModel
from edged.specialists.folder import BaseModel, write_specialist
from edged.specialists.lesson import taught
from edged.specialists.writer import ADAPTER, WRITER, write_writer
from tests.signing import PrivateKey, private_key, public_pem, sign
from tests.unit.lessons import lesson
from tests.unit.test_bundle import GRAPH
from tests.unit.test_manifest import make_manifest
from tests.unit.test_writer_folder import ADAPTER_BYTES
from tests.unit.writers import DESCRIPTION

KEY = private_key()
Make = Callable[..., Path]
Run = Callable[..., int]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make a bundle of a version, signed by ``KEY`` or another key."""

    def make(version: int, key: PrivateKey | None = KEY) -> Path:
        folder = tmp_path / f"bundle-{version}"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(GRAPH)
        (folder / "model.onnx.data").write_bytes(bytes([version]) * 100)
        (folder / "tokenizer.json").write_bytes(b"{}")
        write_manifest(folder, make_manifest())
        (folder / VERSION).write_bytes(version_bytes(version))
        if key is not None:
            sign(folder, key)
        return folder

    return make


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path: Path, store: Path) -> Run:
    """Run an action on a device that is configured to serve from its store, and has the key."""
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "maker.pem").write_bytes(public_pem(KEY))
    (tmp_path / "edged.yaml").write_text(
        f"model: {{path: {store}/model/current}}\n"
        f"specialists: [{store}/specialists/six/current]\nsecurity: {{keys: {keys}}}\n"
        f"state: {{folder: {tmp_path}/state}}\n"
    )
    options = ["--store", str(store), "--config", str(tmp_path / "edged.yaml"), "--no-reload"]

    def run(action: str, *words: object) -> int:
        # These bundles cannot be loaded: tests/engine/test_models_loaded.py has some that can.
        more = ["--unloaded"] if action == "install" else []
        return main(["model", action, *map(str, words), *options, *more])

    return run


def serves(store: Path) -> int:
    """Return the version that serves, of a bundle that is whole."""
    open_bundle(store / "model" / "current")
    return (store / "model" / "current" / "model.onnx.data").read_bytes()[0]


def listed(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert run("list") == 0
    return capsys.readouterr().out.splitlines()


def test_the_first_serves_the_next_is_on_trial_and_is_accepted_or_taken_back(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(run, capsys) == []
    assert run("install", make(1)) == 0
    assert serves(store) == 1
    assert run("install", make(2)) == 0
    assert "on trial: accepted after 10 answers or 10 minutes" in capsys.readouterr().out
    assert serves(store) == 2
    marks = [line.split("  ")[1:] for line in listed(run, capsys)]
    assert sorted(marks) == [["version 1", "previous"], ["version 2", "current, on trial"]]
    assert run("rollback") == 0
    assert serves(store) == 1
    assert run("install", make(3)) == 0
    assert run("commit") == 0
    assert serves(store) == 3
    assert run("rollback") == 0
    assert serves(store) == 1
    (removable,) = [line for line in listed(run, capsys) if line.endswith("version 2")]
    assert run("remove", removable.split()[0]) == 0
    assert len(listed(run, capsys)) == 2
    shutil.rmtree(store)


def test_where_a_power_cut_kept_a_trial_from_beginning_the_old_one_is_listed(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (1, 2):
        assert run("install", make(version)) == 0
    models = Store(store / "model", Disk())
    trial = models.state().trial
    assert trial is not None
    assert trial.fallback is not None
    models.current.unlink()
    models.current.symlink_to(trial.fallback)
    marks = [line.split("  ")[1:] for line in listed(run, capsys)]
    assert sorted(marks) == [["version 1", "current"], ["version 2"]]


def test_installing_what_serves_changes_nothing(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(1)
    assert run("install", folder) == 0
    assert run("install", folder) == 0
    assert "serves already" in capsys.readouterr().out
    assert len(listed(run, capsys)) == 1
    assert serves(store) == 1


def rotten(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"rotten" * 10)


def revoked(folder: Path) -> None:
    """Have it be signed by a key that no longer counts, as by one before it was changed."""
    sign(folder, private_key())


@pytest.mark.parametrize("spoil", [rotten, revoked])
def test_what_serves_and_is_damaged_or_signed_by_another_key_is_replaced(
    make: Make, run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
) -> None:  # fmt: skip
    folder, current = make(1), store / "model" / "current"
    assert run("install", folder) == 0
    spoil(current)
    trust = read_trust(tmp_path / "keys")
    with pytest.raises(BundleError):
        open_bundle(current, trust=trust)
    assert run("install", folder) == 0
    said = capsys.readouterr().out
    assert "serves already, and was replaced by this copy" in said
    assert "a running service takes it up with `systemctl reload`" in said
    open_bundle(current, trust=trust)
    assert [line.split("  ")[1:] for line in listed(run, capsys)] == [["version 1", "current"]]


@pytest.fixture(params=[0o077, 0o000])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_whatever_the_umask_is_the_service_can_read_its_models_and_not_change_them(
    make: Make, run: Run, store: Path, tmp_path: Path
) -> None:
    for folder in (make(1), make(2), taught_six(tmp_path / "six", open_bundle(make(3)).manifest)):
        assert run("install", folder) == 0
    paths = [store, *store.rglob("*")]
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in paths
        if not path.is_symlink() and path.name != "lock"
    }
    assert {path.name for path in modes} >= {"trial.json", "versions.json", "specialists", "six"}
    assert all(mode == (0o755 if path.is_dir() else 0o644) for path, mode in modes.items())


def damaged(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"[]")


def hidden(folder: Path) -> None:
    (folder / "model.sig").unlink()


def linked(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "elsewhere")
    (folder / "tokenizer.json").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (damaged, "tokenizer.json: sha256 differs"),
        (hidden, "not signed: it has no model.sig"),
        (linked, "cannot be opened as a plain file"),
        (lambda folder: sign(folder, private_key()), "signed by the unknown key"),
        (lambda folder: (folder / VERSION).write_bytes(b"{}"), "version.json: "),
    ],
)
def test_what_may_not_serve_is_refused_and_leaves_nothing(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str],
    tamper: Callable[[Path], object], problem: str,
) -> None:  # fmt: skip
    assert run("install", make(1)) == 0
    folder = make(2)
    tamper(folder)
    assert run("install", folder) == ExitCode.CONFIG
    assert problem in capsys.readouterr().err
    assert serves(store) == 1
    assert len(listed(run, capsys)) == 1
    assert sorted(path.name for path in (store / "model").iterdir()) == [
        *("current", "lock", "models", "versions.json")
    ]


def test_a_version_below_the_one_accepted_is_refused_even_after_going_back(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in (2, 5):
        assert run("install", make(version)) == 0
        run("commit")
    assert run("install", make(4)) == ExitCode.CONFIG
    assert "version 4 is below 5, which this device has accepted" in capsys.readouterr().err
    assert run("rollback") == 0
    assert serves(store) == 2
    assert run("install", make(3)) == ExitCode.CONFIG
    assert serves(store) == 2


def test_a_trial_is_ended_before_the_next_one(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", make(1)) == 0
    assert run("commit") == ExitCode.USAGE
    assert "nothing is on trial" in capsys.readouterr().err
    assert run("rollback") == ExitCode.USAGE
    assert "nothing served before" in capsys.readouterr().err
    assert run("install", make(2)) == 0
    capsys.readouterr()
    assert run("install", make(3)) == ExitCode.USAGE
    assert "is on trial; `edged model commit` or `rollback` ends that" in capsys.readouterr().err
    assert serves(store) == 2


def test_while_another_one_is_at_work_nothing_is_changed(
    make: Make, run: Run, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(store / "model"):
        assert run("install", make(1)) == ExitCode.TEMPORARY_FAILURE
    assert "another `edged model` is at work" in capsys.readouterr().err
    assert run("install", make(2)) == 0


def test_a_disk_without_room_is_named(
    make: Make, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(".")._replace(free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert run("install", make(1)) == ExitCode.CANNOT_CREATE
    assert "1 MiB free, the copy needs 0 and 64 must stay" in capsys.readouterr().err


def test_a_configuration_that_names_another_folder_is_pointed_out(
    make: Make, run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"model: {{path: {tmp_path}/old}}\nsecurity: {{require_signature: false}}\n"
    (tmp_path / "edged.yaml").write_text(text)
    assert run("install", make(1, None)) == 0
    said = f"write `{store}/model/current` at model.path there"
    assert f"to have it serve, {said}" in capsys.readouterr().out
    assert run("install", make(2, None)) == ExitCode.USAGE
    assert said in capsys.readouterr().err


def test_a_specialist_has_a_store_of_its_own_and_must_fit_the_model(
    make: Make, run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", make(1)) == 0
    made = taught(lesson(), lambda _: None)
    six = taught_six(tmp_path / "six", make_manifest_of(store))
    (six / "model.sig").unlink()
    assert run("install", six) == ExitCode.CONFIG
    assert "not signed" in capsys.readouterr().err
    # As those that write have them.
    (six / "peft").mkdir()
    (six / "peft" / "adapter_config.json").write_bytes(b"{}")
    sign(six, KEY)
    assert run("install", six) == 0
    current = store / "specialists" / "six" / "current"
    assert (current / "specialist.json").exists()
    assert (current / "peft" / "adapter_config.json").read_bytes() == b"{}"
    assert stat.S_IMODE((current / "peft").stat().st_mode) == 0o755
    (six / VERSION).write_bytes(version_bytes(7))
    sign(six, KEY)
    assert run("install", six) == 0
    assert run("commit", "--specialist", "six") == 0
    assert run("rollback", "--specialist", "six") == 0
    other = tmp_path / "other"
    write_specialist(other, made)
    sign(other, KEY)
    assert run("install", other) == ExitCode.CONFIG
    assert "taught to another model" in capsys.readouterr().err
    (other / "pipe").unlink(missing_ok=True)
    os.mkfifo(other / "pipe")
    assert run("install", other) == ExitCode.CANNOT_CREATE
    (other / "pipe").unlink()
    (other / "link").symlink_to(tmp_path)
    assert run("install", other) == ExitCode.CANNOT_CREATE
    (other / "link").unlink()
    (other / "1" / "2" / "3").mkdir(parents=True)
    assert run("install", other) == ExitCode.CONFIG
    assert "too many folders in folders" in capsys.readouterr().err


def make_manifest_of(store: Path) -> Manifest:
    return open_bundle(store / "model" / "current").manifest


def taught_six(folder: Path, base: Manifest, name: str = "six") -> Path:
    """Make a specialist for a model, signed by ``KEY``."""
    made = taught(lesson(), lambda _: None)
    said = replace(made.description, base=BaseModel.of(base), name=name)
    write_specialist(folder, replace(made, description=said))
    sign(folder, KEY)
    return folder


def test_what_becomes_another_one_meanwhile_gets_into_no_store(
    make: Make, run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert run("install", make(1)) == 0
    base, source = make_manifest_of(store), tmp_path / "source"
    six, lock = taught_six(tmp_path / "made", base), taught_six(tmp_path / "lock", base, "lock")

    def lead_to(folder: Path) -> None:
        source.unlink(missing_ok=True)
        source.symlink_to(folder)

    for other, problem in (
        (lock, "is lock by now, and was six; copy it again"),
        (make(2), "specialist.json: cannot be read"),
    ):
        lead_to(six)

        def swapped(security: SecurityConfig, other: Path = other) -> Trust:
            lead_to(other)
            return configured_trust(security)

        monkeypatch.setattr("edged.commands.models.configured_trust", swapped)
        assert run("install", source) != ExitCode.OK
        assert problem in capsys.readouterr().err
        assert list((store / "specialists" / "six" / "models").iterdir()) == []
    assert serves(store) == 1


def test_what_is_private_is_not_shown_to_others_by_its_copy(tmp_path: Path) -> None:
    private, base, trust = tmp_path / "private", make_manifest(), Trust(tmp_path)
    private.mkdir(mode=0o700)
    (private / "password").write_text("hunter2")
    (private / "password").chmod(0o600)
    copy = tmp_path / "copy"
    with pytest.raises(BundleError, match=r"specialist\.json: cannot be read"):
        bring_specialist("six", private, trust, {}, base, copy)
    assert (copy / "password").exists()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    with pytest.raises(BundleError, match="not a bundle"):
        bring_bundle(private, trust, {}, tmp_path / "bundle")
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == 0o700


def test_what_is_neither_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("install", empty) == ExitCode.USAGE
    assert "neither a bundle of `edged build`" in capsys.readouterr().err
    for name in ("../x", "model"):
        (empty / "writer.json").write_text(json.dumps({"name": name}))
        assert run("install", empty) == ExitCode.USAGE
    (empty / "writer.json").write_text("[")
    assert run("install", empty) == ExitCode.USAGE
    assert "writer.json: cannot be read" in capsys.readouterr().err


@pytest.fixture
def service(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Run an action on a device with a service, which takes up what is new or refuses it."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("edged.commands.models._SYSTEMD", tmp_path)
    options = ["--store", str(store), "--config", str(tmp_path / "edged.yaml")]

    def service(action: str, *words: object, can_reload: bool = True) -> int:
        asked = tmp_path / "asked"
        status = 0 if can_reload else 1
        program.write_text(f'#!/bin/sh\necho "$@" >>{asked}\necho inactive\nexit {status}\n')
        program.chmod(0o755)
        more = ["--unloaded"] if action == "install" else []
        return main(["model", action, *map(str, words), *options, *more])

    return service


@pytest.mark.parametrize("can_reload", [True, False])
def test_what_the_service_refuses_to_take_up_is_taken_back(
    make: Make,
    run: Run,
    service: Callable[..., int],
    store: Path,
    tmp_path: Path,
    can_reload: bool,
) -> None:
    run("install", make(1))
    status = service("install", make(2), "--instance", "two", can_reload=can_reload)
    assert (tmp_path / "asked").read_text() == "try-reload-or-restart edged@two.service\n"
    assert status == (ExitCode.OK if can_reload else ExitCode.CANNOT_CREATE)
    assert serves(store) == (2 if can_reload else 1)
    state = Store(store / "model", Disk()).state()
    assert state.is_on_trial is can_reload


@pytest.mark.parametrize("is_accepted", [False, True])
def test_a_way_back_that_the_service_refuses_is_undone(
    make: Make,
    run: Run,
    service: Callable[..., int],
    store: Path,
    capsys: pytest.CaptureFixture[str],
    is_accepted: bool,
) -> None:
    for version in (1, 2):
        run("install", make(version))
    if is_accepted:
        run("commit")
    before = Store(store / "model", Disk()).state()
    assert service("rollback", can_reload=False) == ExitCode.CANNOT_CREATE
    assert f"so this was undone, and {before.current} serves" in capsys.readouterr().err
    assert Store(store / "model", Disk()).state() == before
    assert service("rollback") == ExitCode.OK
    assert serves(store) == 1


@pytest.mark.parametrize("spoil", [rotten, revoked])
def test_what_cannot_serve_any_more_is_not_gone_back_to(
    make: Make, run: Run, store: Path, spoil: Callable[[Path], None]
) -> None:
    for version in (1, 2):
        run("install", make(version))
    run("commit")
    before = Store(store / "model", Disk()).state()
    spoil(store / "model" / "models" / str(before.previous))
    assert run("rollback") == ExitCode.CONFIG
    assert Store(store / "model", Disk()).state() == before


def test_a_specialist_that_nobody_signed_is_not_gone_back_to(
    make: Make, run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", make(1)) == 0
    made = taught(lesson(), lambda _: None)
    six, base = tmp_path / "six", BaseModel.of(make_manifest_of(store))
    write_specialist(six, replace(made, description=replace(made.description, base=base)))
    for version in (1, 2):
        (six / VERSION).write_bytes(version_bytes(version))
        sign(six, KEY)
        assert run("install", six) == 0
    specialists = Store(store / "specialists" / "six", Disk())
    before = specialists.state()
    assert before.trial is not None
    (specialists.folder(before.trial.fallback) / VERSION).write_bytes(version_bytes(3))
    assert run("rollback", "--specialist", "six") == ExitCode.CONFIG
    assert f"{VERSION}: " in capsys.readouterr().err
    assert specialists.state() == before


def test_what_serves_already_is_not_told_how_another_one_failed(
    make: Make, run: Run, service: Callable[..., int], store: Path
) -> None:
    folder = make(1)
    assert service("install", folder, "--wait") == 0
    run("install", make(2))
    models = Store(store / "model", Disk())
    models.roll_back(Failure(str(models.state().current), "it crashed"))
    assert service("install", folder, "--wait") == 0


def test_what_never_ends_is_not_waited_for(
    make: Make,
    run: Run,
    service: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make(1)
    assert run("install", folder, "--wait") == ExitCode.USAGE
    assert "--wait: a trial begins when systemd reloads" in capsys.readouterr().err
    config = tmp_path / "edged.yaml"
    config.write_text(config.read_text().partition("state:")[0])
    assert service("install", folder, "--wait") == ExitCode.USAGE
    assert "--wait: " in (said := capsys.readouterr().err)
    assert "has no state.folder" in said
    assert listed(run, capsys) == []


def test_a_service_that_does_not_run_is_not_waited_for(
    make: Make,
    run: Run,
    service: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edged.commands.settling._POLL_S", 0)
    run("install", make(1))
    assert service("install", make(2), "--wait") == ExitCode.CANNOT_CREATE
    asked = (tmp_path / "asked").read_text()
    assert asked == "try-reload-or-restart edged.service\nis-active edged.service\n"


def test_what_did_well_once_is_on_trial_when_it_is_installed_again(
    make: Make, run: Run, store: Path, tmp_path: Path
) -> None:
    run("install", make(1))
    folder = make(2)
    run("install", folder)
    (tmp_path / "state").mkdir()
    models = Store(store / "model", Disk())
    write_record(tmp_path / "state", TrialRecord(passed=(str(models.state().current),)))
    run("rollback")
    assert models.state().trial is None
    run("install", folder)
    # Each command ends trials that were passed.
    assert run("remove", "nothing") == ExitCode.USAGE
    assert models.state().is_on_trial


class PowerCutError(BaseException):
    """Nothing catches it."""


def test_the_version_of_the_first_holds_before_it_serves(
    make: Make, run: Run, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise PowerCutError

    folder = make(9)
    with monkeypatch.context() as broken:
        broken.setattr("edged.bundle.store.replace_link", cut)
        with pytest.raises(PowerCutError):
            run("install", folder)
    assert run("install", make(3)) == ExitCode.CONFIG
    assert run("install", folder) == 0
    assert serves(store) == 9


@pytest.mark.parametrize("is_edited", [False, True])
def test_what_edged_install_has_configured_can_be_gone_back_to(
    make: Make, run: Run, store: Path, tmp_path: Path, is_edited: bool
) -> None:
    path, old = tmp_path / "edged.yaml", make(1)
    settings = Settings(
        node="kitchen",
        model=old,
        broker=BrokerAddress("localhost", 1883),
        has_password=False,
        has_authority=False,
        budget_bytes=512 << 20,
    )
    text = configuration_text(Layout(), settings) + "# by hand\n" * is_edited
    path.write_text(text)
    assert run("install", make(2)) == 0
    assert (path.read_text() == text) is is_edited
    if is_edited:
        # Nothing can be known of what serves: the first of the store waits to be configured.
        assert serves(store) == 2
        return
    config = load_config(path.read_text(), "edged.yaml")
    assert config.model.path == store / "model" / "current"
    settings = replace(settings, model=config.model.path)
    assert path.read_text() == configuration_text(Layout(), settings)
    assert serves(store) == 2
    assert run("rollback") == 0
    assert serves(store) == 1


def test_a_writer_whose_adapter_is_another_is_not_installed(
    make: Make, run: Run, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", make(1)) == 0
    folder = tmp_path / "writer"
    base = AdaptedModel.of(make_manifest_of(store))
    write_writer(folder, replace(DESCRIPTION, base=base), ADAPTER_BYTES)
    (folder / ADAPTER).write_bytes(ADAPTER_BYTES[:-1] + b"\0")
    sign(folder, KEY)
    assert run("install", folder) == ExitCode.CONFIG
    assert f"{ADAPTER} is not what {WRITER} says" in capsys.readouterr().err
    (folder / ADAPTER).write_bytes(ADAPTER_BYTES)
    sign(folder, KEY)
    assert run("install", folder) == 0


def test_a_writer_beside_a_head_is_what_is_installed_as_it_is_what_a_node_reads(
    make: Make, run: Run, store: Path, tmp_path: Path
) -> None:
    assert run("install", make(1)) == 0
    folder = taught_six(tmp_path / "folder", make_manifest_of(store))
    base = AdaptedModel.of(make_manifest_of(store))
    write_writer(tmp_path / "writer", replace(DESCRIPTION, base=base), ADAPTER_BYTES)
    for path in (tmp_path / "writer").iterdir():
        path.rename(folder / path.name)
    sign(folder, KEY)
    assert run("install", folder) == 0
    assert [path.name for path in (store / "specialists").iterdir()] == [DESCRIPTION.name]


def test_what_passes_while_another_one_is_installed_has_passed(
    make: Make, run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state").mkdir()
    run("install", make(1))
    six = taught_six(tmp_path / "six", make_manifest_of(store))
    assert run("install", six) == 0
    run("install", make(2))
    passed = TrialRecord(passed=(str(Store(store / "model", Disk()).state().current),))

    def bring(*given: Any) -> Arrived:  # noqa: ANN401 - as its own
        write_record(tmp_path / "state", passed)
        return bring_specialist(*given)

    monkeypatch.setattr("edged.commands.models.bring_specialist", bring)
    (six / VERSION).write_bytes(version_bytes(7))
    sign(six, KEY)
    assert run("install", six) == 0
    assert read_record(tmp_path / "state") == passed


@pytest.mark.parametrize("action", ["commit", "rollback", "remove"])
def test_a_name_of_nothing_makes_no_store(
    run: Run, store: Path, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    words = ["six-1"] if action == "remove" else []
    assert run(action, *words, "--specialist", "sixx") == ExitCode.USAGE
    assert "specialists/sixx: is not there" in capsys.readouterr().err
    assert not store.exists()


def test_a_folder_that_cannot_be_looked_into_is_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("install", "a" * 300) == ExitCode.USAGE
    assert "aaa: cannot be read: File name too long" in capsys.readouterr().err
