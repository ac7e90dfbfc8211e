"""Fixtures for a booted system: the package, and a machine with a model."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.once import made_once
from tests.paths import ROOT
from tests.requirements import require
from tests.system.boot.machine import Machine, missing
from tests.system.boot.packages import build_package
from tests.tiny_model import write_tiny_bundle

INSTALL = ROOT / "docs" / "install.md"
ASK = "edged ask --node kitchen --max-tokens 8 Hello"
DROP_INS = "/run/systemd/system/edged.service.d"


def prepared_system(debian: str) -> Path:
    """The folder that scripts/boot-root prepared for a release, if any."""
    command = [str(ROOT / "scripts" / "boot-root"), "--print", debian]
    folder = Path(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    )
    reason = f"no Debian {debian} to boot (as root: scripts/boot-root {debian})"
    require((folder / ".ready").exists(), reason)
    return folder


def documented_commands() -> list[str]:
    """The four commands of docs/install.md, as root types them."""
    text = INSTALL.read_text("utf-8")
    block = re.search(r"(?ms)^## Four commands$.*?^```sh\n(.*?)^```", text)
    assert block is not None
    lines = re.sub(r"\\\n\s*", "", block[1]).replace("sudo ", "").splitlines()
    assert len(lines) == 4
    return lines


def show(machine: Machine, *properties: str) -> dict[str, str]:
    """Read properties of the unit."""
    output = machine.run(f"systemctl show edged --property {','.join(properties)}").stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def wait_for(machine: Machine, condition: str) -> None:
    """Wait up to two minutes until a shell condition holds in the machine."""
    script = f"until {condition}; do sleep 0.1; done"
    result = machine.run(f"timeout 120 sh -c '{script}'", timeout_s=150)
    assert result.returncode == 0, f"never became true: {condition}\n{_log(machine)}"


def succeed(machine: Machine, script: str, *, timeout_s: float = 120.0) -> str:
    """Run a script that must succeed; return its output."""
    result = machine.run(script, timeout_s=timeout_s)
    assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}\n{_log(machine)}"
    return result.stdout


def _log(machine: Machine) -> str:
    return machine.run("journalctl --no-pager --unit 'edged*' --lines 30").stdout


@contextmanager
def booted(
    work: Path, *files: Path, debian: str = "13", below: Path | None = None
) -> Iterator[Machine]:
    """Boot a Debian with Mosquitto; /src has a model and ``files``, folders among them.

    ``below`` is what another machine wrote, which this one begins with.
    """
    require((reason := missing()) is None, f"a machine cannot be booted here: {reason}")
    system = prepared_system(debian)
    machine = Machine([system] if below is None else [below, system], work)
    if below is None:
        machine.file("/etc/hostname").write_text("kitchen\n", "utf-8")
        machine.file("/etc/hosts").write_text("127.0.0.1 localhost kitchen\n", "utf-8")
        # What the tests install need not reach the disk.
        machine.file("/etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n", "utf-8")
        write_tiny_bundle(machine.file("/src/smollm2-135m-instruct/here").parent)
    for file in files:
        copy = shutil.copytree if file.is_dir() else os.link
        copy(file, machine.file(f"/src/{file.name}"))
    try:
        machine.boot()
        yield machine
    finally:
        machine.cut_power()


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout for Debian 13."""
    return _package(tmp_path_factory, "13")


@pytest.fixture(scope="session")
def older_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for Debian 12."""
    return _package(tmp_path_factory, "12")


def _package(factory: pytest.TempPathFactory, debian: str) -> Path:
    folder = made_once(
        factory, f"package-{debian}", lambda folder: build_package(folder, "--debian", debian)
    )
    (package,) = folder.glob("*.deb")
    return package


@pytest.fixture(scope="session")
def with_edged(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a machine has written when edged is installed by the documented commands."""

    def make(folder: Path) -> None:
        with booted(folder, package) as machine:
            for command in documented_commands():
                succeed(machine, command, timeout_s=240)
            assert show(machine, "NRestarts") == {"NRestarts": "0"}

    return made_once(tmp_path_factory, "with-edged", make) / "upper"


def write_file(path: str, text: str) -> str:
    """Return the command that writes a file and creates its folder."""
    return f"mkdir -p $(dirname {path})\ncat > {path} << 'END'\n{text}\nEND\n"


@pytest.fixture(scope="module")
def installed(with_edged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with edged installed by the documented commands, ready."""
    with booted(tmp_path_factory.mktemp("machine"), below=with_edged) as machine:
        wait_for(machine, ASK)
        yield machine


@pytest.fixture
def machine(installed: Machine) -> Iterator[Machine]:
    """The same for a test that changes it; it is restored afterwards."""
    yield installed
    succeed(
        installed,
        f"rm -rf {DROP_INS}; systemctl daemon-reload; systemctl reset-failed edged || :;"
        " systemctl restart edged",
    )
    wait_for(installed, ASK)
