"""The systemd unit: valid, and as closed as it says."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.requirements import require

SYSTEMD = Path(__file__).resolve().parent.parent / "systemd"
UNIT = SYSTEMD / "edged.service"
ANALYZE = shutil.which("systemd-analyze")
# Tenths of systemd's "exposure" scale from 0 to 10. Ollama's unit scores 92, Redis' 12.
EXPOSURE_THRESHOLD = 10


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as installed, with a program that exists: verify looks whether it can be started."""
    require(ANALYZE, "systemd-analyze is not installed (apt-get install systemd)")
    path = tmp_path / "edged.service"
    path.write_text(UNIT.read_text("utf-8").replace("/opt/edged/bin/edged", "/bin/true"), "utf-8")
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; it needs no running systemd for these."""
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, check=False)


def directives() -> dict[str, str]:
    """Read the unit's settings; of a repeated one, the last."""
    return dict(re.findall(r"(?m)^(\w+)=(.*)$", UNIT.read_text("utf-8")))


def test_systemd_takes_the_unit_without_complaint(unit: Path) -> None:
    result = analyze("verify", str(unit))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_a_wrong_directive_is_noticed(unit: Path) -> None:
    unit.write_text(unit.read_text("utf-8").replace("WatchdogSec=60s", "WatchdogSec=soon"), "utf-8")
    assert "Failed to parse" in analyze("verify", str(unit)).stderr


def test_the_sandbox_is_as_closed_as_promised(unit: Path) -> None:
    threshold = f"--threshold={EXPOSURE_THRESHOLD}"
    result = analyze("security", "--offline=true", "--no-pager", threshold, str(unit))
    assert result.returncode == 0, result.stdout[-200:]


def test_systemd_waits_for_the_first_answer_and_watches_the_process() -> None:
    settings = directives()
    assert settings["Type"] == "notify"
    assert settings["WatchdogSec"] == "60s"


def test_a_wrong_configuration_is_not_restarted_and_anything_else_is() -> None:
    settings = directives()
    assert settings["Restart"] == "always"
    assert settings["RestartPreventExitStatus"] == "78"
    assert settings["StartLimitIntervalSec"] == "0"


def test_meminfo_stays_readable() -> None:
    # psutil and ONNX Runtime read /proc/meminfo and /proc/cpuinfo.
    assert "ProcSubset" not in directives()


def test_the_user_of_the_unit_is_the_one_sysusers_makes() -> None:
    made = re.findall(r"(?m)^u\s+(\S+)", (SYSTEMD / "edged.sysusers").read_text("utf-8"))
    assert made == [directives()["User"]]


@pytest.mark.parametrize(
    ("program", "file"),
    [("systemd-sysusers", "edged.sysusers"), ("systemd-tmpfiles", "edged.tmpfiles")],
)
def test_systemd_takes_the_files_beside_the_unit(program: str, file: str, tmp_path: Path) -> None:
    path = shutil.which(program)
    require(path, f"{program} is not installed (apt-get install systemd)")
    create = ["--create"] if program == "systemd-tmpfiles" else []
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n", "utf-8")
    command = [str(path), *create, f"--root={tmp_path}", str(SYSTEMD / file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    if create:
        credentials = tmp_path / "etc" / "edged" / "credentials"
        assert credentials.stat().st_mode & 0o777 == 0o700
    else:
        assert "\nedged:x:" in (tmp_path / "etc" / "passwd").read_text("utf-8")
