"""``edged install`` on the running system, with a fake systemctl that records its calls."""

import errno
import os
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

import edged
from edged.cli import main
from edged.commands.install import command, files
from edged.commands.install.layout import InstallError, Layout
from edged.commands.install.machine import Machine, succeeds
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


def test_the_unit_is_reloaded_enabled_and_started_in_this_order(
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


def test_an_unchanged_service_keeps_running(called: Path, install: list[str]) -> None:
    main(install)
    called.unlink()
    assert main(install) == 0
    assert all("--quiet is-" in line for line in called.read_text("utf-8").splitlines())


def test_starting_now_can_be_omitted(called: Path, install: list[str]) -> None:
    assert main([*install, "--no-start"]) == 0
    assert "restart" not in called.read_text("utf-8")


@pytest.mark.parametrize("how", ["killed", "not started"])
def test_what_an_earlier_command_left_undone_is_done_by_the_next(
    called: Path, install: list[str], root: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(install)
    if how == "killed":
        with monkeypatch.context() as patch:
            patch.setattr(command, "_enable", Mock(side_effect=KeyboardInterrupt))
            assert main([*install, "--budget", "1G"]) == 130
    else:
        assert main([*install, "--budget", "1G", "--no-start"]) == 0
    assert main([*install, "--dry-run"]) == 0
    for expected in (["daemon-reload", "restart edged.service"], []):
        called.unlink(missing_ok=True)
        assert main(install) == 0
        lines = called.read_text("utf-8").splitlines()
        assert [line for line in lines if "--quiet" not in line and "show" not in line] == expected
    assert list((root / "run").iterdir()) == []


@pytest.mark.parametrize(("needs_reload", "is_restarted"), [("no", False), ("yes", True)])
def test_what_was_started_by_hand_since_is_not_started_again(
    called: Path,
    install: list[str],
    monkeypatch: pytest.MonkeyPatch,
    needs_reload: str,
    is_restarted: bool,
) -> None:
    assert main(install) == 0
    assert main([*install, "--budget", "1G", "--no-start"]) == 0
    shown = {"ExecMainStartTimestampMonotonic": str(2**60), "NeedDaemonReload": needs_reload}
    monkeypatch.setattr(command, "unit_properties", lambda *_: shown)
    called.unlink()
    assert main(install) == 0
    assert ("restart" in called.read_text("utf-8")) == is_restarted


def test_a_start_that_fails_shows_the_journal(
    called: Path, install: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail").write_text("restart edged.service\n", "utf-8")
    assert main(install) == ExitCode.CANNOT_CREATE
    assert "what the journal says" in capsys.readouterr().err


def test_a_newer_systemd_gets_the_backoff_drop_in(
    called: Path, install: list[str], root: Path
) -> None:
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


def test_a_program_that_fails_or_is_missing_is_named() -> None:
    machine = Machine(is_dry_run=False)
    with pytest.raises(InstallError, match="try: false failed"):
        machine.run("try", ["false"])
    with pytest.raises(InstallError, match="try: no-such-program: No such file"):
        machine.run("try", ["no-such-program"])
    assert not succeeds("no-such-program")


def test_a_waiting_service_does_not_block_the_installation(
    called: Path,
    install: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """systemctl itself would wait for its first answer for ever."""
    monkeypatch.setattr(command, "START_LIMIT_S", 0.1)
    systemctl = called.with_name("programs") / "systemctl"
    script = systemctl.read_text("utf-8")
    systemctl.write_text(f'{script}[ "$1" != restart ] || exec sleep 600\n', "utf-8")
    assert main(install) == ExitCode.CANNOT_CREATE
    said = capsys.readouterr().err
    assert "restart edged.service: not complete after 0 s; it continues" in said
    assert "what the journal says" in said


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption while the old one is removed is too late."""

    def interrupted(name: str, *, dir_fd: int) -> None:
        os.unlink(f"{name}/a", dir_fd=dir_fd)
        raise KeyboardInterrupt

    def fill(folder_fd: int, text: bytes) -> None:
        for name in "ab":
            os.write(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=folder_fd), text)

    def cannot_exchange(*_: object) -> None:
        raise OSError(errno.EINVAL, "cannot")

    if not can_exchange:
        monkeypatch.setattr("edged.bundle.disk.exchange_names", cannot_exchange)
    with files.opened_folder(Path("/"), tmp_path) as folder_fd:
        for text in (b"old", b"new"):
            files.replace_folder(folder_fd, "model", partial(fill, text=text))
            assert [(tmp_path / "model" / name).read_bytes() for name in "ab"] == [text] * 2
        assert list(tmp_path.iterdir()) == [tmp_path / "model"]
        if can_exchange:
            monkeypatch.setattr("shutil.rmtree", interrupted)
            with pytest.raises(KeyboardInterrupt):
                files.replace_folder(folder_fd, "model", partial(fill, text=b"last"))
            assert [(tmp_path / "model" / name).read_bytes() for name in "ab"] == [b"last"] * 2


def test_unchanged_files_are_neither_written_nor_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "folder" / "file"
    for _ in range(2):
        Machine(is_dry_run=False).write(path, "text", 0o600)
    path.chmod(0o644)
    Machine(is_dry_run=False).write(path, "text", 0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    link = tmp_path / "link"
    link.symlink_to(path.parent)
    for there in (link, path.parent):
        for _ in range(2):
            Machine(is_dry_run=False).remove(there)
    assert not path.exists()
    lines = [f"write {path}", f"change {path}", f"remove {link}", f"remove {path.parent}"]
    assert capsys.readouterr().out.splitlines() == lines
