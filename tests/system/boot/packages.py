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
    path = folder / f"newer-{package.name}"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(files), str(path)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return path
