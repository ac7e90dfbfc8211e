"""scripts/release: what it makes, from which others can tell what they got."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import edged
from tests.paths import ROOT
from tests.requirements import require

VERSION = edged.__version__
WHEEL = f"edged-{VERSION}-py3-none-any.whl"
SDIST = f"edged-{VERSION}.tar.gz"
SBOM = f"edged-{VERSION}.cdx.json"
PACKAGE = f"edged_{VERSION}.deb12_amd64.deb"


def run(
    *command: str | Path, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with variables of the environment; return what it said."""
    words = [str(word) for word in command]
    environment = {**os.environ, **variables}
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def release(folder: Path, key: Path | None = None) -> str:
    """Make a release with one Debian package, as fast as possible; return what was said."""
    options = ["--without", "images", "--package", "amd64:12", "--compression", "none", "--dirty"]
    script = ROOT / "scripts" / "release"
    made = run(script, *options, "--output", folder, RELEASE_KEY=str(key or ""))
    assert made.returncode == 0, made.stderr
    return made.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the signed `release`, its `key.pem` and `key.pub`."""
    for program in ("dpkg-deb", "openssl", "git"):
        require(shutil.which(program), f"{program} is missing")
    for module in ("hatchling", "cyclonedx"):
        require(find_spec(module), f"{module} is not installed (the extra `dev`)")
    folder = tmp_path_factory.mktemp("made")
    key = folder / "key.pem"
    run("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
    run("openssl", "ec", "-in", key, "-pubout", "-out", folder / "key.pub")
    release(folder / "release", key)
    return folder


@pytest.fixture(scope="module")
def sbom(made: Path) -> dict[str, Any]:
    """The release's SBOM."""
    document: dict[str, Any] = json.loads((made / "release" / SBOM).read_text("utf-8"))
    return document


def test_the_sums_are_those_of_all_files(made: Path) -> None:
    folder = made / "release"
    lines = (folder / "SHA256SUMS").read_text("utf-8").splitlines()
    named = {line[66:] for line in lines}
    assert named == {WHEEL, SDIST, SBOM, PACKAGE}
    assert {path.name for path in folder.iterdir()} == named | {"SHA256SUMS", "SHA256SUMS.sig"}
    checked = run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=folder)
    assert checked.returncode == 0, checked.stderr


