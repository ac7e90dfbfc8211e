"""What fleets run to bring a model: each hook calls the real command."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from edged.bundle.disk import Disk
from edged.bundle.store import Store
from tests.paths import ROOT
from tests.requirements import require
from tests.signing import private_key, public_pem, sign
from tests.tiny_model import write_tiny_bundle

BIN = Path(sys.executable).parent
KEY = private_key()
MENDER = ROOT / "deploy" / "updates" / "mender"
DROP = ROOT / "deploy" / "updates" / "edged-drop.service"
PLAYBOOK = ROOT / "deploy" / "ansible" / "model.yaml"
MAX_LINES = 50


class Device:
    """A device that is nothing but its store, keys and configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store, keys, config = folder / "store", folder / "keys", folder / "edged.yaml"
        keys.mkdir()
        (keys / "maker.pem").write_bytes(public_pem(KEY))
        config.write_text(
            f"model: {{path: {store}/model/current}}\nsecurity: {{keys: {keys}}}\n"
            f"state: {{folder: {folder}}}\n"
        )
        self.options = f"--store {store} --config {config} --no-reload"
        self.command = folder / "bin" / "edged"
        self.command.parent.mkdir()
        self.replace()
        path = f"{self.command.parent}:{BIN}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path}
        self.folders = store
        self.store = Store(store / "model", Disk())

    def replace(self, **actions: str) -> None:
        """Have `edged model` do something else for some of its actions."""
        others = "".join(f"{name}) {line}; exit ;; " for name, line in actions.items())
        # Without a service that is reloaded, there is no trial to wait for.
        unwaited = 'for word; do shift; [ "$word" = --wait ] || set -- "$@" "$word"; done'
        real = f'cd {ROOT} && exec {sys.executable} -m edged "$@" {self.options}'
        self.command.write_text(f"#!/bin/sh\ncase $2 in {others}esac\n{unwaited}\n{real}\n")
        self.command.chmod(0o755)

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def make_bundle(folder: Path, *, is_signed: bool = True) -> Path:
    write_tiny_bundle(folder)
    if is_signed:
        sign(folder, KEY)
    return folder


@pytest.mark.parametrize("path", [MENDER, PLAYBOOK, *(ROOT / "deploy" / "updates").iterdir()])
def test_a_hook_is_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MAX_LINES


# Their folders have fixed names: in a mount namespace they are those of a test.
_IN_ITS_FOLDERS = """
mount --bind "$1" /etc/mender
mount --bind "$2" /usr/share/mender/modules/v3
shift 2
exec mender "$@"
"""


@dataclass(frozen=True)
class Mender:
    """Mender's client on a device, without a server."""

    device: Device
    folder: Path

    def artifact(self, name: str, folder: Path) -> Path:
        """Make what a fleet distributes of a signed folder."""
        path = self.folder / f"{name}.mender"
        files = [word for file in sorted(folder.iterdir()) for word in ("-f", file)]
        kind = ("-T", "edged-model", "-t", "gateway", "-n", name, "-o", path)
        done = self.device.run("mender-artifact", "write", "module-image", *kind, *files)
        assert done.returncode == 0, done.stderr
        return path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        folders = [self.folder / name for name in ("etc", "modules")]
        options = ("--no-syslog", "--log-level", "error", "--data", self.folder / "data")
        command = ("unshare", "--mount", "sh", "-euc", _IN_ITS_FOLDERS, "sh")
        return self.device.run(*command, *folders, *options, *words)

    def shown(self) -> str:
        """What the client says is installed."""
        return self.run("show-artifact").stdout.strip()


@pytest.fixture
def mender(device: Device, tmp_path: Path) -> Mender:
    for program in ("mender", "mender-artifact"):
        package = "mender-client" if program == "mender" else program
        require(shutil.which(program), f"{program} is missing (apt-get install {package})")
    require(os.geteuid() == 0, "a mount namespace needs root")
    folder = tmp_path / "mender"
    for name in ("etc", "modules", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "etc" / "artifact_info").write_text("artifact_name=image\n")
    (folder / "etc" / "mender.conf").write_text("{}\n")
    (folder / "data" / "device_type").write_text("device_type=gateway\n")
    shutil.copy(MENDER, folder / "modules" / "edged-model")
    return Mender(device, folder)


