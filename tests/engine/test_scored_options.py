"""Options behind a prompt: the log-probabilities of one run over everything, whoever else runs."""

import queue
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.daemon.worker import Worker
from edged.engine.decoding import Decoding, ForwardPass
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Token
from edged.engine.tokenizer import Tokenizer
from edged.errors import ErrorCode
from edged.node.generation import Finished, Generation, Paused
from edged.protocol.request import (
    Answer,
    ChatMessage,
    FormatType,
    OnDeadline,
    OutputFormat,
    Question,
    Rejected,
    Request,
    SamplingParams,
)
from edged.specialists.decider import MAX_PASS_TOKENS
from edged.specialists.installed import Installed
from edged.specialists.scoring import OptionScorer, OptionScoring
from tests.fakes import FakeClock
from tests.make_request import make_request
from tests.tiny_model import MAX_MODEL_LEN, write_tiny_bundle

GREEDY = SamplingParams()
PROMPT = list(range(5, 50))
# Of one token, of a few that begin alike, and of more than one pass.
OPTIONS = ([7], [60, 61, 62], [60, 61], list(range(100, 101 + 2 * MAX_PASS_TOKENS)))


@pytest.fixture(scope="module", params=[True, False], ids=["fused", "portable"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"), fused=request.param)


@pytest.fixture
def engine(folder: Path) -> Engine:
    return load(folder)


def load(folder: Path) -> Engine:
    chosen = EngineSettings(MAX_MODEL_LEN, num_threads=1, prefill_chunk_tokens=16, num_slots=3)
    return load_engine(open_bundle(folder), chosen)


def begin(
    engine: Engine, options: Sequence[Sequence[int]] = OPTIONS, prompt: Sequence[int] = PROMPT
) -> tuple[Decoding, OptionScorer]:
    scorer = OptionScorer(len(prompt), options)
    return engine.start(prompt, GREEDY, max_tokens=1, reader=scorer), scorer


def scores(
    engine: Engine, options: Sequence[Sequence[int]] = OPTIONS, prompt: Sequence[int] = PROMPT
) -> NDArray[np.float64]:
    decoding, scorer = begin(engine, options, prompt)
    while not decoding.is_over:
        ran = engine.step()
        assert not any(isinstance(step, Token) for step in ran.outcomes[decoding])
    engine.end(decoding)
    return scorer.features()


def test_the_scores_are_those_of_a_run_over_prompt_and_option(engine: Engine, folder: Path) -> None:
    graph, expected = load(folder)._graph, []
    for option in OPTIONS:
        rows = graph.forward(np.array([*PROMPT, *option]), 0, all_rows=True).astype(np.float64)
        shares = rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))
        places = range(len(PROMPT) - 1, len(PROMPT) + len(option) - 1)
        expected.append(
            np.sum([shares[place, token] for place, token in zip(places, option, strict=True)])
        )
    np.testing.assert_allclose(scores(engine), expected, rtol=1e-4)


def test_in_another_order_the_scores_are_the_same_to_the_bit(folder: Path) -> None:
    plain = scores(load(folder))
    for order in ([3, 2, 1, 0], [1, 3, 0, 2]):
        permuted = scores(load(folder), [OPTIONS[index] for index in order])
        np.testing.assert_array_equal(permuted, plain[order])


def test_beside_other_answers_the_scores_and_the_answers_are_those_alone(
    engine: Engine, folder: Path
) -> None:
    alone = scores(load(folder))
    prompts = ([60, 61, 62, 63], [9] * 40)
    expected = []
    for prompt in prompts:
        answer = load(folder).generate(prompt, GREEDY, max_tokens=30)
        expected.append([step.token_id for step in answer if isinstance(step, Token)])
    beside = {engine.start(one, GREEDY, max_tokens=30): list[int]() for one in prompts}
    scored, scorer = begin(engine)
    while not all(one.is_over for one in (*beside, scored)):
        for decoding, steps in engine.step().outcomes.items():
            if decoding is not scored:
                beside[decoding] += [step.token_id for step in steps if isinstance(step, Token)]
    assert list(beside.values()) == expected
    np.testing.assert_allclose(scorer.features(), alone, rtol=1e-5)


def test_others_have_their_turn_between_two_passes(engine: Engine) -> None:
    running = engine.start([60, 61, 62], GREEDY, max_tokens=60)
    scored, _ = begin(engine, [[60 + index, 7] for index in range(10)])
    turns = []
    while not scored.is_over:
        turns.append(scored in engine.step().outcomes)
    engine.end(scored)
    engine.end(running)
    assert all(not (one and other) for one, other in pairwise(turns[1:]))


def test_what_was_scored_is_no_part_of_the_next_prompt(engine: Engine) -> None:
    scores(engine)
    longer = [*PROMPT, *OPTIONS[1]]
    decoding = engine.start([*longer, 9], GREEDY, max_tokens=5)
    assert decoding.num_cached <= len(PROMPT)
    engine.end(decoding)


def test_the_prompt_of_another_choice_is_not_run_again(engine: Engine) -> None:
    first = scores(engine)
    decoding, scorer = begin(engine)
    assert decoding.num_cached == len(PROMPT) - 1
    while not decoding.is_over:
        engine.step()
    engine.end(decoding)
    np.testing.assert_allclose(scorer.features(), first, rtol=1e-4)


def test_one_that_ends_early_leaves_its_slot_to_others(engine: Engine) -> None:
    expected = scores(engine)
    for num_steps in range(5):
        decoding, _ = begin(engine)
        for _ in range(num_steps):
            engine.step()
        engine.end(decoding)
        np.testing.assert_allclose(scores(engine), expected, rtol=1e-4)


