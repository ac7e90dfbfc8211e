"""``python -m benchmarks.forced``: on a toy, and its table."""

import json
from pathlib import Path

import pytest

from benchmarks.forced import measure
from benchmarks.forced.__main__ import main
from benchmarks.forced.questions import Question
from edged.errors import ExitCode
from tests.tiny_model import write_tiny_bundle

TOY = Question(
    "toy",
    "on?",
    {
        "type": "object",
        "properties": {"state": {"enum": ["on", "off"]}, "unit": {"const": "degrees"}},
        "required": ["state", "unit"],
        "additionalProperties": False,
    },
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A toy bundle."""
    return write_tiny_bundle(tmp_path / "tiny")


def test_a_toy_is_measured_with_forced_text_and_without(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(measure, "QUESTIONS", (TOY,))
    file = tmp_path / "forced.json"
    words = ["--model", str(bundle), "--runs", "2", "--threads", "1", "--json", str(file)]
    assert main(words) == ExitCode.OK
    table = capsys.readouterr().out
    assert "token by token: the same" in table
    (answered,) = json.loads(file.read_text(encoding="utf-8"))
    own, plain = (answered["said"][name] for name in (measure.FORCED, measure.PLAIN))
    assert [len(said) for said in (own, plain)] == [2, 2]
    assert own[0]["token_ids"] == plain[0]["token_ids"]
    assert 2 * own[0]["num_passes"] < plain[0]["num_passes"]


def test_wrong_options_are_usage_errors(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", str(bundle), "--runs", "0"]) == ExitCode.USAGE
    assert "--runs 0: at least 1" in capsys.readouterr().err
    monkeypatch.setattr("benchmarks.forced.command.find_spec", lambda _: None)
    assert main(["--model", str(bundle), "--against", "x.gguf"]) == ExitCode.USAGE
    assert "llama.cpp is not installed" in capsys.readouterr().err
