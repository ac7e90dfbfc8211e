"""Several answers at a time: the same tokens as alone, whatever comes and goes beside them."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.bundle.manifest import GraphKind
from edged.engine.decoding import Decoding
from edged.engine.graph import Graph
from edged.engine.loading import load_engine, load_graph
from edged.engine.loop import Engine
from edged.engine.steps import (
    EngineSettings,
    InterruptedRunError,
    Prefilled,
    PromptOrigin,
    Token,
)
from edged.protocol.request import SamplingParams
from tests.tiny_model import MAX_MODEL_LEN, STOP_TOKEN_ID, write_tiny_bundle

GREEDY = SamplingParams()
PROMPTS = (list(range(5, 50)), list(range(60, 70)), [7, 8, 9] * 20, list(range(100, 190)))
NUM_SLOTS = 4


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "portable"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"), fused=request.param)


@pytest.fixture
def engine(folder: Path) -> Engine:
    return load(folder)


def load(folder: Path, num_slots: int = NUM_SLOTS) -> Engine:
    chosen = EngineSettings(
        MAX_MODEL_LEN, num_threads=1, prefill_chunk_tokens=16, num_slots=num_slots
    )
    return load_engine(open_bundle(folder), chosen)


def alone(engine: Engine, prompt: list[int], max_tokens: int = 12) -> list[int]:
    steps = engine.generate(prompt, GREEDY, max_tokens=max_tokens)
    return [step.token_id for step in steps if isinstance(step, Token)]


def run(engine: Engine, answers: dict[Decoding, list[int]]) -> None:
    """Run the model once and write its tokens down."""
    for decoding, steps in engine.step().outcomes.items():
        answers[decoding] += [step.token_id for step in steps if isinstance(step, Token)]


def finish(engine: Engine, answers: dict[Decoding, list[int]]) -> list[list[int]]:
    while not all(decoding.is_over for decoding in answers):
        run(engine, answers)
    for decoding in answers:
        engine.end(decoding)
    return list(answers.values())


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    """Each answer, alone in an engine of its own."""
    return [alone(load(folder), prompt) for prompt in PROMPTS]


def test_in_a_batch_each_answer_has_the_tokens_it_has_alone(
    engine: Engine, expected: list[list[int]]
) -> None:
    answers = {engine.start(p, GREEDY, max_tokens=12): list[int]() for p in PROMPTS}
    assert finish(engine, answers) == expected


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None
)
@given(gaps=st.lists(st.integers(0, 12), min_size=3, max_size=3), gone=st.integers(0, 3))
def test_answers_that_start_and_end_change_no_token_of_the_others(
    folder: Path, expected: list[list[int]], gaps: list[int], gone: int
) -> None:
    engine = load(folder)
    answers: dict[Decoding, list[int]] = {}
    for prompt, gap in zip(PROMPTS, [*gaps, 3], strict=True):
        answers[engine.start(prompt, GREEDY, max_tokens=12)] = []
        for _ in range(gap):
            run(engine, answers)
    leaver = list(answers)[gone]
    engine.end(leaver)
    part = answers.pop(leaver)
    assert part == expected[gone][: len(part)]
    # Its place is taken, in the middle of the others.
    answers[engine.start(PROMPTS[gone], GREEDY, max_tokens=12)] = []
    others = [answer for index, answer in enumerate(expected) if index != gone]
    assert finish(engine, answers) == [*others, expected[gone]]


def test_one_run_serves_all_that_decode(engine: Engine) -> None:
    answers = {engine.start(p, GREEDY, max_tokens=12): list[int]() for p in PROMPTS[:2]}
    while not all(decoding.is_prefilled for decoding in answers):
        run(engine, answers)
    ran = engine.step()
    assert set(ran.outcomes) == set(answers)
    assert ran.num_rows == 2


def test_prefill_chunks_and_decode_steps_alternate(engine: Engine) -> None:
    first = engine.start(PROMPTS[1], GREEDY, max_tokens=50)
    while not first.is_prefilled:
        engine.step()
    second = engine.start(PROMPTS[3], GREEDY, max_tokens=5)
    kinds = [next(iter(engine.step().outcomes)) is second for _ in range(6)]
    assert kinds in ([True, False] * 3, [False, True] * 3)


def test_prompts_that_wait_are_read_in_one_run(folder: Path) -> None:
    """From where the one begins of which less is in the cache."""
    prompts = [[5, 6, 7, 8, 9, 10, 20], [5, 6, 7, 8, 9, 30, 31]]
    expected = [alone(load_exact(folder), prompt) for prompt in prompts]
    engine = load_exact(folder)
    alone(engine, [5, 6, 7, 8, 9, 10, 40])
    decodings = [engine.start(prompt, GREEDY, max_tokens=12) for prompt in prompts]
    assert [decoding.num_cached for decoding in decodings] == [6, 5]
    outcomes = engine.step().outcomes
    assert [outcomes[one][0] for one in decodings] == [Prefilled(7, 5, 2), Prefilled(7, 5, 2)]
    said = {one: [s.token_id for s in outcomes[one] if isinstance(s, Token)] for one in decodings}
    assert finish(engine, said) == expected


def test_a_full_engine_takes_nothing_more(engine: Engine) -> None:
    decodings = [engine.start(PROMPTS[1], GREEDY, max_tokens=2) for _ in range(NUM_SLOTS)]
    with pytest.raises(RuntimeError, match="no slot is free"):
        engine.start(PROMPTS[1], GREEDY, max_tokens=2)
    engine.end(decodings[2])
    engine.end(decodings[2])  # twice is once
    engine.start(PROMPTS[1], GREEDY, max_tokens=2)
    with pytest.raises(RuntimeError, match="no slot is free"):
        engine.start(PROMPTS[1], GREEDY, max_tokens=2)


def first_step(engine: Engine, prompt: list[int]) -> Prefilled:
    """The first step of an answer that is then given up."""
    decoding = engine.start(prompt, GREEDY, max_tokens=1)
    step = engine.step().outcomes[decoding][0]
    engine.end(decoding)
    assert isinstance(step, Prefilled)
    return step


class Watched:
    """A real graph that records its prompt runs and does something in the next one."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.runs: list[tuple[int, int, bool]] = []
        """The first position of each, its number of tokens, and whether it is a prefill."""
        self.num_interrupts = 0
        self.in_next_run: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the graph has
        return getattr(self._graph, name)

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        self.runs.append((start, len(token_ids), is_prefill))
        call, self.in_next_run = self.in_next_run, None
        if call is not None:
            call()
        return self._graph.forward(
            token_ids, start, slot=slot, all_rows=all_rows, is_prefill=is_prefill
        )

    def interrupt(self) -> None:
        self.num_interrupts += 1


