"""``edged health``: healthy only if the state file is recent and says so."""

import json
import os
from pathlib import Path

import pytest

from edged.cli import main
from edged.commands.health import MAX_AGE_S, judge
from edged.errors import ExitCode


@pytest.mark.parametrize(
    ("state", "is_well"),
    [("ready", True), ("degraded", True), ("stopping", False), ("loading", False), (None, False)],
)
def test_the_state_decides(tmp_path: Path, state: str | None, *, is_well: bool) -> None:
    file = tmp_path / "state.json"
    file.write_text(json.dumps({"state": state, "served": 3, "queue": 0}))
    assert judge(file, file.stat().st_mtime)[0] is is_well


def test_a_line_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    """Whether `edged health` prints it or `edged doctor`."""
    file = tmp_path / "state.json"
    for state in ("\x1b[2J", "ready"):
        file.write_text(json.dumps({"state": state, "served": "\x1b]0;x\x07", "queue": 0}))
        assert "\x1b" not in judge(file, file.stat().st_mtime)[1]


def test_a_node_without_a_broker_is_well_and_says_why_it_has_none(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    state = {"state": "ready", "served": 3, "queue": 0, "broker_error": "nothing listens"}
    file.write_text(json.dumps(state))
    line = "ready: 3 served, 0 waiting; no broker: nothing listens"
    assert judge(file, file.stat().st_mtime) == (True, line)


def test_an_old_file_means_a_daemon_that_hangs(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text('{"state":"ready"}')
    modified_s = file.stat().st_mtime
    assert judge(file, modified_s + MAX_AGE_S)[0]
    assert not judge(file, modified_s + MAX_AGE_S + 1)[0]


@pytest.mark.parametrize("content", [None, "", "[1]", "{", "\xff", "[" * 100_000, " " * (1 << 21)])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "state.json"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    is_well, line = judge(file, 0.0)
    assert not is_well
    assert str(file) in line


def test_what_a_service_that_was_taken_over_leaves_is_not_waited_for(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for file in (pipe, link):
        is_well, line = judge(file, 0.0)
        assert not is_well
        assert f"{file}: cannot be read: " in line


def test_the_command_exits_69_when_the_daemon_is_not_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "state.json"
    assert main(["health", "--state-file", str(file)]) == ExitCode.UNAVAILABLE
    assert "is the daemon running" in capsys.readouterr().err
    file.write_text('{"state":"ready","served":1,"queue":0}')
    assert main(["health", "--state-file", str(file)]) == 0
    assert "1 served" in capsys.readouterr().out
