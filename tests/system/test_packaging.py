"""What is shipped: the wheel, the base install, the lock file, the files to deploy."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import edged
import edged_conformance
from edged.config.load import load_config
from tests.paths import ROOT
from tests.requirements import require

BUILD_TOOLS = {
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnx-ir",
    "accelerate",
    "gguf",
    "model-signing",
}

# What downloads models: no device does.
DOWNLOADERS = {"huggingface-hub", "hf-xet", "httpx", "requests"}


def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def name_of(requirement: str) -> str:
    """The package of a requirement line, normalised."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def build_wheel(project: Path, folder: Path) -> zipfile.ZipFile:
    """Build a project's wheel by the build back end itself: nothing is fetched."""
    require(find_spec("hatchling"), "hatchling is not installed (the extra `dev`)")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    subprocess.run([*command, str(folder)], cwd=project, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def contents(wheel: zipfile.ZipFile) -> set[str]:
    """The files of a wheel but for its metadata."""
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def files_in(folder: Path, name: str) -> set[str]:
    """The files in a folder of the repository, by their paths in a wheel."""
    return {
        f"{name}/{path.relative_to(folder)}"
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of edged."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    """The wheel's METADATA."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_contains_only_the_package_and_its_units(
    wheel: zipfile.ZipFile,
) -> None:
    units = files_in(ROOT / "systemd", "edged/commands/install/systemd")
    assert len(units) == 5
    assert contents(wheel) == files_in(ROOT / "edged", "edged") | units


def test_the_installed_units_are_found(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "from edged.commands.install.layout import UNIT_FILES; print(*UNIT_FILES.iterdir())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert str(tmp_path / "edged/commands/install/systemd/edged.service") in found.stdout.split()


def test_the_conformance_kit_is_a_separate_wheel_that_runs_without_edged(tmp_path: Path) -> None:
    kit = ROOT / "tests" / "conformance"
    wheel = build_wheel(kit, tmp_path / "wheel")
    modules = files_in(kit / "edged_conformance", "edged_conformance")
    assert contents(wheel) == modules | files_in(kit / "cases", "edged_conformance/cases")
    wheel.extractall(tmp_path / "installed")
    code = (
        "import sys; sys.modules['edged'] = None; from edged_conformance.__main__ import main;"
        " print(main(['--list']), sys.modules['edged_conformance'].__file__)"
    )
    command = [sys.executable, "-c", code]
    listed = subprocess.run(
        command, cwd=tmp_path / "installed", check=True, capture_output=True, text=True
    )
    assert len(listed.stdout.splitlines()) >= 150
    place = tmp_path / "installed" / "edged_conformance" / "__init__.py"
    assert listed.stdout.splitlines()[-1] == f"0 {place}"


def test_the_conformance_kit_has_the_version_of_edged() -> None:
    assert edged_conformance.__version__ == edged.__version__


def test_the_wheel_is_marked_as_typed(wheel: zipfile.ZipFile) -> None:
    assert "edged/py.typed" in wheel.namelist()


def test_the_wheel_has_version_licence_and_command(
    wheel: zipfile.ZipFile, metadata: Message
) -> None:
    assert metadata["Version"] == edged.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    names = wheel.namelist()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
    assert b"edged = edged.cli:main" in wheel.read(entry_points)


def test_a_device_gets_no_build_tool(metadata: Message) -> None:
    base = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert base
    assert not {name_of(line) for line in base} & BUILD_TOOLS


LOCKS = [ROOT / "deploy" / f"requirements-{python}.lock" for python in ("3.11", "3.13")]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_lock_file_satisfies_the_base_dependencies(lock: Path) -> None:
    from packaging.requirements import Requirement  # noqa: PLC0415 - comes with the test tools

    text = lock.read_text("utf-8")
    locked = dict(re.findall(r"(?m)^([a-z0-9._-]+)==(\S+)", text))
    for line in project()["dependencies"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[name_of(line)]), f"run scripts/lock: {line}"
    assert not locked.keys() & (BUILD_TOOLS | DOWNLOADERS)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_locked_package_has_a_hash(lock: Path) -> None:
    text = lock.read_text("utf-8")
    packages = re.split(r"(?m)^(?=[a-z])", text)[1:]
    assert packages
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", package) for package in packages)


def test_the_example_configuration_is_valid() -> None:
    path = ROOT / "deploy" / "edged.yaml"
    config = load_config(path.read_text("utf-8"), "/etc/edged/edged.yaml")
    assert config.model.path == Path("/var/lib/edged-models/smollm2-135m-instruct")
    assert str(config.state.file) == "/run/edged/state.json"


def test_the_example_configuration_is_valid_with_its_comments_enabled() -> None:
    text = (ROOT / "deploy" / "edged.yaml").read_text("utf-8")
    text = re.sub(r"(?m)^( *)# ( *\w+:(?: \S+)?)$", r"\1\2", text)
    config = load_config(text, "/etc/edged/edged.yaml")
    assert config.node == "kitchen"
    assert (config.broker.username, config.security.identity) == ("edged", "required")


def test_the_budget_of_the_example_is_below_the_limit_of_the_unit() -> None:
    unit = (ROOT / "systemd" / "edged.service").read_text("utf-8")
    limit = re.search(r"(?m)^MemoryMax=(\d+)M$", unit)
    config = load_config((ROOT / "deploy" / "edged.yaml").read_text("utf-8"), "edged.yaml")
    assert limit is not None
    assert config.budget.memory_bytes is not None
    assert config.budget.memory_bytes < int(limit[1]) * 1024**2


def test_container_and_unit_start_edged_in_the_same_environment() -> None:
    unit = (ROOT / "systemd" / "edged.service").read_text("utf-8")
    dockerfile = (ROOT / "Dockerfile.arm64").read_text("utf-8")
    variables = re.search(r"(?m)^Environment=(.*)$", unit)
    assert variables is not None
    for variable in variables[1].split():
        assert variable in dockerfile


def test_the_changelog_has_this_version() -> None:
    assert f"## [{edged.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
