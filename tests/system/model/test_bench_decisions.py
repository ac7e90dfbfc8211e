"""``edged bench --decisions`` on the real model."""

import json
from pathlib import Path

import pytest

from edged.bundle.folder import Bundle
from edged.cli import main
from edged.commands.bench import decisions
from edged.daemon import measurements
from edged.engine.tuning import Tuning
from edged.errors import ExitCode


def test_decisions_a_second_are_measured_for_each_number_of_clients(
    real_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(decisions, "SETTLE_S", 0.0)
    monkeypatch.setattr(decisions, "_PER_TURN", 4)
    monkeypatch.setattr(measurements, "known_tuning", lambda *_: Tuning())
    file = tmp_path / "b.json"
    words = ["bench", "--model", str(real_bundle.model_path.parent), "--decisions", "--runs", "2"]
    assert main([*words, "--json", str(file)]) == ExitCode.OK
    found = json.loads(file.read_text("utf-8"))
    names = [f"decisions_{count}_per_s" for count in (1, 2, 4, 8)]
    assert [len(found["samples"][name]) for name in names] == [2] * 4
    assert min(found["figures"][name] for name in names) > 0
    told = capsys.readouterr().out
    assert "decisions of 40 tokens, 1 clients, per s" in told
    assert "1.00 x" in told
    monkeypatch.setattr(decisions, "_PROMPT_TOKENS", 80)
    monkeypatch.setattr(decisions, "load_engine", lambda *_: pytest.fail("the model was loaded"))
    assert main([*words, "--context", "160"]) == ExitCode.USAGE
    assert "--context 160: at least" in capsys.readouterr().err