def toy_graph(folder: Path, num_slots: int = NUM_SLOTS) -> Graph:
    bundle = open_bundle(folder)
    is_fused = bundle.manifest.graph is GraphKind.FUSED
    return load_graph(
        bundle.model_path, is_fused=is_fused, max_model_len=MAX_MODEL_LEN, num_slots=num_slots
    )


def engine_of(graph: Watched, *, is_exact: bool = False) -> Engine:
    chosen = EngineSettings(graph.max_model_len, prefill_chunk_tokens=16, num_slots=NUM_SLOTS)
    return Engine(cast("Graph", graph), (STOP_TOKEN_ID,), chosen, is_exact=is_exact)


def load_exact(folder: Path, num_slots: int = NUM_SLOTS) -> Engine:
    """The toy's graph as one whose tokens depend on nothing that is run beside or before them."""
    chosen = EngineSettings(MAX_MODEL_LEN, prefill_chunk_tokens=16, num_slots=num_slots)
    return Engine(toy_graph(folder, num_slots), (STOP_TOKEN_ID,), chosen, is_exact=True)


@pytest.mark.parametrize("seed", [None, 3])
def test_what_was_an_answer_is_computed_again_as_part_of_a_prompt(
    folder: Path, seed: int | None
) -> None:
    """It was another kernel's: other last bits than those of the dialogue computed anew."""
    engine, prompt = load_exact(folder), PROMPTS[0]
    dialogue = [*prompt, *alone(engine, prompt), 7]
    sampling = SamplingParams(temperature=1.0, seed=seed)
    assert engine.start(dialogue, sampling, max_tokens=1).num_cached == len(prompt)


