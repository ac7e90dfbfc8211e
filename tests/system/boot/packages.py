"""The Debian package for the tests: a build, a newer version, and files that may remain."""

import subprocess
from pathlib import Path

from tests.paths import ROOT

# Not from edged: files that a running system writes.
LISTING = (
    "find / -xdev -path /src -prune -o -path /tmp -prune -o -path /var/log -prune"
    " -o -path /var/cache -prune -o -path '/var/lib/apt' -prune -o -path '/var/lib/systemd' -prune"
    " -o -path /var/lib/mosquitto -prune -o -name '*-' -o -name .pwd.lock -o -print | sort"
)
ACCOUNTS = "cut -d: -f1 /etc/passwd /etc/group | sort"


def build_package(folder: Path, *words: str) -> Path:
    """Build the package of this checkout, without compression; ``words`` say for which system."""
    script = str(ROOT / "scripts" / "build-deb")
    command = [script, *words, "--compression", "none", "--output", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.splitlines()[-1])


def newer_package(package: Path, folder: Path) -> Path:
    """Make the same package with a higher version."""
    files = folder / "files"
    subprocess.run(["dpkg-deb", "--raw-extract", str(package), str(files)], check=True)
    control = files / "DEBIAN" / "control"
    text = control.read_text("utf-8")
    control.write_text(text.replace("\nArchitecture", "+newer\nArchitecture", 1), "utf-8")
    return _pack(files, folder / f"newer-{package.name}")


def python_package(system: Path, folder: Path) -> Path:
    """Pack the Python of a Debian 12: it stays installed when the system is upgraded to 13."""
    files = folder / "files"
    control = files / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    names = ("usr/bin/python3.11", "usr/lib/python3.11")
    subprocess.run(["cp", "-a", "--parents", *names, str(files)], cwd=system, check=True)
    lines = ("Package: python3.11", "Version: 3.11", "Architecture: all", "Maintainer: test")
    control.write_text("\n".join([*lines, "Description: for a test", ""]), "utf-8")
    return _pack(files, folder / "python3.11.deb")


def _pack(files: Path, path: Path) -> Path:
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(files), str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path