def test_mender_installs_and_goes_back(device: Device, mender: Mender, tmp_path: Path) -> None:
    done = mender.run("install", mender.artifact("first", make_bundle(tmp_path / "first")))
    assert done.returncode == 0, done.stderr
    first = device.store.state().current
    assert first is not None
    # Another one is accepted, and another part of the update fails.
    device.store.begin(device.store.stage(filled)[0])
    device.store.commit("tiny", 0)
    assert mender.run("rollback").returncode == 0
    assert device.store.state().current == first
    assert mender.shown() == "image"


def test_what_mender_commits_stays(device: Device, mender: Mender, tmp_path: Path) -> None:
    done = mender.run("install", mender.artifact("first", make_bundle(tmp_path / "first")))
    assert done.returncode == 0, done.stderr
    first = device.store.state().current
    assert mender.run("commit").returncode == 0
    assert device.store.state().current == first
    assert mender.shown() == "first"


def filled(folder: Path) -> str:
    make_bundle(folder)
    return "another"


class Payload:
    """A payload of the update module, whose states are called as Mender's client calls them."""

    def __init__(self, device: Device, folder: Path) -> None:
        self.device, self.folder = device, folder
        for name in ("files", "tmp"):
            (folder / name).mkdir(parents=True)

    def call(self, state: str) -> subprocess.CompletedProcess[str]:
        return self.device.run("sh", MENDER, state, self.folder)

    def succeed(self, state: str) -> None:
        done = self.call(state)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def payload(device: Device, tmp_path: Path) -> Payload:
    return Payload(device, tmp_path / "payload")


def begin(store: Store, model_id: str, *, is_accepted: bool = True) -> None:
    """Have a folder serve that was not there."""

    def fill(folder: Path) -> str:
        make_bundle(folder)
        return model_id

    store.root.parent.mkdir(exist_ok=True)
    store.begin(store.stage(fill)[0])
    if is_accepted:
        store.commit("tiny", 0)


def test_mender_does_not_go_back_from_what_served_already(device: Device, payload: Payload) -> None:
    make_bundle(payload.folder / "files")
    assert device.run("edged", "model", "install", payload.folder / "files").returncode == 0
    first = device.store.state().current
    begin(device.store, "another")
    device.store.roll_back()
    payload.succeed("ArtifactInstall")
    payload.succeed("ArtifactRollback")
    assert device.store.state().current == first


@pytest.mark.parametrize("is_accepted", [False, True])
@pytest.mark.parametrize("first", ["", "older"])
def test_mender_goes_back_once_to_what_served_before(
    device: Device, payload: Payload, first: str, *, is_accepted: bool
) -> None:
    if first:
        begin(device.store, first)
    device.replace(install="kill -KILL $PPID")
    assert payload.call("ArtifactInstall").returncode < 0
    if not first:
        # What served until now was elsewhere: `edged model install` copies it first.
        begin(device.store, "older")
    begin(device.store, "newer", is_accepted=is_accepted)
    # The power is cut when it has just gone back.
    device.replace(rollback="kill -KILL $PPID")
    assert payload.call("ArtifactRollback").returncode < 0
    device.store.roll_back()
    device.replace()
    for _ in range(2):
        payload.succeed("ArtifactRollback")
        state = device.store.state()
        assert (state.current, state.trial) == ("older", None)


@pytest.mark.parametrize("is_first", [False, True])
def test_mender_leaves_what_the_trial_has_taken_back(
    device: Device, payload: Payload, *, is_first: bool
) -> None:
    if not is_first:
        begin(device.store, "oldest")
        begin(device.store, "older")
    device.replace(install="exit 65")
    assert payload.call("ArtifactInstall").returncode == 65
    if is_first:
        begin(device.store, "older")
    begin(device.store, "newer", is_accepted=False)
    device.store.roll_back()
    payload.succeed("ArtifactRollback")
    assert device.store.state().current == "older"


