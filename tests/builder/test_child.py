"""A step in a child process: its result, its output, and all its exits."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edged.builder import child
from edged.errors import BuildError
from tests.paths import ROOT


def run(
    tmp_path: Path,
    name: str,
    seen: list[tuple[int, int | None]] | None = None,
    **arguments: str | int,
) -> object:
    step = child.Step(
        "the test",
        f"tests.builder.child_steps:{name}",
        dict(arguments),
        need_bytes=3 << 30,
        folder=Path("/cache"),
        disk_bytes=2_500_000_000,
    )
    reports = [] if seen is None else seen
    return child.run(
        step, tmp_path / "logs" / "log", lambda done, total: reports.append((done, total))
    )


def test_result_and_progress_are_returned_and_output_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, int | None]] = []
    assert run(tmp_path, "succeed", seen, word="done") == "done 1"
    assert seen == [(1, 2), (2, 2)]
    assert capfd.readouterr() == ("", "")
    assert sorted((tmp_path / "logs" / "log").read_text(encoding="utf-8").splitlines()) == [
        "noise of a native library",
        "noise on the standard error",
        "noise on the standard output",
    ]


def test_a_prepared_process_runs_its_step_once(tmp_path: Path) -> None:
    target, log = "tests.builder.child_steps:tell", tmp_path / "logs" / "log"
    child.prepare(target, log)
    (waiting,) = multiprocessing.active_children()
    assert run(tmp_path, "tell") == waiting.pid
    assert run(tmp_path, "tell") != waiting.pid


def test_a_prepared_process_that_died_is_reported_as_its_step(tmp_path: Path) -> None:
    child.prepare("tests.builder.child_steps:tell", tmp_path / "logs" / "log")
    (waiting,) = multiprocessing.active_children()
    waiting.kill()
    waiting.join()
    with pytest.raises(BuildError, match=r"the test was killed .*memory ran out"):
        run(tmp_path, "tell")


def test_libraries_that_cannot_be_imported_are_reported(tmp_path: Path) -> None:
    step = child.Step("the test", "tests.builder.no_such_module:run", {})
    with pytest.raises(BuildError, match=r"the test failed: ModuleNotFoundError: No module named"):
        child.run(step, tmp_path / "log", lambda _done, _total: None)


def test_a_refusal_is_raised_again_in_the_parent(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"^no such model$"):
        run(tmp_path, "refuse")


def test_what_a_library_raises_is_told_in_one_line(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "log"
    with pytest.raises(BuildError) as error:
        run(tmp_path, "fail")
    assert str(error.value) == (
        f"the test failed: ValueError: a library gave up on this (the whole log is in {log})"
    )
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"/cache: the disk is full: .* about 2.50 GB"):
        run(tmp_path, "fill_disk")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGKILL, r"killed .* memory ran out: it needs about 3.0 GiB"),
        (signal.SIGILL, r"instruction that this CPU does not have .* copy the bundle"),
        (signal.SIGSEGV, r"the test crashed \(SIGSEGV\)"),
    ],
)
def test_a_killed_step_is_reported_with_the_reason(
    tmp_path: Path, number: int, message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        run(tmp_path, "die", number=int(number))


def test_a_step_that_exits_without_a_result_has_failed(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the test failed"):
        run(tmp_path, "leave")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_step_ends_with_the_build_that_was_killed(tmp_path: Path, number: int) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"from tests.builder.child_steps import run_linger; run_linger({str(tmp_path)!r})"
    with (
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as build,
        fifo.open("rb") as told,
    ):
        assert told.read(4) == b"here"
        build.send_signal(number)
        # The step holds its end open for as long as it lives.
        assert told.read() == b""