def test_an_option_that_does_not_fit_behind_the_prompt_is_refused(engine: Engine) -> None:
    room = MAX_MODEL_LEN - len(PROMPT)
    assert len(scores(engine, [[7] * (room + 1)])) == 1
    with pytest.raises(ValueError, match="do not fit"):
        begin(engine, [[7], [7] * (room + 2)])


SCORED = OutputFormat(FormatType.CHOICE, choices=("open", "close it", "ask"), is_scored=True)
DARK = (ChatMessage("user", "The window, please."),)
LIMIT_S = 60.0


def finished(
    folder: Path,
    asked: Request,
    after_step: Callable[[int, Worker, FakeClock], None] | None = None,
    paused: list[Paused] | None = None,
) -> Finished:
    """Have a request decided on the inference thread; ``after_step`` sees the number of each."""
    engine, tokenizer = load(folder), Tokenizer.load(open_bundle(folder))
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    clock = FakeClock(0.0)
    worker = Worker(engine, tokenizer.detokenizer, events.put, clock)
    step, counts = engine.step, iter(range(1000))

    def stepped() -> ForwardPass:
        ran = step()
        if after_step is not None:
            after_step(next(counts), worker, clock)
        return ran

    engine.step = stepped  # type: ignore[method-assign]
    run = Generation(1, (), asked, 0)
    scoring = OptionScoring(tokenizer.encode)
    run.decider = Installed(scoring=scoring).decider(asked, tokenizer.encode_chat)
    worker.start_thread()
    worker.start(run)
    event = events.get(timeout=LIMIT_S)
    while paused is not None and isinstance(event, Paused):
        paused.append(event)
        worker.start(event.generation)
        event = events.get(timeout=LIMIT_S)
    assert worker.stop(LIMIT_S)
    assert events.empty(), "more than one reply"
    assert isinstance(event, Finished)
    return event


def test_a_scored_choice_is_answered_without_a_token(folder: Path) -> None:
    done = finished(folder, make_request(messages=DARK, format=SCORED))
    answer = done.outcome
    assert isinstance(answer, Answer)
    assert answer.choice is not None
    assert answer.text == SCORED.choices[answer.choice]
    shares = answer.detail["probabilities"]
    assert shares[answer.choice] == max(shares) == answer.detail["confidence"]
    assert done.usage.completion_tokens == 0
    # Its passes are neither a prompt's tokens nor an answer's: no cost is learned from them.
    assert done.generation.spent.decode_runs == 0


@pytest.mark.parametrize("at", [0, 1, 2, 4])
def test_a_cancel_ends_it_between_two_options(folder: Path, at: int) -> None:
    def cancel(number: int, worker: Worker, clock: FakeClock) -> None:
        del clock
        assert number <= at, "it went on"
        if number == at:
            worker.cancel(1)

    outcome = finished(folder, make_request(messages=DARK, format=SCORED), cancel).outcome
    assert isinstance(outcome, Rejected)
    assert outcome.code is ErrorCode.CANCELLED


def test_after_a_pause_among_the_options_the_answer_is_the_same(folder: Path) -> None:
    asked = make_request(messages=DARK, format=SCORED)
    expected = finished(folder, asked).outcome
    paused: list[Paused] = []

    def pause(number: int, worker: Worker, clock: FakeClock) -> None:
        del clock
        if number == 2:
            worker.pause(1)

    done = finished(folder, asked, pause, paused)
    assert len(paused) == 1
    assert done.outcome == expected


def tick(number: int, worker: Worker, clock: FakeClock) -> None:
    """Let each step take a second."""
    del number, worker
    clock.advance(1.0)


@pytest.mark.parametrize("deadline_s", [1.5, 3.0, 5.0])
def test_a_deadline_among_the_options_ends_it_with_one_refusal(
    folder: Path, deadline_s: float
) -> None:
    asked = make_request(messages=DARK, format=SCORED, deadline_s=deadline_s)
    done = finished(folder, asked, tick)
    assert isinstance(done.outcome, Rejected)
    assert done.outcome.code is ErrorCode.TIMEOUT
    assert done.finished_s <= deadline_s


def test_questions_that_may_be_left_out_are_at_the_deadline(folder: Path) -> None:
    first = Question("first", choices=("a", "b"))
    second = Question("second", choices=("open", "close it"), ask="Which?")
    asked = make_request(
        messages=DARK,
        questions=(first, second),
        on_deadline=OnDeadline.SHORTEN,
        deadline_s=100.0,
    )
    whole = finished(folder, asked, tick)
    assert isinstance(whole.outcome, Answer)
    assert set(whole.outcome.json) == {"first", "second"}
    asked = replace(asked, deadline_s=whole.finished_s - 1.5)
    answer = finished(folder, asked, tick).outcome
    assert isinstance(answer, Answer)
    assert answer.json == {"first": whole.outcome.json["first"]}
    assert answer.detail["answers"]["second"] == {"finish_reason": "deadline"}


def test_the_prompt_is_computed_once_for_all_questions(folder: Path) -> None:
    names = "abcd"
    questions = tuple(Question(name, choices=("on", "off"), ask=f"{name}?") for name in names)
    talk = (ChatMessage("user", "It is dark, and nobody is at home. " * 3),)
    done = finished(folder, make_request(messages=talk, questions=questions))
    assert isinstance(done.outcome, Answer)
    prompts = [run.prompt_ids for run in done.generation.decider.runs]  # type: ignore[union-attr]
    longest = max(map(len, prompts))
    assert done.usage.prompt_tokens == sum(map(len, prompts))
    # All prompts but the first begin with the same words.
    assert done.usage.cached_tokens > 3 * (longest - 30)
