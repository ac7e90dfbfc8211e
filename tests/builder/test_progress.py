"""The build's progress: plain lines in a log, a bar at a terminal, times in both."""

import io
from collections.abc import Iterator

import pytest

from edged.builder.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Iterator[float]:
    """A clock that advances four seconds per call."""
    return iter(range(0, 1000, 4))


def test_a_log_gets_a_line_at_the_start_and_the_time_at_the_end(clock: Iterator[float]) -> None:
    stream = io.StringIO()
    with Progress(stream, lambda: next(clock)).step("Export"):
        pass
    assert stream.getvalue().splitlines() == ["Export …", "Export: 8.0 s"]


def test_a_log_gets_a_line_every_ten_seconds_at_most(clock: Iterator[float]) -> None:
    stream = io.StringIO()
    with Progress(stream, lambda: next(clock)).step("Export") as step:
        for done in range(0, 100, 20):
            step.update(done, 100)
        step.update(7)
    lines = stream.getvalue().splitlines()
    assert lines == ["Export …", "Export: 40 %", "Export: 7", "Export: 40.0 s"]


def test_a_terminal_gets_a_progress_bar_that_is_removed_at_the_end() -> None:
    stream = Terminal()
    with Progress(stream).step("Export") as step:
        step.update(1)
        step.update(50, 100)
    text = stream.getvalue()
    assert "Export:  50 % |" in text
    assert text.splitlines()[-1].strip().startswith("Export: 0.")


def test_a_step_that_fails_shows_no_time() -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress(stream).step("Export"):
        raise RuntimeError
    assert stream.getvalue() == "Export …\n"


def test_the_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("hello")
    with Progress().step("Export"):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hello\nExport …\nExport: ")
