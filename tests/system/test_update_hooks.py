"""What fleets run to bring a model: each hook calls the real command."""

import json
import os
import subprocess
import sys
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


def test_mender_installs_and_goes_back(device: Device, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "tmp").mkdir(parents=True)
    make_bundle(tree / "files")
    answers = {"SupportsRollback": "Yes\n", "NeedsArtifactReboot": "No\n"}
    assert {state: device.run(MENDER, state, tree).stdout for state in answers} == answers
    done = device.run(MENDER, "ArtifactInstall", tree)
    assert done.returncode == 0, done.stderr
    first = device.store.state().current
    assert first is not None
    assert device.run(MENDER, "ArtifactCommit", tree).returncode == 0
    # Another one is accepted, and another part of the update fails.
    device.store.begin(device.store.stage(filled))
    device.store.commit("tiny", 0)
    assert device.run(MENDER, "ArtifactRollback", tree).returncode == 0
    assert device.store.state().current == first


def filled(folder: Path) -> str:
    make_bundle(folder)
    return "another"


def test_mender_is_told_of_a_refusal_and_has_nothing_to_go_back_from(
    device: Device, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "tmp").mkdir(parents=True)
    make_bundle(tree / "files", is_signed=False)
    refused = device.run(MENDER, "ArtifactInstall", tree)
    assert refused.returncode != 0
    assert "not signed" in refused.stderr
    assert device.run(MENDER, "ArtifactRollback", tree).returncode == 0
    assert device.store.state().current is None


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
