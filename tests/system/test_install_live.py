"""What ``edged install`` would do on the running system, with a systemctl that only writes down."""

import json
from pathlib import Path

import pytest

import edged
from edged.cli import main
from edged.commands.install import plan
from edged.commands.install.layout import InstallError, Layout
from edged.commands.install.steps import Command, Folder, Gone, Link
from edged.errors import ExitCode
from tests.tiny_model import write_tiny_bundle


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have ``systemctl`` write its words into a file; it fails where ``fail`` lists them."""
    programs = tmp_path / "programs"
    programs.mkdir()
    log = tmp_path / "called"
    script = (
        '#!/bin/sh\nif [ "$1" = --version ]; then echo "systemd 254 (254.1)"; exit; fi\n'
        f'echo "$*" >> {log}\n! grep --quiet --line-regexp -- "$*" {tmp_path}/fail 2>/dev/null\n'
    )
    for name in ("systemctl", "journalctl"):
        (programs / name).write_text(script, "utf-8")
        (programs / name).chmod(0o755)
    (programs / "journalctl").write_text("#!/bin/sh\necho what the journal says\n", "utf-8")
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(Layout, "is_live", property(lambda _self: True))
    return log


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system in which program and account are there."""
    root = tmp_path / "system"
    packages = root / "opt/edged/lib/python3.11/site-packages"
    (packages / f"edged-{edged.__version__}.dist-info").mkdir(parents=True)
    (root / "opt/edged/bin").mkdir()
    (root / "opt/edged/bin/edged").touch()
    (root / "etc").mkdir()
    (root / "etc/passwd").write_text("edged:x:1:1::/:/bin/sh\n", "utf-8")
    return root


@pytest.fixture
def install(root: Path, tmp_path: Path) -> list[str]:
    pytest.importorskip("onnx")
    bundle = write_tiny_bundle(tmp_path / "tiny")
    return ["install", "--root", str(root), "--model", str(bundle)]


def test_the_service_is_read_enabled_and_started_in_this_order(
    called: Path, install: list[str], tmp_path: Path
) -> None:
    (tmp_path / "fail").write_text("--quiet is-enabled edged.service\n", "utf-8")
    assert main(install) == 0
    assert called.read_text("utf-8").splitlines() == [
        "daemon-reload",
        "--quiet is-enabled edged.service",
        "enable edged.service",
        "restart edged.service",
    ]


def test_what_runs_unchanged_is_left_running(called: Path, install: list[str]) -> None:
    main(install)
    called.unlink()
    assert main(install) == 0
    assert all("--quiet is-" in line for line in called.read_text("utf-8").splitlines())


def test_it_need_not_be_started_now(called: Path, install: list[str]) -> None:
    assert main([*install, "--no-start"]) == 0
    assert "restart" not in called.read_text("utf-8")


def test_a_start_that_fails_shows_the_journal(
    called: Path, install: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail").write_text("restart edged.service\n", "utf-8")
    assert main(install) == ExitCode.CANNOT_CREATE
    assert "what the journal says" in capsys.readouterr().err


def test_a_newer_systemd_gets_the_back_off(called: Path, install: list[str], root: Path) -> None:
    main(install)
    drop_in = root / "etc/systemd/system/edged.service.d/20-backoff.conf"
    assert "RestartSteps=" in drop_in.read_text("utf-8")


def test_an_uninstallation_stops_the_service_first(
    called: Path, install: list[str], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(install)
    called.unlink()
    capsys.readouterr()
    words = ["uninstall", "--root", str(root), "--dry-run"]
    assert main(words) == 0
    assert not called.exists()
    said = capsys.readouterr().out
    assert said.index("disable --now edged.service") < said.index("daemon-reload")


def test_an_environment_is_made_and_filled_from_what_this_program_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(prefix=tmp_path / "prefix")
    make, fill = plan.program_steps(layout, "edged.whl")
    assert "-m venv" in str(make.todo())
    assert str(fill.todo()).endswith("install --quiet --upgrade edged.whl")

    class Installed:
        def __init__(self, origin: str | None) -> None:
            self._origin = origin

        def read_text(self, _name: str) -> str | None:
            return self._origin

    for origin, source in (
        (json.dumps({"url": f"file://{tmp_path}"}), str(tmp_path)),
        (json.dumps({"url": "file:///gone"}), f"edged=={edged.__version__}"),
        (None, f"edged=={edged.__version__}"),
    ):
        monkeypatch.setattr(plan, "distribution", lambda _name, o=origin: Installed(o))
        assert str(plan.program_steps(layout, None)[1].todo()).endswith(source)


def test_a_program_that_fails_or_is_missing_is_named() -> None:
    with pytest.raises(InstallError, match="try: false failed"):
        Command("try", ["false"]).apply()
    with pytest.raises(InstallError, match="try: no-such-program: No such file"):
        Command("try", ["no-such-program"]).apply()
    assert not plan.succeeds(["no-such-program"])


def test_a_service_that_waits_for_something_does_not_hold_up_who_installs_it(
    called: Path,
    install: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """systemctl itself would wait for its first answer for ever."""
    monkeypatch.setattr(plan, "START_LIMIT_S", 0.1)
    systemctl = called.with_name("programs") / "systemctl"
    script = systemctl.read_text("utf-8")
    systemctl.write_text(f'{script}[ "$1" != restart ] || exec sleep 600\n', "utf-8")
    assert main(install) == ExitCode.CANNOT_CREATE
    said = capsys.readouterr().err
    assert "restart edged.service: not complete after 0 s, and goes on" in said
    assert "what the journal says" in said


def test_a_step_that_is_done_has_nothing_to_do(tmp_path: Path) -> None:
    folder, link = Folder(tmp_path / "a", 0o700), Link(tmp_path / "b", Path("a"))
    for step in (folder, link):
        assert step.todo() is not None
        step.apply()
        assert step.todo() is None
    (tmp_path / "a").chmod(0o755)
    assert "mode" in str(folder.todo())
    (tmp_path / "c").touch()
    assert Link(tmp_path / "c", Path("a")).todo() is None, "a file of somebody else's"
    gone = Gone(tmp_path / "b")
    gone.apply()
    assert (gone.todo(), (tmp_path / "a").exists()) == (None, True)
