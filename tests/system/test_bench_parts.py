"""The parts of ``edged bench``: turns, the engine, and the facts of the machine."""

import os
from pathlib import Path

import pytest

from edged.commands.bench.device import describe_device
from edged.commands.bench.engine import EdgedEngine
from edged.commands.bench.turns import (
    CONTEXTS,
    DECODE_STEPS,
    Prompts,
    batch_turns,
    decode_name,
    single_turns,
    warm_up,
)
from edged.commands.bench.usage import cpu_s, parse_rollup, read_memory
from edged.daemon.measurements import TUNING_FILE
from edged.engine import prepared
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_bundle


def letters(text: str) -> list[int]:
    return [ord(letter) % 50 for letter in text]


def test_a_run_measures_what_fits_into_the_context() -> None:
    prompts = Prompts(letters)
    full = list(single_turns(prompts, 2048))
    asked = [len(turn.arguments["prompt"]) for turn in full if turn.do == "generate"]  # type: ignore[arg-type]
    assert asked == [*CONTEXTS, 42, 42]
    small = list(single_turns(prompts, CONTEXTS[0] + DECODE_STEPS))
    assert [turn.do for turn in small] == ["generate"] * 3 + ["memory"]
    warm = warm_up(prompts, 160)
    assert len(warm.arguments["prompt"]) == 151  # type: ignore[arg-type]
    assert warm.figures({}) == {}


def test_the_second_first_token_is_of_the_same_prompt_and_all_others_are_new() -> None:
    turns = list(single_turns(Prompts(letters), 2048))
    prompts = [turn.arguments["prompt"] for turn in turns if turn.do == "generate"]
    assert prompts[-1] == prompts[-2]
    starts = [prompt[0] for prompt in prompts[:-1]]  # type: ignore[index]
    assert len(set(starts)) == len(starts)


def test_prompts_are_the_same_in_every_process_and_repeat_no_passage() -> None:
    assert Prompts(letters).take(300) == Prompts(letters).take(300)
    prompts = Prompts(lambda text: [hash(word) % 1000 for word in text.split()])
    token_ids = prompts.take(1000)
    passages = {tuple(token_ids[i : i + 4]) for i in range(997)}
    assert len(passages) > 990


def test_a_turn_reads_speeds_from_the_answer() -> None:
    first, *_ = single_turns(Prompts(letters), 2048)
    answer = {"num_tokens": 65, "first_s": 0.5, "last_s": 2.5, "decode_cpu_s": 3.2}
    figures = first.figures(answer)
    assert figures == {"prefill_64_tok_s": 128, "decode_tok_s": 32, "cpu_s_per_token": 0.05}
    stopped = first.figures({**answer, "num_tokens": 1, "last_s": 0.5})
    assert stopped["decode_tok_s"] is stopped["cpu_s_per_token"] is None
    assert decode_name(1000) == "decode_1000_tok_s"


def test_a_batch_reports_total_speed_and_none_if_unsupported() -> None:
    four = list(batch_turns(Prompts(letters)))[2]
    assert four.figures({"decode_s": 2.0}) == {"concurrent_4_tok_s": 64}
    assert four.figures({"decode_s": None}) == {"concurrent_4_tok_s": None}


def test_edged_runs_as_in_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MIN_WEIGHTS_BYTES", 0)
    aligned = TinyConfig(num_heads=2, num_kv_heads=1, head_size=32, max_model_len=512)
    bundle = write_tiny_bundle(tmp_path / "tiny", config=aligned)
    state = tmp_path / "state"
    state.mkdir()
    engine = EdgedEngine(bundle, 1, 256, state)
    assert next(state.glob("prepared/*/prepared.onnx")), "the copy that the daemon runs"
    assert (state / TUNING_FILE).exists()
    answers: list[list[int]] = [[], []]
    for answer in answers:
        engine.generate([5, 6, 7], 40, answer.append)
    assert len(answers[0]) == 40, "stop tokens do not end a measured answer"
    assert answers[0] == answers[1]
    seconds = engine.decode_batch([[1, 2]], 3)
    assert seconds is not None
    assert seconds > 0
    assert engine.decode_batch([[1, 2], [3, 4], [5, 6]], 3) is not None
    assert engine.decode_batch([[1, 2]] * 9, 3) is None, "more than there are slots"
    assert set(engine.versions()) == {"edged", "onnxruntime"}
    assert engine.process_ids() == [os.getpid()]


def test_memory_is_summed_over_processes_and_empty_if_one_is_unreadable() -> None:
    text = "55-7f r\nRss:   300 kB\nPss:   200 kB\nPrivate_Dirty:  100 kB\nSwap:  9 kB\n"
    assert parse_rollup(text) == {
        "rss_bytes": 300 * 1024,
        "pss_bytes": 200 * 1024,
        "private_dirty_bytes": 100 * 1024,
    }
    ours = read_memory([os.getpid()])
    assert read_memory([os.getpid(), os.getpid()])["rss_bytes"] > 1.5 * ours["rss_bytes"]
    assert cpu_s([os.getpid()]) > 0
    assert read_memory([]) == read_memory([2**30]) == {}
    assert cpu_s([2**30]) == 0.0


def test_an_arm_board_is_named_by_the_device_tree(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n\nprocessor\t: 1\n"
    )
    (tmp_path / "meminfo").write_text("MemTotal:        1000 kB\n")
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B\0")
    device = describe_device(tmp_path, tmp_path / "model")
    assert device["name"] == "Raspberry Pi 5 Model B"
    assert device["cpu"] == "0xd0b"
    assert device["cpu_flags"] == ["asimd", "asimddp"]
    assert device["memory_bytes"] == 1_024_000


def test_this_machine_can_be_described() -> None:
    device = describe_device()
    assert device["name"]
    assert isinstance(device["memory_bytes"], int)
    assert device["memory_bytes"] > 2**28
    nameless = describe_device(Path("/nonexistent"), Path("/nonexistent"))
    assert nameless["memory_bytes"] == 0
    assert nameless["name"] == nameless["architecture"]
