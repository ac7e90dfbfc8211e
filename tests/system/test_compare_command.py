"""``python -m benchmarks.compare``: options, a run on a toy, and all its output."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import command, measure
from benchmarks.compare.__main__ import main
from edged.commands.bench.measure import BenchOptions
from edged.errors import ExitCode
from tests.system.compare_engines import fake_start
from tests.system.test_compare_report import made
from tests.tiny_model import write_tiny_bundle

READY = {"ready_s": 1.0, "idle_cpu_share": 0.0}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A toy bundle."""
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The figures of an earlier run."""
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(made()), encoding="utf-8")
    return file


def quick(
    monkeypatch: pytest.MonkeyPatch,
    calls: list[tuple[str, str]],
    fails_at: dict[str, str] | None = None,
) -> None:
    """Replace the engines and the daemon."""
    start = fake_start(calls, fails_at)

    def compared(
        options: BenchOptions, against: Mapping[str, str], note: Callable[[str], None]
    ) -> dict[str, Any]:
        return measure.compare(options, against, note, start)

    monkeypatch.setattr(command, "compare", compared)
    monkeypatch.setattr(measure, "measure_daemon", lambda *_: READY)
    monkeypatch.setattr(measure, "measure_bandwidth", lambda _: 1e9)
    monkeypatch.setattr("benchmarks.compare.comparison.SETTLE_S", 0.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--against llama=x.gguf", "engines are llama.cpp, openvino, ollama"),
        ("--against llama.cpp", "give ENGINE=SOURCE"),
        ("--against llama.cpp=", "give ENGINE=SOURCE"),
        ("--against edged=x", "give ENGINE=SOURCE"),
        ("--against ollama=a --against ollama=b", "ollama is given twice"),
        ("--threads 0", "--threads 0: at least 1"),
    ],
)
def test_a_bad_option_is_a_usage_error(
    words: str, message: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(bundle), *words.split()]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_bundle_or_an_earlier_run_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([])
    assert exit_info.value.code == ExitCode.USAGE
    assert main(["--model", str(tmp_path)]) == ExitCode.TEMPORARY_FAILURE
    assert main(["--from", str(tmp_path / "none.json")]) == ExitCode.USAGE
    assert "none.json" in capsys.readouterr().err


def test_the_toy_is_compared_with_one_engine_and_a_missing_one_is_reported(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[tuple[str, str]] = []
    quick(monkeypatch, calls, {"openvino": "start"})
    words = ["--model", str(bundle), "--against", "llama.cpp=a b.gguf"]
    words += ["--against", "openvino=x.gguf", "--runs", "2", "--json", str(tmp_path / "b.json")]
    monkeypatch.setattr(sys, "argv", ["compare", *words])
    assert main(words) == ExitCode.OK
    found = json.loads((tmp_path / "b.json").read_text("utf-8"))
    assert list(found["engines"]) == ["edged", "llama.cpp"]
    assert found["engines"]["edged"]["decode_tok_s"] == pytest.approx(20)
    assert found["engines"]["edged"]["private_dirty_bytes"] == 100
    assert found["engines"]["edged"]["concurrent_4_tok_s"] is None
    assert found["engines"]["llama.cpp"]["concurrent_4_tok_s"] == pytest.approx(128)
    assert found["ratios"]["llama.cpp"]["prefill_64_tok_s"] == pytest.approx(2)
    assert found["left_out"] == {"openvino": "openvino is not installed"}
    assert found["samples"]["edged"]["load_s"] == [0.5, 0.5]
    assert found["samples"]["read_bandwidth_bytes_s"] == [1e9] * 3
    assert found["versions"].keys() == {"python", "edged", "llama.cpp"}
    assert (found["runs"], found["max_model_len"], found["daemon"]) == (2, 256, READY)
    assert shlex.split(found["command"]) == ["python", "-m", "benchmarks.compare", *words]
    memories = [i for i, (_, do) in enumerate(calls) if do == "memory"]
    batches = [i for i, (_, do) in enumerate(calls) if do == "decode_batch"]
    assert max(memories) < min(batches), "a batch would be seen in the memory of the next run"
    told = capsys.readouterr()
    assert "decode at 64 tokens, tok/s" in told.out
    assert "openvino is left out" in told.err


def test_losing_edged_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(monkeypatch, [], {"edged": "memory"})
    assert main(["--model", str(bundle)]) == ExitCode.SOFTWARE
    assert "ended during memory" in capsys.readouterr().err


def test_page_plot_and_board_come_from_an_earlier_run(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, plot, board = (tmp_path / name for name in ("p.md", "p.svg", "board.md"))
    words = ["--markdown", str(page), "--plot", str(plot), "--board", str(board)]
    assert main(["--from", str(document), *words]) == ExitCode.OK
    assert page.read_text("utf-8").startswith("# Performance\n")
    assert plot.read_text("utf-8").startswith("<svg")
    assert board.read_text("utf-8").count("\n") == 3
    assert "decode, ÷ llama.cpp" in capsys.readouterr().out
    assert main(["--from", str(document), "--board"]) == ExitCode.OK
    assert "| device |" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_named(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = tmp_path / "no" / "p.md"
    for option in ("--markdown", "--board"):
        assert main(["--from", str(document), option, str(lost)]) == ExitCode.CANNOT_CREATE
        assert f"{lost}: cannot be written" in capsys.readouterr().err