def test_where_no_bits_are_promised_an_answer_is_taken_over_but_for_a_seed(folder: Path) -> None:
    engine, prompt = load(folder), PROMPTS[0]
    dialogue = [*prompt, *alone(engine, prompt), 7]
    later = [
        engine.start(dialogue, SamplingParams(temperature=1.0, seed=seed), max_tokens=1).num_cached
        for seed in (None, 3)
    ]
    assert later == [len(dialogue) - 2, 0]  # the last token of an answer is never run


def test_a_dialogue_stays_in_its_slot_however_long_its_answers_are(folder: Path) -> None:
    engine = load_exact(folder, num_slots=2)
    finish(engine, {engine.start(PROMPTS[3], GREEDY, max_tokens=2): []})
    said = alone(engine, PROMPTS[1], max_tokens=40)
    assert len(said) > len(PROMPTS[1])
    alone(engine, [*PROMPTS[1], *said, 7])
    assert first_step(engine, [*PROMPTS[3], 11]).cached_tokens == len(PROMPTS[3])


def test_an_answer_so_far_is_computed_again_as_an_answer(
    folder: Path, expected: list[list[int]]
) -> None:
    """Else the rest of an interrupted answer would depend on whether its place was taken."""
    graph, prompt, said = Watched(toy_graph(folder)), PROMPTS[0], expected[0]
    engine = engine_of(graph)
    sequence = engine.start(
        [*prompt, *said[:5]], GREEDY, max_tokens=7, origin=PromptOrigin(None, 5)
    )
    while not sequence.is_prefilled:
        engine.step()
    assert graph.runs == [(0, 16, True), (16, 16, True), (32, 13, True), (45, 5, False)]
    assert finish(engine, {sequence: [sequence.next_input.token_id]}) == [said[5:]]


@pytest.mark.parametrize("seed", [None, 3])
def test_an_answer_so_far_is_taken_over_as_one(folder: Path, seed: int | None) -> None:
    engine, prompt = load_exact(folder), PROMPTS[0]
    sampling = SamplingParams(temperature=1.0, seed=seed)
    steps = engine.generate(prompt, sampling, max_tokens=6)
    said = [step.token_id for step in steps if isinstance(step, Token)]
    again = engine.start(
        [*prompt, *said], sampling, max_tokens=1, origin=PromptOrigin(None, len(said))
    )
    assert again.num_cached == len(prompt) + len(said) - 1


def test_a_seeded_answer_goes_on_as_if_it_had_not_been_interrupted(folder: Path) -> None:
    engine, prompt = load_exact(folder), PROMPTS[0]
    sampling = SamplingParams(temperature=1.5, seed=3)

    def said(num_before: int, before: list[int]) -> list[int]:
        sequence = engine.start(
            [*prompt, *before],
            sampling,
            max_tokens=12 - num_before,
            origin=PromptOrigin(num_answered=num_before),
        )
        return finish(engine, {sequence: []})[0]

    whole = said(0, [])
    assert whole[:5] + said(5, whole[:5]) == whole
    assert said(0, whole[:5]) != whole[5:], "another place in the sequence of random numbers"


