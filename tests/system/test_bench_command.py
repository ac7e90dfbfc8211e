"""``edged bench`` as a command: options, a run on a toy, and the measured daemon."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from edged.cli import main
from edged.commands.bench import daemon, measure
from edged.commands.bench.daemon import measure_daemon
from edged.commands.local_daemon import SERVING, NotStartedError, started
from edged.errors import ExitCode
from tests.tiny_model import write_tiny_bundle

READY = {"ready_s": 1.0, "idle_cpu_share": 0.0, "rss_bytes": 2**28}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A toy bundle."""
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--threads 0", "--threads 0: at least 1"),
        ("--runs 0", "--runs 0: at least 1"),
        ("--context 100", "--context 100: at least 160"),
    ],
)
def test_a_bad_option_is_a_usage_error(
    words: str, message: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--model", str(bundle), *words.split()]) == ExitCode.USAGE
    assert message in capsys.readouterr().err


def test_a_bundle_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["bench"])
    assert exit_info.value.code == ExitCode.USAGE
    assert main(["bench", "--model", str(tmp_path)]) == ExitCode.TEMPORARY_FAILURE


def test_the_toy_is_measured(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure, "measure_daemon", lambda *_: READY)
    monkeypatch.setattr(measure, "SETTLE_S", 0.0)
    file = tmp_path / "b.json"
    words = ["bench", "--model", str(bundle), "--runs", "2", "--threads", "1", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["edged", *words])
    assert main(words) == ExitCode.OK
    found = json.loads(file.read_text("utf-8"))
    assert (found["runs"], found["max_model_len"], found["daemon"]) == (2, 256, READY)
    assert shlex.split(found["command"]) == ["edged", *words]
    assert {name: len(values) for name, values in found["samples"].items()} == {
        "load_s": 1,
        **dict.fromkeys(("loaded_rss_bytes", "loaded_pss_bytes", "loaded_private_dirty_bytes"), 1),
        **dict.fromkeys(("prefill_64_tok_s", "decode_tok_s", "cpu_s_per_token"), 2),
        **dict.fromkeys(("ttft_s", "ttft_cached_s"), 2),
        **dict.fromkeys(("rss_bytes", "pss_bytes", "private_dirty_bytes"), 2),
        **{f"concurrent_{count}_tok_s": 2 for count in (1, 2, 4, 8)},
    }
    first, second = found["samples"]["decode_tok_s"]
    assert found["figures"]["decode_tok_s"] == pytest.approx((first + second) / 2)
    assert min(found["figures"].values()) > 0
    told = capsys.readouterr()
    assert "decode at 64 tokens, tok/s" in told.out
    assert "1,536" not in told.out, "what does not fit into the context is left out"
    assert "daemon: READY after 1.00 s, RSS 256 MiB" in told.out
    assert "edged bench: 8 concurrent requests" in told.err


def test_a_file_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure, "measure_daemon", lambda *_: None)
    monkeypatch.setattr(measure, "SETTLE_S", 0.0)
    lost = tmp_path / "no" / "b.json"
    words = ["--runs", "1", "--context", "160", "--threads", "1", "--json", str(lost)]
    assert main(["bench", "--model", str(bundle), *words]) == ExitCode.CANNOT_CREATE
    told = capsys.readouterr()
    assert f"{lost}: cannot be written" in told.err
    assert "daemon: it did not start" in told.out


def test_the_daemon_is_ready_without_a_broker_and_is_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "SETTLE_S", 0.0)
    monkeypatch.setattr(daemon, "IDLE_S", 0.02)
    figures = measure_daemon(bundle, 1, 256, tmp_path)
    assert figures is not None
    assert figures["ready_s"] > 0
    assert figures["rss_bytes"] > figures["private_dirty_bytes"] > 0
    assert figures["idle_cpu_share"] >= 0


def test_a_daemon_that_exits_has_no_figures(tmp_path: Path) -> None:
    assert measure_daemon(tmp_path / "none", 1, 128, tmp_path) is None


def test_a_daemon_that_is_never_ready_times_out(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import signal; signal.pause()"]
    with (
        pytest.raises(NotStartedError, match="the daemon did not start"),
        started(silent, tmp_path, SERVING, 0.1),
    ):
        pass


def test_decisions_need_a_bundle_that_gives_hidden_states(
    slow_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--model", str(slow_bundle), "--threads", "1", "--decisions"]
    assert main(words) == ExitCode.CONFIG
    assert "gives no hidden states; rebuild it" in capsys.readouterr().err
