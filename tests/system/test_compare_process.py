"""An engine in its own process: answers, and how its exit is reported."""

from pathlib import Path

import pytest

from benchmarks.compare import engines, process
from benchmarks.compare.comparison import busy_s
from benchmarks.compare.engines import start
from benchmarks.compare.process import EngineLostError, EngineProcess
from edged.commands.bench.usage import cpu_s
from tests.system.compare_engines import setup


def test_a_process_answers_and_ends() -> None:
    engine = EngineProcess(setup())
    try:
        assert engine.loaded["versions"] == {"counting": "1"}
        assert engine.loaded["load_s"] >= 0
        answer = engine.call("generate", prompt=[1, 2], count=5)
        assert answer["num_tokens"] == 5
        assert 0 <= answer["first_s"] <= answer["last_s"]
        assert engine.call("decode_batch", prompts=[[1], [2]], steps=50) == {"decode_s": 1.0}
        assert engine.call("memory")["rss_bytes"] > engine.call("memory")["private_dirty_bytes"] > 0
        assert engine.cpu_s() > 0
    finally:
        engine.close()
    assert engine.cpu_s() == 0.0, "the process is gone"


@pytest.mark.parametrize(
    ("token_id", "words"),
    [
        (13, r"ended during generate \(exit status 1\): RuntimeError: thirteen is too much"),
        (14, r"ended during generate \(exit status 3\): no output"),
        (15, "the engine gave no token"),
    ],
)
def test_an_exit_is_reported_with_the_last_line_of_output(token_id: int, words: str) -> None:
    engine = EngineProcess(setup())
    with pytest.raises(EngineLostError, match=words):
        engine.call("generate", prompt=[token_id], count=2)
    with pytest.raises(EngineLostError, match="ended during memory"):
        engine.call("memory")
    engine.close()


def test_a_timeout_ends_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineProcess(setup())
    monkeypatch.setattr(process, "CALL_LIMIT_S", 0.01)
    with pytest.raises(EngineLostError, match="no answer to generate within"):
        engine.call("generate", prompt=[16], count=1)
    engine.close()


def test_a_missing_requirement_is_reported_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(EngineLostError, match="openvino_genai is not installed: scripts/setup"):
        start(setup("openvino"))
    monkeypatch.setattr(engines, "find_spec", lambda name: name)
    with pytest.raises(EngineLostError, match=r"none\.gguf: no such file"):
        start(setup("llama.cpp", str(tmp_path / "none.gguf")))
    with pytest.raises(EngineLostError, match=r"ended during load .*; start `ollama serve`"):
        start(setup("ollama", adapter="tests.nothing_like_it:Engine"))
    with pytest.raises(EngineLostError, match=r"No module named 'tests\.nothing_like_it'$"):
        start(setup(adapter="tests.nothing_like_it:Engine"))


def test_the_machine_has_used_more_cpu_time_than_this_process() -> None:
    assert busy_s() > cpu_s([1]) >= 0
    assert busy_s(Path("/nonexistent")) == 0.0