def test_a_prefix_is_shared_with_an_answer_that_is_being_made(
    folder: Path, expected: list[list[int]]
) -> None:
    engine, prompt = load(folder), PROMPTS[0]
    first = {engine.start(prompt, GREEDY, max_tokens=12): list[int]()}
    while not next(iter(first)).is_prefilled:
        run(engine, first)
    second = {engine.start([*prompt[:40], 3, 4], GREEDY, max_tokens=12): list[int]()}
    decoding = next(iter(second))
    assert decoding.num_cached == 40
    both = first | second
    want = [expected[0], alone(load(folder), [*prompt[:40], 3, 4])]
    assert finish(engine, both) == want


def test_dialogues_keep_their_prefixes_beside_each_other(engine: Engine) -> None:
    for prompt in PROMPTS:
        assert first_step(engine, prompt).cached_tokens == 0
        finish(engine, {engine.start(prompt, GREEDY, max_tokens=3): []})
    for prompt in PROMPTS:
        assert first_step(engine, [*prompt, 11]).cached_tokens == len(prompt)


def test_the_prefix_used_longest_ago_makes_room(engine: Engine) -> None:
    for prompt in PROMPTS:
        finish(engine, {engine.start(prompt, GREEDY, max_tokens=2): []})
    finish(engine, {engine.start(list(range(200, 240)), GREEDY, max_tokens=2): []})
    cached = [first_step(engine, [*prompt, 11]).cached_tokens for prompt in PROMPTS[1:]]
    assert cached == [len(prompt) for prompt in PROMPTS[1:]]
    assert first_step(engine, PROMPTS[0]).cached_tokens == 0


def test_release_leaves_what_runs(engine: Engine, expected: list[list[int]]) -> None:
    alone(engine, PROMPTS[1])
    answers = {engine.start(PROMPTS[0], GREEDY, max_tokens=12): list[int]()}
    run(engine, answers)
    engine.release()
    assert finish(engine, answers) == expected[:1]
    assert first_step(engine, [*PROMPTS[1], 4]).cached_tokens == 0
    assert engine.num_touched == 0


def test_a_seeded_answer_is_the_same_in_a_batch(folder: Path) -> None:
    seeded = replace(GREEDY, temperature=1.5, seed=3)
    single = load(folder)
    first = {single.start(PROMPTS[0], seeded, max_tokens=12): list[int]()}
    want = finish(single, first)
    engine = load(folder)
    answers = {engine.start(p, GREEDY, max_tokens=12): list[int]() for p in PROMPTS[1:]}
    run(engine, answers)
    answers[engine.start(PROMPTS[0], seeded, max_tokens=12)] = []
    assert finish(engine, answers)[-1:] == want


class Broken:
    """A constraint that fails at the third token."""

    is_complete = False
    forced = ()
    is_ending = False
    left = 2

    def allowed(self, logits: NDArray[np.float32]) -> None:
        if self.left == 0:
            raise ValueError("broken")
        self.left -= 1

    def advance(self, token_id: int) -> None:
        pass


def test_the_failure_of_one_is_its_own(engine: Engine, expected: list[list[int]]) -> None:
    bad = engine.start(PROMPTS[1], GREEDY, max_tokens=12, constraint=Broken())
    answers = {engine.start(PROMPTS[0], GREEDY, max_tokens=12): list[int](), bad: []}
    seen: list[Exception] = []
    while not all(decoding.is_over for decoding in answers):
        for decoding, steps in engine.step().outcomes.items():
            answers[decoding] += [step.token_id for step in steps if isinstance(step, Token)]
            seen += [step for step in steps if isinstance(step, Exception)]
    assert [str(error) for error in seen] == ["broken"]
    assert answers[bad] == expected[1][:2]
    engine.end(bad)
    answers.pop(bad)
    assert finish(engine, answers) == expected[:1]


def test_an_interruption_hits_the_prompt_it_is_meant_for_only(folder: Path) -> None:
    graph = Watched(toy_graph(folder))
    engine = engine_of(graph)
    first = engine.start(PROMPTS[1], GREEDY, max_tokens=12)
    second = engine.start(PROMPTS[0], GREEDY, max_tokens=12)
    engine.interrupt(first)  # no run is in hand
    graph.in_next_run = lambda: engine.interrupt(second)
    engine.step()  # a piece of the first
    assert first.is_prefilled
    assert graph.num_interrupts == 0
    graph.in_next_run = lambda: engine.interrupt(second)
    while not second.num_prefilled:
        engine.step()
    assert graph.num_interrupts == 1


