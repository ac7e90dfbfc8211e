"""The build's progress: plain lines with times in a log, a line that counts down at a terminal."""

import io
from collections.abc import Iterator

import pytest

from edged.builder.progress import Progress, Remaining, describe


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


def test_a_terminal_gets_one_line_that_is_removed_at_the_end() -> None:
    stream = Terminal()
    with Progress(stream, expected={"Export": 100.0, "Quantize": 20.0}).step("Export to ONNX"):
        pass
    first, *_, last = stream.getvalue().split("\r\x1b[K")[1:]
    assert first == "Export to ONNX …, about 2 min left"
    assert last == ""
    assert "\n" not in stream.getvalue()


def test_the_line_is_removed_when_a_step_fails() -> None:
    stream = Terminal()
    with pytest.raises(RuntimeError), Progress(stream).step("Export"):
        raise RuntimeError
    assert stream.getvalue().endswith("\r\x1b[K")


def test_the_time_left_follows_the_steps_that_are_done() -> None:
    remaining = Remaining({"Fetch": 10.0, "Export": 20.0, "Quantize": 70.0})
    fetch = remaining.begin("Fetch x")
    assert remaining.left_s(fetch, 0.0, None) == 100.0
    assert remaining.left_s(fetch, 4.0, None) == 96.0
    remaining.end(fetch, 20.0)
    export = remaining.begin("Export to ONNX")
    assert remaining.left_s(export, 1.0, 0.5) == 20.0 + 140.0
    # Longer than expected: so is what is ahead.
    assert remaining.left_s(export, 80.0, None) == 280.0


def test_what_a_cache_had_makes_the_time_left_no_shorter() -> None:
    remaining = Remaining({"Fetch": 10.0, "Export": 20.0, "Quantize": 70.0})
    for title in ("Fetch x", "Export"):
        remaining.end(remaining.begin(title), 0.1)
    quantize = remaining.begin("Quantize")
    assert remaining.left_s(quantize, 0.0, None) == 70.0


def test_a_step_that_is_left_out_or_repeated_moves_the_end() -> None:
    remaining = Remaining({"Fetch": 10.0, "Export": 20.0, "Quantize": 70.0})
    for _ in range(2):
        assert remaining.left_s(remaining.begin("Export"), 0.0, None) == 90.0
        assert remaining.left_s(remaining.begin("Quantize"), 0.0, None) == 70.0
    assert remaining.left_s(remaining.begin("Install"), 0.0, None) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.0, "10 s"), (60.0, "1 min"), (71.0, "1 min 20 s"), (119.0, "2 min")]
)
def test_a_time_left_is_rounded_up(seconds: float, text: str) -> None:
    assert describe(seconds) == f"about {text}"


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