def test_the_signature_is_checked_by_the_documented_command(made: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "install.md").read_text("utf-8")
    (command,) = re.findall(r"(?m)^openssl dgst .*$", page)
    shutil.copy(made / "key.pub", tmp_path / "edged-release.pub")
    for name in ("SHA256SUMS", "SHA256SUMS.sig"):
        shutil.copy(made / "release" / name, tmp_path)
    assert run(*command.split(), cwd=tmp_path).stdout == "Verified OK\n"
    with (tmp_path / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        sums.write(f"{'0' * 64}  another.deb\n")
    assert run(*command.split(), cwd=tmp_path).returncode == 1


def test_a_second_run_makes_the_same_bytes_and_no_signature_without_a_key(
    made: Path, tmp_path: Path
) -> None:
    said = release(tmp_path / "again")
    sums = (tmp_path / "again" / "SHA256SUMS").read_text("utf-8")
    assert sums == (made / "release" / "SHA256SUMS").read_text("utf-8")
    assert "not signed: RELEASE_KEY names no key" in said
    assert not (tmp_path / "again" / "SHA256SUMS.sig").exists()


def test_the_sbom_keeps_to_the_schema(made: Path) -> None:
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415 - comes with the extra `dev`
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    text = (made / "release" / SBOM).read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert json.loads(text)["specVersion"] == "1.6"


def test_the_sbom_has_the_locked_packages_with_hashes_and_licences(sbom: dict[str, Any]) -> None:
    locked = {}
    (lock, *_) = sorted((ROOT / "deploy").glob("requirements*.lock"))  # the one of Debian 12
    for entry in re.split(r"(?m)^(?=[a-z])", lock.read_text("utf-8"))[1:]:
        purl = "pkg:pypi/" + entry.split()[0].replace("==", "@")
        locked[purl] = set(re.findall(r"sha256:(\w+)", entry))
    found = {
        component["purl"]: {h["content"] for h in component["hashes"] if h["alg"] == "SHA-256"}
        for component in sbom["components"]
    }
    assert found.keys() == locked.keys()
    # A version that both lock files have is listed once, with the hashes of both.
    assert all(locked[purl] <= hashes for purl, hashes in found.items())
    assert all(component["licenses"] for component in sbom["components"])


def test_the_sbom_is_of_the_wheel_and_says_what_it_requires(
    made: Path, sbom: dict[str, Any]
) -> None:
    own = sbom["metadata"]["component"]
    digest = hashlib.sha256((made / "release" / WHEEL).read_bytes()).hexdigest()
    assert (own["name"], own["version"]) == ("edged", VERSION)
    assert own["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert own["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    (wanted,) = [x["dependsOn"] for x in sbom["dependencies"] if x["ref"] == own["bom-ref"]]
    names = {ref.partition("@")[0] for ref in wanted}
    assert {"onnxruntime", "paho-mqtt"} <= names
    assert "anyio" not in names  # which another package requires


def test_the_sdist_has_what_the_wheel_is_made_from_and_no_more(made: Path, tmp_path: Path) -> None:
    with tarfile.open(made / "release" / SDIST) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    tops = {name.partition("/")[0] for name in names}
    documents = {"CHANGELOG.md", "LICENSE", "README.md", "PKG-INFO"}
    assert tops == {"edged", "systemd", "pyproject.toml", ".gitignore"} | documents
    assert not [name for name in names if name.endswith((".onnx", ".safetensors", ".npz"))]
    epoch = run("git", "log", "-1", "--format=%ct", cwd=ROOT).stdout.strip()
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    source = tmp_path / f"edged-{VERSION}"
    built = run(*command, tmp_path / "wheel", cwd=source, SOURCE_DATE_EPOCH=epoch)
    assert built.returncode == 0, built.stderr
    wheel = (tmp_path / "wheel" / WHEEL).read_bytes()
    assert wheel == (made / "release" / WHEEL).read_bytes()


def test_the_wheel_has_the_program_without_tests_and_models(made: Path) -> None:
    names = zipfile.ZipFile(made / "release" / WHEEL).namelist()
    assert {name.partition("/")[0] for name in names} == {"edged", f"edged-{VERSION}.dist-info"}
    assert not [name for name in names if name.endswith((".onnx", ".safetensors", ".npz"))]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the script, of version 9.9.9, without changes."""
    script = tmp_path / "scripts" / "release"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "release", script)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 9.9.9\n", "utf-8")
    python.chmod(0o755)
    (tmp_path / ".gitignore").write_text(".venv\n", "utf-8")
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", "add", ".", cwd=tmp_path)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    run("git", *identity, "commit", "--quiet", "--message", "all", cwd=tmp_path)
    return tmp_path


def test_changes_that_are_not_committed_are_refused(checkout: Path) -> None:
    (checkout / "new.py").touch()
    refused = run(checkout / "scripts" / "release")
    assert refused.returncode == 65
    assert "changes that are not committed" in refused.stderr
    assert "?? new.py" in refused.stderr


def test_a_tag_of_another_version_is_refused(checkout: Path) -> None:
    run("git", "tag", "v9.9.8", cwd=checkout)
    refused = run(checkout / "scripts" / "release")
    assert refused.returncode == 65
    assert "the tag of this commit is v9.9.8" in refused.stderr
    assert "has version 9.9.9" in refused.stderr


def test_a_key_that_cannot_sign_is_refused_before_the_work(checkout: Path) -> None:
    refused = run(checkout / "scripts" / "release", RELEASE_KEY="none.pem")
    assert refused.returncode == 66
    assert "RELEASE_KEY: none.pem is no private ECDSA key" in refused.stderr
    assert not (checkout / "dist").exists()


def test_the_workflow_keeps_to_its_schema() -> None:
    require(find_spec("check_jsonschema"), "check-jsonschema is not installed (the extra `dev`)")
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    checked = run(sys.executable, *words, ROOT / ".github" / "workflows" / "ci.yml")
    assert checked.returncode == 0, checked.stdout