def break_off() -> None:
    raise InterruptedRunError


def test_an_interrupted_piece_is_run_again(folder: Path, expected: list[list[int]]) -> None:
    graph = Watched(toy_graph(folder))
    engine = engine_of(graph)
    answers = {engine.start(PROMPTS[0], GREEDY, max_tokens=12): list[int]()}
    run(engine, answers)
    graph.in_next_run = break_off
    assert not engine.step().outcomes
    assert finish(engine, answers) == expected[:1]
    assert graph.runs[1] == graph.runs[2]


def test_a_draft_that_a_late_interruption_ends_is_run_again(
    folder: Path, expected: list[list[int]]
) -> None:
    """It was meant for the prompt whose run had just ended."""
    graph = Watched(toy_graph(folder))
    engine = engine_of(graph, is_exact=True)
    answers = {engine.start(PROMPTS[2], GREEDY, max_tokens=12): list[int]()}
    while not any(answers.values()):
        run(engine, answers)
    graph.in_next_run = break_off
    while graph.runs[-1][2]:
        run(engine, answers)
    assert finish(engine, answers) == expected[2:3]


def test_a_slot_that_could_not_be_filled_is_free_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = toy_graph(folder)
    engine = engine_of(Watched(graph))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as full:
        full.setattr(graph, "adapt", fail)
        with pytest.raises(MemoryError):
            engine.start(PROMPTS[0], GREEDY, max_tokens=1)
    assert len([engine.start(prompt, GREEDY, max_tokens=1) for prompt in PROMPTS]) == NUM_SLOTS


def test_a_run_that_is_interrupted_ends_at_once(folder: Path) -> None:
    graph = toy_graph(folder)
    for _ in iterate_until_interrupted(graph):
        pass
    assert np.isfinite(graph.forward(np.array([5, 6]), 0)).all()


def iterate_until_interrupted(graph: Graph) -> Iterator[None]:
    """Run prompts while another thread interrupts, until one run notices."""
    stop = threading.Event()

    def bother() -> None:
        while not stop.is_set():
            graph.interrupt()

    thread = threading.Thread(target=bother)
    thread.start()
    try:
        for _ in range(1000):
            try:
                graph.forward(np.arange(200) % 250, 0)
            except InterruptedRunError:
                return
            yield
        raise AssertionError("no run was interrupted")
    finally:
        stop.set()
        thread.join()


def test_the_prompt_of_the_most_urgent_is_run_first(engine: Engine) -> None:
    first = engine.start(PROMPTS[3], GREEDY, max_tokens=2)
    urgent = engine.start(PROMPTS[0], GREEDY, max_tokens=2)
    first.level, urgent.level = 2, 0
    while not urgent.is_prefilled:
        engine.step()
        assert first.num_prefilled == 0
    for decoding in (first, urgent):
        engine.end(decoding)


def test_a_slot_between_those_that_decode_is_left_as_it_is(folder: Path) -> None:
    """Its tokens are the prefix cache, though the run spans its place."""
    graph = Watched(toy_graph(folder))
    engine = engine_of(graph)
    prompts = (PROMPTS[0], PROMPTS[1], PROMPTS[3])
    answers = {engine.start(p, GREEDY, max_tokens=30): list[int]() for p in prompts}
    middle = list(answers)[1]
    while len(answers[middle]) < 3 or not all(s.is_prefilled for s in answers):
        run(engine, answers)
    for _ in range(3):  # all of them in one run
        run(engine, answers)
    engine.end(middle)
    answers.pop(middle)
    held = graph.read(middle.slot)
    finish(engine, answers)
    np.testing.assert_array_equal(graph.read(middle.slot), held)
