"""The Debian package for arm64, in an emulated Debian for arm64."""

import subprocess
from pathlib import Path

import pytest

from tests.system.boot.packages import ACCOUNTS, LISTING, build_package
from tests.system.emulation.containers import debian, require_emulation

ENTER = Path(__file__).with_name("enter.sh")
TIMEOUT_S = 600.0
UNUSED = "'(' -name tests -o -name huggingface_hub -o -path '*/onnxruntime/tools' ')'"
# Each file of each package is compiled in emulation. An upgrade is tested on this machine's own
# architecture (tests/system/boot): the scripts of the package are the same.
pytestmark = pytest.mark.timeout(1800)


def test_the_arm64_package_installs_and_purges_cleanly(tmp_path: Path) -> None:
    require_emulation()
    package = build_package(tmp_path, "arm64", "--debian", "13")

    def run(script: str) -> str:
        enter = ["unshare", "--mount", str(ENTER), str(debian("arm64")), str(tmp_path / "pi")]
        command = [*enter, str(tmp_path), "/bin/sh", "-ec", script]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        assert result.returncode == 0, f"{script}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    before, accounts = run(LISTING), run(ACCOUNTS)
    assert run("dpkg --print-architecture; uname --machine").split() == ["arm64", "aarch64"]
    run(f"dpkg --install /mnt/{package.name}")
    version = run("edged --version").split()[-1]
    assert run("dpkg-query --show --showformat '${Version}' edged") == f"{version}~deb13"
    assert "edged" in run(ACCOUNTS).split()
    # Each would be compiled at every installation, and none of it is ever loaded.
    assert run(f"find /usr/lib/edged/lib -type d {UNUSED}") == ""
    run("dpkg --purge edged")
    assert run(LISTING) == before
    assert run(ACCOUNTS) == accounts
