"""The log: one line an event, priorities for the journal, nobody else's lines."""

import logging

import pytest

from edged.config import LogFormat
from edged.daemon.logs import (
    SOURCE_BURST,
    SOURCE_REFILL_S,
    TOTAL_BURST,
    TOTAL_REFILL_S,
    RateLimit,
    configure_logging,
)
from tests.fakes import FakeClock


def test_control_characters_cannot_start_a_line_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("info", LogFormat.PLAIN)
    logging.getLogger("x").info("refused id=%s", "a\nERROR all is lost\x1b[2J")
    assert capsys.readouterr().err.count("\n") == 1


def test_the_journal_gets_a_priority_on_each_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    configure_logging("debug", LogFormat.AUTO)
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


def test_a_terminal_gets_time_and_level(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    configure_logging("warning", LogFormat.AUTO)
    logging.getLogger("x").info("hidden")
    logging.getLogger("x").warning("shown")
    line = capsys.readouterr().err
    assert "WARNING" in line
    assert "shown" in line
    assert "hidden" not in line


def lines_of(limit: RateLimit, place: int, count: int) -> list[str]:
    """Send so many records from one place in the code; return the messages that pass."""
    records = [
        logging.LogRecord("x", logging.INFO, "x.py", place, "n=%d", (n,), None)
        for n in range(count)
    ]
    return [record.getMessage() for record in records if limit.filter(record)]


def test_what_one_place_writes_too_fast_is_left_out_and_counted() -> None:
    clock = FakeClock()
    limit = RateLimit(clock)
    assert len(lines_of(limit, 1, SOURCE_BURST + 7)) == SOURCE_BURST
    assert lines_of(limit, 2, 1) == ["n=0 (7 lines before it left out)"]
    clock.advance(SOURCE_REFILL_S)
    assert lines_of(limit, 1, 2) == ["n=0"]


def test_an_hour_of_lines_from_many_places_is_less_than_one_a_second() -> None:
    clock = FakeClock()
    limit = RateLimit(clock)
    written = 0
    for _ in range(3600):
        written += sum(len(lines_of(limit, place, 5)) for place in range(20))
        clock.advance(1.0)
    assert written <= TOTAL_BURST + 3600 / TOTAL_REFILL_S


def test_debug_messages_are_asked_for_and_not_limited() -> None:
    limit = RateLimit(FakeClock())
    record = logging.LogRecord("x", logging.DEBUG, "x.py", 1, "d", (), None)
    assert all(limit.filter(record) for _ in range(100))
