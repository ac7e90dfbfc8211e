"""What fleets run to bring a model: each hook calls the real command."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
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
        command = folder / "bin" / "edged"
        command.parent.mkdir()
        options = f"--store {store} --config {config} --no-reload"
        command.write_text(
            f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m edged "$@" {options}\n'
        )
        command.chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{command.parent}:{BIN}:{os.environ['PATH']}"}
        self.store = Store(store / "model", Disk())

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
    device.store.begin(device.store.stage(filled))
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
