"""Programs of a newer Debian than this machine's, which scripts/newer-debian fetched."""

import subprocess
from pathlib import Path

from tests.paths import ROOT
from tests.requirements import require


def newer_libraries() -> Path:
    """Where the libraries of the newer Debian are; its root is three folders up."""
    script = [str(ROOT / "scripts" / "newer-debian"), "--print"]
    said = subprocess.run(script, check=True, capture_output=True, text=True).stdout.strip()
    require(Path(said, ".ready").exists(), "no newer Debian (scripts/newer-debian)")
    (libraries,) = Path(said, "usr", "lib").glob("*-linux-gnu")
    return libraries


def newer_program(name: str) -> list[str]:
    """How to start one of its programs, such as ``bin/systemd-analyze``, with its own libraries."""
    libraries = newer_libraries()
    (loader,) = libraries.glob("ld-linux-*")
    search = f"{libraries}:{libraries / 'systemd'}"
    return [str(loader), "--library-path", search, str(libraries.parent.parent / name)]
