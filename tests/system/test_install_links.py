"""``edged install`` as root, while another user swaps files and folders for links (``swaps``)."""

import subprocess
import sys
from pathlib import Path

import pytest

from edged.cli import main
from edged.errors import ExitCode
from tests.paths import ROOT
from tests.system.swaps import SECRET, STEPS, contents
from tests.tiny_model import write_tiny_bundle


@pytest.fixture
def original(tmp_path: Path) -> Path:
    pytest.importorskip("onnx")
    return write_tiny_bundle(tmp_path / "original")


@pytest.fixture
def outside(tmp_path: Path, original: Path) -> Path:
    """A folder of root's with secrets under the names of a bundle, each of the right size."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for path in original.iterdir():
        size_bytes = path.stat().st_size
        (folder / path.name).write_text((SECRET * size_bytes)[:size_bytes], "utf-8")
    for name in ("edged.yaml", "secret"):
        (folder / name).write_text(SECRET, "utf-8")
    return folder


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(
    ("step", "swapped"),
    [
        *(("copy_a_model", name) for name in ("", "manifest.json", "tokenizer.json")),
        ("copy_a_model", "model.onnx.data"),
        *(("write_a_file", path) for path in ("etc", "etc/edged", "etc/edged/edged.yaml")),
        ("replace_a_model", "the folder of models"),
    ],
)
def test_a_step_of_an_installation_neither_reads_nor_changes_what_is_behind_a_link(
    tmp_path: Path, step: str, swapped: str
) -> None:
    command = [sys.executable, "-m", "tests.system.swaps", step, str(tmp_path), swapped]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{STEPS[step].__doc__}\n{ended.stderr}"


@pytest.mark.parametrize(
    "options", [("--ca-file", "mqtts://broker"), ("--password-file", "mqtt://edged@broker")]
)
def test_a_secret_is_not_installed_through_a_link(
    tmp_path: Path,
    original: Path,
    outside: Path,
    options: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, link = tmp_path / "system", tmp_path / "mine"
    (root / "etc").mkdir(parents=True)
    link.symlink_to(outside / "secret")
    option, broker = options
    words = ["install", "--root", str(root), "--model", str(original), "--broker", broker]
    assert main([*words, option, str(link)]) == ExitCode.USAGE
    assert f"{option}: cannot be read as a plain file" in capsys.readouterr().err
    assert contents(root) == {}
