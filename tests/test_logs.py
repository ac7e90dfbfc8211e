"""The log: one line an event, priorities for the journal, nobody else's lines."""

import logging

import pytest

from edged.config import LogFormat
from edged.logs import configure_logging


def test_control_characters_cannot_start_a_line_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", LogFormat.PLAIN)
    logging.getLogger("x").info("refused id=%s", "a\nERROR all is lost\x1b[2J")
    assert capsys.readouterr().err.count("\n") == 1


def test_the_journal_gets_a_priority_on_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("debug", LogFormat.AUTO, {"JOURNAL_STREAM": "8:1"})
    log = logging.getLogger("x")
    log.debug("d")
    log.info("i")
    log.warning("w")
    try:
        raise ValueError("broken")  # noqa: TRY301 - a traceback is what this shows
    except ValueError:
        log.exception("e")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:3] for line in lines[:3]] == ["<7>", "<6>", "<4>"]
    assert len(lines) > 5
    assert all(line.startswith("<3>") for line in lines[3:])


def test_a_terminal_gets_time_and_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", LogFormat.AUTO, {})
    logging.getLogger("x").info("hidden")
    logging.getLogger("x").warning("shown")
    line = capsys.readouterr().err
    assert "WARNING" in line
    assert "shown" in line
    assert "hidden" not in line
