"""The systemd unit: valid, and sandboxed as documented."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.requirements import require
from tests.system.newer import newer_program

Analyze = Callable[..., subprocess.CompletedProcess[str]]
SYSTEMD = ROOT / "systemd"
UNIT = SYSTEMD / "edged.service"
UNITS = ["edged.service", "edged@.service"]
# Tenths of systemd's "exposure" scale from 0 to 10. Ollama's unit scores 92, Redis' 12.
EXPOSURE_THRESHOLD = 10


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as installed, with a program that exists: verify looks whether it can be started."""
    text = (SYSTEMD / str(request.param)).read_text("utf-8")
    path = tmp_path / str(request.param).replace("@", "@kitchen")
    path.write_text(text.replace("/opt/edged/bin/edged", "/bin/true"), "utf-8")
    return path


@pytest.fixture(params=["installed", "newer"])
def analyze(request: pytest.FixtureRequest) -> Analyze:
    """Run systemd-analyze, this machine's and a newer one; neither needs a running systemd."""
    installed = shutil.which("systemd-analyze")
    require(installed, "systemd-analyze is not installed (apt-get install systemd)")
    newer = request.param == "newer"
    program = newer_program("bin/systemd-analyze") if newer else [str(installed)]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run


def complaints(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What was said of our units; a newer systemd has words for this machine's others, too."""
    said = (result.stdout + result.stderr).splitlines()
    return [line for line in said if not line.startswith("/usr/lib/systemd/")]


def directives() -> dict[str, str]:
    """Read the unit's settings; of a repeated one, the last."""
    return dict(re.findall(r"(?m)^(\w+)=(.*)$", UNIT.read_text("utf-8")))


def test_systemd_accepts_the_unit_without_warnings(unit: Path, analyze: Analyze) -> None:
    result = analyze("verify", str(unit))
    assert (result.returncode, complaints(result)) == (0, [])


def test_a_wrong_directive_is_detected(unit: Path, analyze: Analyze) -> None:
    unit.write_text(unit.read_text("utf-8").replace("WatchdogSec=60s", "WatchdogSec=soon"), "utf-8")
    assert "Failed to parse" in "".join(complaints(analyze("verify", str(unit))))


def test_the_exposure_of_the_sandbox_is_within_its_limit(unit: Path, analyze: Analyze) -> None:
    threshold = f"--threshold={EXPOSURE_THRESHOLD}"
    result = analyze("security", "--offline=true", "--no-pager", threshold, str(unit))
    assert result.returncode == 0, result.stdout[-200:]


def test_systemd_waits_for_ready_and_supervises_the_process() -> None:
    settings = directives()
    assert settings["Type"] == "notify"
    assert settings["WatchdogSec"] == "60s"


def test_only_a_wrong_configuration_prevents_a_restart() -> None:
    settings = directives()
    assert settings["Restart"] == "always"
    assert settings["RestartPreventExitStatus"] == "78"
    assert settings["StartLimitIntervalSec"] == "0"


def test_the_template_unit_differs_only_in_its_names() -> None:
    instance = (SYSTEMD / "edged@.service").read_text("utf-8").splitlines()
    plain = UNIT.read_text("utf-8").splitlines()
    own = {
        f"{line} -> {other}"
        for line, other in zip(plain, instance, strict=True)
        if line != other and not line.startswith("#")
    }
    about = "Description=edged {}- resident on-device language model answering over MQTT"
    assert own == {
        f"{about.format('')} -> {about.format('%i ')}",
        *(
            f"Exec{verb}/opt/edged/bin/edged {command} --config /etc/edged/edged.yaml -> "
            f"Exec{verb}/opt/edged/bin/edged {command} --config /etc/edged/%i.yaml"
            for verb, command in (
                ("Start=", "run"),
                ("Reload=", "check"),
                ("StopPost=-+", "model settle"),
            )
        ),
        "BindPaths=/run/edged -> BindPaths=/run/edged-%i",
        "StateDirectory=edged -> StateDirectory=edged-%i",
        "RuntimeDirectory=edged -> RuntimeDirectory=edged-%i",
        "WorkingDirectory=/run/edged -> WorkingDirectory=/run/edged-%i",
    }


def test_a_newer_systemd_accepts_the_backoff_and_an_older_one_only_warns(
    analyze: Analyze, tmp_path: Path
) -> None:
    folder = tmp_path / "edged.service.d"
    folder.mkdir()
    shutil.copy(SYSTEMD / "edged-backoff.conf", folder)
    unit = tmp_path / "edged.service"
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/edged/bin/edged", "/bin/true"), "utf-8")
    result = analyze("verify", str(unit))
    unknown = set(re.findall(r"Unknown key(?: name)? '(\w+)'", result.stderr))
    (version,) = re.findall(r"(?m)^systemd (\d+)", analyze("--version").stdout)
    assert result.returncode == 0
    assert unknown == (set() if int(version) >= 254 else {"RestartSteps", "RestartMaxDelaySec"})


def test_a_reload_checks_the_configuration_before_the_signal() -> None:
    commands = re.findall(r"(?m)^ExecReload=(.*)$", UNIT.read_text("utf-8"))
    assert commands == [
        "/opt/edged/bin/edged check --config /etc/edged/edged.yaml",
        "/bin/kill -HUP $MAINPID",
    ]


def test_meminfo_is_readable() -> None:
    # psutil and ONNX Runtime read /proc/meminfo and /proc/cpuinfo.
    assert "ProcSubset" not in directives()


def test_of_run_the_service_sees_its_own_folder_notifications_and_where_names_are_found() -> None:
    text = UNIT.read_text("utf-8")
    assert directives()["TemporaryFileSystem"] == "/run:ro"
    assert re.findall(r"(?m)^BindPaths=(.*)$", text) == ["/run/edged"]
    shown = " ".join(re.findall(r"(?m)^BindReadOnlyPaths=(.*)$", text)).split()
    assert shown[0] == "/run/systemd/notify"
    # All optional: another machine has other ones.
    assert all(path.startswith("-/run/") and "dbus" not in path for path in shown[1:])


def test_sysusers_creates_the_user_of_the_unit() -> None:
    made = re.findall(r"(?m)^u\s+(\S+)", (SYSTEMD / "edged.sysusers").read_text("utf-8"))
    assert made == [directives()["User"]]


@pytest.mark.parametrize(
    ("program", "file"),
    [("systemd-sysusers", "edged.sysusers"), ("systemd-tmpfiles", "edged.tmpfiles")],
)
def test_systemd_accepts_the_other_files(program: str, file: str, tmp_path: Path) -> None:
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
