"""An engine in its own process: what it answers, and what becomes of it when it dies."""

import json
import os
import socket
from pathlib import Path

import pytest

from edged.commands.bench import process
from edged.commands.bench.adapters import load_adapter
from edged.commands.bench.child import Child, as_command, serve
from edged.commands.bench.process import EngineLostError, EngineProcess, start
from edged.commands.bench.usage import busy_s, cpu_s, parse_rollup, read_memory
from edged.daemon import autotune as tuning
from edged.engine import prepared
from tests.system.bench_engines import setup
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_bundle

COUNTING = "tests.system.bench_engines:CountingEngine"


def test_a_process_answers_and_ends() -> None:
    engine = EngineProcess(setup(), COUNTING)
    try:
        assert engine.loaded["versions"] == {"counting": "1"}
        assert engine.loaded["load_s"] >= 0
        answer = engine.call("generate", prompt=[1, 2], count=5)
        assert answer["num_tokens"] == 5
        assert 0 <= answer["first_s"] <= answer["last_s"]
        assert engine.call("together", prompts=[[1], [2]], steps=50) == {"decode_s": 1.0}
        assert engine.call("memory")["rss_bytes"] > engine.call("memory")["private_dirty_bytes"] > 0
        assert engine.cpu_s() > 0
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("token_id", "words"),
    [
        (13, r"ended during generate \(exit status 1\): RuntimeError: thirteen is too much"),
        (14, r"ended during generate \(exit status 3\): nothing said"),
        (15, "the engine gave no token"),
    ],
)
def test_a_death_is_told_with_the_last_words(token_id: int, words: str) -> None:
    engine = EngineProcess(setup(), COUNTING)
    with pytest.raises(EngineLostError, match=words):
        engine.call("generate", prompt=[token_id], count=2)
    with pytest.raises(EngineLostError, match="ended during memory"):
        engine.call("memory")
    engine.close()


def test_silence_is_a_death_too(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = EngineProcess(setup(), COUNTING)
    ours, _theirs = socket.socketpair()
    ours.settimeout(0.01)
    monkeypatch.setattr(engine, "_stream", ours.makefile("rw"))
    with _theirs, pytest.raises(EngineLostError, match="no answer to memory within"):
        engine.call("memory")
    engine.close()
    ours.close()


def test_what_is_missing_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineLostError, match="nothing_like_it is not installed: pip install"):
        EngineProcess(setup("openvino"), "nothing_like_it:Engine")
    with pytest.raises(EngineLostError, match=r"none\.gguf: no such file"):
        start(setup("llama.cpp", str(tmp_path / "none.gguf")))
    with pytest.raises(
        EngineLostError, match=r"ModuleNotFoundError: No module named 'edged\.none'"
    ):
        EngineProcess(setup("openvino"), "edged.none:Engine")

    def refuse(_setup: object) -> None:
        raise EngineLostError("nobody answers")

    monkeypatch.setattr(process, "EngineProcess", refuse)
    with pytest.raises(EngineLostError, match="nobody answers; start `ollama serve`"):
        start(setup("ollama", "smollm2"))


def test_a_child_wants_its_model_first() -> None:
    with pytest.raises(ValueError, match="load comes first"):
        Child().memory()


def test_a_child_tells_what_is_not_installed_and_what_gave_nothing() -> None:
    child, wanted = Child(), as_command("load", setup=setup())["setup"]
    assert isinstance(wanted, dict)
    assert child.load(wanted, "nothing_like_it:Engine") == {"missing": "nothing_like_it"}
    with pytest.raises(ModuleNotFoundError, match=r"edged\.none"):
        child.load(wanted, "edged.none:Engine")
    child.load(wanted, COUNTING)
    with pytest.raises(ValueError, match="gave no token"):
        child.generate([15], 2)


def test_a_child_ends_when_its_parent_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        load = as_command("load", setup=setup(), target=COUNTING)
        ask = as_command("generate", prompt=[1], count=3)
        ours.sendall("".join(json.dumps(each) + "\n" for each in (load, ask)).encode())
        ours.shutdown(socket.SHUT_WR)
        serve(theirs)
        answers = [json.loads(line) for line in ours.makefile()]
    assert answers[0]["versions"] == {"counting": "1"}
    assert answers[1]["num_tokens"] == 3


def test_edged_runs_as_in_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MIN_WEIGHTS_BYTES", 0)
    aligned = TinyConfig(num_heads=2, num_kv_heads=1, head_size=32, max_model_len=512)
    bundle = str(write_tiny_bundle(tmp_path / "tiny", config=aligned))
    state = tmp_path / "state"
    state.mkdir()
    engine = load_adapter(setup("edged", bundle, bundle=bundle, state=str(state)))
    assert next(state.glob("prepared/*/prepared.onnx")), "the copy that the daemon runs"
    assert (state / tuning.FILE_NAME).exists()
    answers: list[list[int]] = [[], []]
    for answer in answers:
        engine.generate([5, 6, 7], 40, answer.append)
    assert len(answers[0]) == 40, "stop tokens do not end a measured answer"
    assert answers[0] == answers[1]
    seconds = engine.together([[1, 2]], 3)
    assert seconds is not None
    assert seconds > 0
    assert engine.together([[1, 2], [3, 4], [5, 6]], 3) is not None
    assert engine.together([[1, 2]] * 9, 3) is None, "more than there are slots"
    assert set(engine.versions()) == {"edged", "onnxruntime"}
    assert engine.process_ids() == [os.getpid()]


def test_memory_is_summed_over_processes_and_absent_where_one_cannot_be_read() -> None:
    text = "55-7f r\nRss:   300 kB\nPss:   200 kB\nPrivate_Dirty:  100 kB\nSwap:  9 kB\n"
    assert parse_rollup(text) == {
        "rss_bytes": 300 * 1024,
        "pss_bytes": 200 * 1024,
        "private_dirty_bytes": 100 * 1024,
    }
    ours = read_memory([os.getpid()])
    assert read_memory([os.getpid(), os.getpid()])["rss_bytes"] > 1.5 * ours["rss_bytes"]
    assert busy_s() > cpu_s([os.getpid()]) > 0
    assert busy_s(Path("/nonexistent")) == 0.0
    assert read_memory([]) == read_memory([2**30]) == {}
    assert cpu_s([2**30]) == 0.0
