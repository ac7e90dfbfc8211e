"""``scripts/setup``: which build of torch it takes, from an index of wheels that a test made."""

import os
import platform
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.requirements import require

UNAVAILABLE = 69


@pytest.fixture(autouse=True)
def is_x86() -> None:
    """Only there the default index serves CUDA."""
    require(platform.machine() == "x86_64", "an x86-64 machine")


def torch_pin() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras: list[str] = project["project"]["optional-dependencies"]["build"]
    return next(one.removeprefix("torch==") for one in extras if one.startswith("torch=="))


def write_wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel without code."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    required = f"Requires-Dist: {requires}\n" if requires else ""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
    folder.mkdir(parents=True, exist_ok=True)
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def cuda_wheels(tmp_path: Path) -> Path:
    """What a default index has: torch, which needs CUDA."""
    folder = tmp_path / "wheels"
    write_wheel(folder, "torch", torch_pin(), "nvidia-cublas")
    write_wheel(folder, "nvidia-cublas", "13.0")
    return folder


@pytest.fixture
def cpu_index(tmp_path: Path) -> Iterator[str]:
    """The address of an index with a CPU build of torch."""
    folder = tmp_path / "index" / "torch"
    write_wheel(folder, "torch", f"{torch_pin()}+cpu")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def set_up(tmp_path: Path, wheels: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it with no other wheels, so that it ends before anything is installed."""
    venv = tmp_path / "venv"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        (venv / "bin" / "uv").symlink_to(Path(sys.prefix) / "bin" / "uv")
    return run_setup(venv, wheels, **variables)


def run_setup(venv: Path, wheels: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run it with the wheels of a folder."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PIP_")},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": str(wheels),
        "PIP_NO_CACHE_DIR": "1",
        "PYTHON": sys.executable,
        **variables,
    }
    command = [str(ROOT / "scripts" / "setup"), "--venv", str(venv), "build"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_build_with_cuda_is_not_fetched_unasked(tmp_path: Path, cuda_wheels: Path) -> None:
    nowhere = {"EDGED_TORCH_INDEX": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    ended = set_up(tmp_path, cuda_wheels, **nowhere)
    assert ended.returncode == UNAVAILABLE
    assert f"serves torch=={torch_pin()} with CUDA only" in ended.stderr
    assert "EDGED_CUDA=1" in ended.stderr
    assert "installing edged" in ended.stdout
    asked = set_up(tmp_path, cuda_wheels, EDGED_CUDA="1", **nowhere)
    assert "with CUDA only" not in asked.stderr
    assert "torch is 200 MB" in asked.stdout


def test_the_cpu_build_is_taken_from_its_index(
    tmp_path: Path, cuda_wheels: Path, cpu_index: str
) -> None:
    # Its own index in place of the default one, which the test must not ask.
    index = {"EDGED_TORCH_INDEX": cpu_index, "PIP_INDEX_URL": cpu_index, "PIP_RETRIES": "0"}
    ended = set_up(tmp_path, cuda_wheels, **index)
    assert f"taking the CPU build of torch from {cpu_index}" in ended.stdout
    assert "with CUDA only" not in ended.stderr


def test_the_interpreter_that_is_named_is_taken_from_a_path_with_blanks(tmp_path: Path) -> None:
    python = tmp_path / "a b" / "python"
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    ended = run_setup(tmp_path / "c d", tmp_path, PYTHON=str(python), PIP_NO_INDEX="1")
    assert ended.returncode == UNAVAILABLE  # as there are no wheels
    assert f"setup: making {tmp_path}/c d with Python" in ended.stdout
    assert "installing edged" in ended.stdout
