"""Turns: every engine takes each of them in order, and one that fails is named and left out."""

from itertools import count

import pytest

from edged.commands.bench.plan import (
    CONTEXTS,
    DECODE_STEPS,
    Prompts,
    Turn,
    decode_name,
    single_turns,
    together_turns,
    warm_up,
)
from edged.commands.bench.prose import prose
from edged.commands.bench.turns import BenchError, Field
from tests.system.bench_engines import fake_start, setup

ENGINES = ("edged", "llama.cpp", "openvino")


def letters(text: str) -> list[int]:
    return [ord(letter) % 50 for letter in text]


def make_field(
    calls: list[tuple[str, str]], fails_at: dict[str, str] | None = None
) -> tuple[Field, list[str]]:
    notes: list[str] = []
    setups = [setup(name) for name in ENGINES]
    field = Field(setups, fake_start(calls, fails_at), notes.append, settle=lambda: None)
    return field, notes


def turn(do: str = "memory") -> Turn:
    return Turn("a turn", do, {}, lambda answer: {"rss_bytes": answer["rss_bytes"]})


def test_engines_alternate() -> None:
    calls: list[tuple[str, str]] = []
    field, _ = make_field(calls)
    field.start()
    field.take(turn())
    field.take(turn())
    assert [name for name, _ in calls] == [*ENGINES, *ENGINES]
    assert field.samples["openvino"] == {"rss_bytes": [300, 300]}
    assert field.versions == dict.fromkeys(ENGINES, "1.0")


@pytest.mark.parametrize("moment", ["start", "memory"])
def test_an_engine_that_fails_is_named_and_the_others_go_on(moment: str) -> None:
    calls: list[tuple[str, str]] = []
    field, notes = make_field(calls, {"llama.cpp": moment})
    field.start()
    field.take(turn())
    field.take(turn())
    assert list(field.left_out) == ["llama.cpp"]
    assert "llama.cpp" not in field.samples
    assert field.samples["edged"] == field.samples["openvino"] == {"rss_bytes": [300, 300]}
    assert any("llama.cpp is left out" in note for note in notes)


@pytest.mark.parametrize("moment", ["start", "memory"])
def test_without_edged_there_is_nothing_to_show(moment: str) -> None:
    field, _ = make_field([], {"edged": moment})

    def start_and_take() -> None:
        field.start()
        field.take(turn())

    with pytest.raises(BenchError, match=r"ended|not installed"):
        start_and_take()
    field.close()


def test_what_else_ran_is_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn: 3 CPU seconds in all, 1 of the engine's own, half a one of a waiting one."""
    used = {"edged": 0.0, "llama.cpp": 0.0}
    machine, clock = count(0, 3), count(0, 2)
    field = Field(
        [setup(name) for name in used], fake_start([]), lambda _: None, settle=lambda: None
    )
    field.start()
    for name, channel in field._channels.items():
        own = count(0.0, 1.0 if name == "edged" else 0.5)
        monkeypatch.setattr(channel, "cpu_s", lambda own=own: next(own))
    monkeypatch.setattr("edged.commands.bench.turns.busy_s", lambda: next(machine))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    field.take(turn())
    # edged's turn: 2 s, 1 of its own, 0.5 of the other; then the other's turn: edged uses 1.
    assert field.quiet.shares(num_cpus=4) == {
        "idle_cpu_share": 1.5 / 4,
        "disturbance_share": 1.5 / 8,
    }


def test_a_fresh_load_is_sampled_and_a_failing_one_is_left_out() -> None:
    calls: list[tuple[str, str]] = []
    field, _ = make_field(calls, {"openvino": "memory"})
    field.start()
    field.load_afresh()
    assert field.samples["edged"]["load_s"] == [0.5]
    assert field.samples["edged"]["loaded_private_dirty_bytes"] == [100]
    assert list(field.left_out) == ["openvino"]


def test_a_run_measures_what_fits_into_the_context() -> None:
    prompts = Prompts(letters)
    full = list(single_turns(prompts, 2048))
    asked = [len(turn.arguments["prompt"]) for turn in full if turn.do == "generate"]  # type: ignore[arg-type]
    assert asked == [*CONTEXTS, 42, 42]
    small = list(single_turns(prompts, CONTEXTS[0] + DECODE_STEPS))
    assert [turn.do for turn in small] == ["generate"] * 3 + ["memory"]
    (warm,) = warm_up(prompts, 160)
    assert len(warm.arguments["prompt"]) == 151  # type: ignore[arg-type]
    assert warm.figures({}) == {}


def test_the_second_first_token_is_of_the_same_prompt_and_all_others_are_new() -> None:
    turns = list(single_turns(Prompts(letters), 2048))
    prompts = [turn.arguments["prompt"] for turn in turns if turn.do == "generate"]
    assert prompts[-1] == prompts[-2]
    starts = [prompt[0] for prompt in prompts[:-1]]  # type: ignore[index]
    assert len(set(starts)) == len(starts)


def test_prompts_are_the_same_in_every_process() -> None:
    assert Prompts(letters).take(300) == Prompts(letters).take(300)
    assert prose(5, 7) == prose(5, 7) != prose(5, 8)
    sentences = prose(200, 1).split(". ")
    assert len(set(sentences)) > 0.95 * len(sentences)


def test_a_turn_reads_speeds_from_the_answer() -> None:
    first, *_ = single_turns(Prompts(letters), 2048)
    answer = {"num_tokens": 65, "first_s": 0.5, "last_s": 2.5, "decode_cpu_s": 3.2}
    figures = first.figures(answer)
    assert figures == {"prefill_64_tok_s": 128, "decode_tok_s": 32, "cpu_s_per_token": 0.05}
    stopped = first.figures({**answer, "num_tokens": 1, "last_s": 0.5})
    assert stopped["decode_tok_s"] is stopped["cpu_s_per_token"] is None
    assert decode_name(1000) == "decode_1000_tok_s"


def test_company_is_counted_in_total_and_its_absence_is_none() -> None:
    four = list(together_turns(Prompts(letters)))[2]
    assert four.figures({"decode_s": 2.0}) == {"concurrent_4": 64}
    assert four.figures({"decode_s": None}) == {"concurrent_4": None}
