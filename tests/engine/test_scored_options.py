"""Options behind a prompt: the log-probabilities of one run over everything, whoever else runs."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.engine.decoding import Decoding
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Token
from edged.protocol.request import SamplingParams
from edged.specialists.scoring import MAX_PASS_TOKENS, OptionScorer
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


def test_a_pass_counts_as_so_many_rows_behind_the_prompt(engine: Engine) -> None:
    decoding, _ = begin(engine, [[60, 61, 62, 63]])
    while not decoding.is_over:
        ran = engine.step()
    engine.end(decoding)
    assert (ran.num_rows, ran.num_pairs) == (3, 3 * len(PROMPT))


def test_an_option_that_does_not_fit_behind_the_prompt_is_refused(engine: Engine) -> None:
    room = MAX_MODEL_LEN - len(PROMPT)
    assert len(scores(engine, [[7] * (room + 1)])) == 1
    with pytest.raises(ValueError, match="do not fit"):
        begin(engine, [[7], [7] * (room + 2)])