def test_mender_is_told_where_nothing_can_be_gone_back_to(device: Device, payload: Payload) -> None:
    device.replace(install="exit 0")
    payload.succeed("ArtifactInstall")
    begin(device.store, "first")
    done = payload.call("ArtifactRollback")
    assert done.returncode != 0
    assert "nothing served before" in done.stderr


def test_mender_goes_back_to_another_specialist_and_leaves_the_model(
    device: Device, payload: Payload
) -> None:
    def fill(folder: Path, model_id: str) -> str:
        folder.mkdir(exist_ok=True)
        description = {"heads": [{"name": "other"}], "name": "lamp"}
        (folder / "specialist.json").write_text(json.dumps(description, indent=2))
        sign(folder, KEY)
        return model_id

    lamp = Store(device.folders / "specialists" / "lamp", Disk())
    for model_id in ("oldest", "older"):
        begin(device.store, model_id)
    lamp.root.parent.mkdir()
    lamp.begin(lamp.stage(partial(fill, model_id="older"))[0])
    fill(payload.folder / "files", "")
    device.replace(install="exit 0")
    payload.succeed("ArtifactInstall")
    lamp.begin(lamp.stage(partial(fill, model_id="newer"))[0])
    lamp.commit("lamp", 0)
    payload.succeed("ArtifactRollback")
    assert (lamp.state().current, device.store.state().current) == ("older", "older")


def test_mender_is_told_of_a_refusal_and_has_nothing_to_go_back_from(
    device: Device, mender: Mender, tmp_path: Path
) -> None:
    unsigned = make_bundle(tmp_path / "unsigned", is_signed=False)
    refused = mender.run("install", mender.artifact("unsigned", unsigned))
    assert refused.returncode != 0
    assert "Rolling back" in refused.stdout
    assert device.store.state().current is None
    assert mender.shown() == "image"


def test_ansible_installs_once_and_says_a_refusal(device: Device, tmp_path: Path) -> None:
    require((BIN / "ansible-playbook").exists(), "ansible-core is not installed (the extra `dev`)")
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text("edged: {hosts: {here: {ansible_connection: local}}}\n")

    def play(folder: Path) -> tuple[int, str]:
        more = {
            "edged_folder": str(folder),
            "edged_uploads": str(tmp_path / "uploads"),
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
        }
        words = [BIN / "ansible-playbook", "--inventory", inventory, PLAYBOOK]
        done = device.run(*words, "--extra-vars", json.dumps(more))
        return done.returncode, done.stdout

    good = make_bundle(tmp_path / "good")
    for changes in ("changed=3", "changed=0"):
        status, said = play(good)
        assert status == 0, said
        assert changes in said
    status, said = play(make_bundle(tmp_path / "unsigned", is_signed=False))
    assert status != 0
    assert "not signed" in said


def test_what_is_dropped_is_installed_or_refused_and_tried_again_while_another_is_at_work(
    device: Device, tmp_path: Path
) -> None:
    drop = tmp_path / "drop"
    for name in ("bad", "busy", "good"):
        (drop / f"{name}.ready").mkdir(parents=True)
    device.replace(install="case $4 in *bad*) exit 65 ;; *busy*) exit 75 ;; *) exit 0 ;; esac")
    unit = DROP.read_text("utf-8").replace("\\\n", " ")
    found = re.search(r"(?m)^ExecStart=/bin/sh -c '(.*)'$", unit)
    assert found is not None
    words = found[1].replace("$$", "$").replace("%%", "%")
    done = device.run("sh", "-c", words.replace("/var/lib/edged-models/drop", str(drop)))
    assert {path.name for path in drop.iterdir()} == {"bad.refused", "busy.ready"}
    assert done.returncode == 75
    assert "\nRestart=on-failure\n" in unit
