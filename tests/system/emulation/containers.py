"""The container image, built from scratch and run with podman in a persistent store."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.paths import ROOT
from tests.requirements import require
from tests.system.boot.machine import missing

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edged" / "containers"
BUILD_TIMEOUT_S = 1200.0
RUN_TIMEOUT_S = 300.0


def require_emulation() -> None:
    """Skip, or fail in CI, if nothing can be mounted or arm64 programs cannot run."""
    require((reason := missing()) is None, f"nothing can be mounted here: {reason}")
    if os.uname().machine != "aarch64":
        subprocess.run([str(ROOT / "scripts" / "emulate-arm64")], check=True)


def debian(architecture: str) -> Path:
    """The folder that scripts/debian-root prepared, if any."""
    command = [str(ROOT / "scripts" / "debian-root"), "--print", architecture]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    reason = f"no Debian for {architecture} (as root: scripts/debian-root {architecture})"
    require(Path(said, ".ready").exists(), reason)
    return Path(said)


def _environment() -> dict[str, str]:
    """Use a separate store: containers of the host are neither used nor changed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    settings = CACHE / "storage.conf"
    settings.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{CACHE}/store"\nrunroot = "{CACHE}/run"\n',
        "utf-8",
    )
    return os.environ | {"CONTAINERS_STORAGE_CONF": str(settings)}


def podman(*words: str, status: int = 0) -> str:
    """Run podman, which must exit with this status; return its output."""
    result = subprocess.run(
        # runc: crun refuses a host with both versions of control groups mounted.
        ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", *words],
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=RUN_TIMEOUT_S,
    )
    assert result.returncode == status, f"{words}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(architecture: str) -> str:
    """Build the image for an architecture from a prepared Debian; return its name."""
    for program in ("podman", "runc"):
        require(shutil.which(program), f"{program} is not installed (apt-get install {program})")
    require_emulation()
    debian(architecture)
    name = f"localhost/edged-test:{architecture}"
    words = [str(ROOT / "scripts" / "build-image"), architecture, "--own-base", "--tag", name]
    result = subprocess.run(
        words,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_TIMEOUT_S,
    )
    assert result.returncode == 0, result.stderr
    podman("image", "prune", "--force", "--filter", "until=168h")
    return name


def inspect(image: str) -> dict[str, Any]:
    """Return the metadata of the image."""
    (found,) = json.loads(podman("image", "inspect", image))
    assert isinstance(found, dict)
    return found


@contextmanager
def files(image: str) -> Iterator[Path]:
    """Mount the files of the image."""
    try:
        yield Path(podman("image", "mount", image).strip())
    finally:
        podman("image", "unmount", image)


def documented_options(volumes: dict[str, Path]) -> list[str]:
    """Return the options of ``docker run`` in deploy/README.md, with other folders as volumes."""
    text = (ROOT / "deploy" / "README.md").read_text("utf-8")
    block = re.search(r"(?ms)^docker run (.*?)^```", text)
    assert block is not None
    *options, image = shlex.split(block[1].replace("\\\n", " "))
    assert image == "edged:arm64"
    for place, folder in volumes.items():
        at = options.index(f"{place}:{place}:ro")
        options[at] = f"{folder}:{place}:ro"
    return options


def allowances() -> list[str]:
    """Return options for podman instead of docker, on a host whose root may not raise limits."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        "--read-only-tmpfs=false",
        "--ulimit",
        f"nofile={most}:{most}",
        "--ulimit",
        "nproc=4096:4096",
    ]
