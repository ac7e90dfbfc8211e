"""The real int8 model is exact to the bit: chunked, batched, with drafted tokens, from a cache."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.forced.engines import TokenByToken
from benchmarks.forced.questions import QUESTIONS, Question
from edged.bundle.folder import Bundle
from edged.engine.grammar import FormatError, compile_format
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import DecodeInput, EngineSettings, Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import ChatMessage, FormatType, OutputFormat, SamplingParams
from edged.specialists.features import Template
from tests.system.model.test_answers import PROMPTS

if TYPE_CHECKING:
    from edged.engine.decoding import Constraint, Decoding

GREEDY = SamplingParams()
NUM_SLOTS = 4
COPYING = (
    (
        "Repeat this table and correct the spelling: pump A1: 62.5 bar, pump A2: 61.0 bar,"
        " valve B1: open, valve C: closed, flow: 3.4 l/min."
    ),
    "Write a list of ten fruits, one per line, then the same list again.",
)


@pytest.fixture(scope="module", params=[False, True], ids=["as-a-whole", "in-tiles"])
def has_flash(request: pytest.FixtureRequest) -> bool:
    """The attention kernel: each device uses the faster one."""
    return bool(request.param)


@pytest.fixture(scope="module")
def guessing(real_bundle: Bundle, has_flash: bool) -> Engine:
    settings = EngineSettings(1024, num_slots=NUM_SLOTS, has_flash=has_flash)
    return load_engine(real_bundle, settings)


@pytest.fixture(scope="module")
def plain(real_bundle: Bundle, has_flash: bool) -> Engine:
    """No drafted tokens, and another chunk size."""
    settings = EngineSettings(1024, prefill_chunk_tokens=37, is_guessing=False, has_flash=has_flash)
    return load_engine(real_bundle, settings)


def prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    return tokenizer.encode_chat((ChatMessage("user", prompt),))


def answer(engine: Engine, prompt: list[int], max_tokens: int = 48) -> tuple[list[int], int]:
    """Return the tokens of an answer, and the number of forward passes."""
    sequence = engine.start(prompt, GREEDY, max_tokens=max_tokens)
    token_ids: list[int] = []
    num_runs = 0
    while not sequence.is_over:
        ran = engine.step()
        num_runs += ran.num_rows > 0
        steps = ran.outcomes[sequence]
        token_ids += [step.token_id for step in steps if isinstance(step, Token)]
    engine.end(sequence)
    return token_ids, num_runs


@pytest.fixture(scope="module")
def expected(plain: Engine, tokenizer: Tokenizer) -> dict[str, list[int]]:
    """Each answer alone, one token per forward pass."""
    return {p: answer(plain, prompt_ids(tokenizer, p))[0] for p in (*PROMPTS[::2], *COPYING)}


def test_drafting_changes_no_token_and_saves_forward_passes(
    guessing: Engine, tokenizer: Tokenizer, expected: dict[str, list[int]]
) -> None:
    found = {prompt: answer(guessing, prompt_ids(tokenizer, prompt)) for prompt in expected}
    assert {prompt: tokens for prompt, (tokens, _) in found.items()} == expected
    tokens, num_runs = found[COPYING[0]]
    assert num_runs < len(tokens) / 2


def test_batching_changes_no_token(
    guessing: Engine, tokenizer: Tokenizer, expected: dict[str, list[int]]
) -> None:
    waiting = list(expected)
    running: dict[object, str] = {}
    found: dict[str, list[int]] = {prompt: [] for prompt in expected}
    while waiting or running:
        if waiting and len(running) < NUM_SLOTS:
            prompt = waiting.pop()
            ids = prompt_ids(tokenizer, prompt)
            running[guessing.start(ids, GREEDY, max_tokens=48)] = prompt
        for sequence, steps in guessing.step().outcomes.items():
            tokens = [step.token_id for step in steps if isinstance(step, Token)]
            found[running[sequence]] += tokens
            if sequence.is_over:
                guessing.end(sequence)
                del running[sequence]
    assert found == expected


def held(
    engine: Engine, tokenizer: Tokenizer, questions: Sequence[Question | None], *, is_forcing: bool
) -> list[tuple[list[int], NDArray[np.float32]]]:
    """Answer together, with free text for None; return tokens, and logits that tell the cache."""
    answers: dict[Decoding, list[int]] = {}
    for question in questions:
        messages = (ChatMessage("user", PROMPTS[0]),) if question is None else question.messages
        schema = None if question is None else question.schema
        kind = FormatType.TEXT if schema is None else FormatType.JSON_SCHEMA
        constraint: Constraint | None = compile_format(tokenizer, OutputFormat(kind, schema))
        if constraint is not None and not is_forcing:
            constraint = TokenByToken(constraint)
        prompt = tokenizer.encode_chat(messages)
        answers[engine.start(prompt, GREEDY, max_tokens=120, constraint=constraint)] = []
    while not all(decoding.is_over for decoding in answers):
        for decoding, steps in engine.step().outcomes.items():
            answers[decoding] += [step.token_id for step in steps if isinstance(step, Token)]
    found = []
    for decoding, token_ids in answers.items():
        last = decoding.num_tokens - 8  # the end of the answer may not have been run
        logits = engine._graph.forward(np.array([7]), last, slot=decoding.slot, is_prefill=False)
        found.append((token_ids, logits[0].copy()))
        engine.end(decoding)
    engine.release()  # the cache was used without the engine's knowledge
    return found


def test_forced_text_changes_no_bit(guessing: Engine, tokenizer: Tokenizer) -> None:
    alone = [held(guessing, tokenizer, [one], is_forcing=True)[0] for one in QUESTIONS]
    singly = [held(guessing, tokenizer, [one], is_forcing=False)[0] for one in QUESTIONS]
    beside = held(guessing, tokenizer, [*QUESTIONS, None], is_forcing=True)
    for expected, *others in zip(alone, singly, beside, strict=False):
        stream = tokenizer.detokenizer()
        json.loads("".join(map(stream.push, expected[0])))
        for token_ids, logits in others:
            assert token_ids == expected[0]
            np.testing.assert_array_equal(logits, expected[1])


def test_a_schema_whose_fixed_text_is_beyond_the_limits_is_refused(tokenizer: Tokenizer) -> None:
    row = {"type": "array", "items": {"const": 1}, "minItems": 100, "maxItems": 100}
    table = {"type": "array", "items": row, "minItems": 100, "maxItems": 100}
    with pytest.raises(FormatError, match=r"format\.schema: .*Too many items"):
        compile_format(tokenizer, OutputFormat(FormatType.JSON_SCHEMA, table))


def test_logits_are_bit_identical_for_all_prefill_chunks(plain: Engine) -> None:
    plain.release()  # the cache is used without the engine's knowledge
    graph = plain._graph
    ids = np.random.default_rng(5).integers(100, 40_000, 150)

    def last(*pieces: int) -> np.typing.NDArray[np.float32]:
        start = 0
        for count in pieces:
            logits = graph.forward(ids[start : start + count], start)
            start += count
        assert start == len(ids)
        return np.array(logits[0])

    whole = last(150)
    for pieces in ((64, 64, 22), (149, 1), (*[1] * 20, 130), (100, *[1] * 50)):
        np.testing.assert_array_equal(last(*pieces), whole, err_msg=str(pieces))


def test_a_recomputed_answer_is_bit_identical(plain: Engine) -> None:
    """In one chunk instead of token by token, but with the decode kernels."""
    plain.release()
    graph = plain._graph
    ids = np.random.default_rng(6).integers(100, 40_000, 120)
    graph.forward(ids[:90], 0)
    for position in range(90, 120):
        (one_by_one,) = graph.decode([DecodeInput(0, int(ids[position]), position)])
    expected, held = one_by_one.copy(), graph.read(0)
    graph.forward(ids[:90], 0)
    again = graph.forward(ids[90:], 90, is_prefill=False)
    np.testing.assert_array_equal(again[0], expected)
    np.testing.assert_array_equal(graph.read(0), held)


def prompt_in_cache(engine: Engine, prompt: list[int]) -> tuple[int, np.typing.NDArray[np.uint8]]:
    """Return how many tokens of a prompt were cached, and its keys and values."""
    sequence = engine.start(prompt, GREEDY, max_tokens=1)
    while not sequence.is_over:
        engine.step()
    engine.end(sequence)
    return sequence.num_cached, engine._graph.read(sequence.slot)


def test_a_continued_dialogue_is_bit_identical_to_one_computed_from_its_start(
    guessing: Engine, plain: Engine, tokenizer: Tokenizer
) -> None:
    """The same bits in the cache after each prompt, and the same tokens in each answer."""
    turns: list[ChatMessage] = []
    num_known = 0
    for question in ("Name three colours.", "And one more?", "Which of them is the best?"):
        turns.append(ChatMessage("user", question))
        ids = tokenizer.encode_chat(turns)
        plain.release()
        num_cached, goes_on = prompt_in_cache(guessing, ids)
        _, anew = prompt_in_cache(plain, ids)
        assert num_cached >= num_known
        np.testing.assert_array_equal(goes_on, anew, err_msg=question)
        tokens, _ = answer(guessing, ids)
        assert tokens == answer(plain, ids)[0]
        stream = tokenizer.detokenizer()
        said = "".join(stream.push(token) for token in tokens[:-1]) + stream.flush()
        turns.append(ChatMessage("assistant", said))
        num_known = len(ids)


def test_what_heads_read_of_a_prompt_is_bit_identical_alone_and_beside_others(
    real_bundle: Bundle, tokenizer: Tokenizer, has_flash: bool
) -> None:
    template = Template(tokenizer.encode, tokenizer.beginning_ids)
    texts = [*PROMPTS, "Off!", "Is the door of the garage still open, or did I close it?"][-8:]

    def load(num_slots: int, chunk_tokens: int, batch_tokens: int) -> Engine:
        settings = EngineSettings(
            1024, None, chunk_tokens, num_slots, 1, has_flash=has_flash, batch_tokens=batch_tokens
        )
        engine = load_engine(real_bundle, settings)
        engine.make_prefix(template.before_ids)
        return engine

    def features(engine: Engine, texts: list[str]) -> tuple[list[NDArray[np.float32]], int]:
        """Return the features of prompts that wait together, and the number of forward passes."""
        prompts = [template.prompt(text, math.prod(engine.hidden_shape)) for text in texts]
        running = [engine.start(ids, GREEDY, max_tokens=1, reader=r) for ids, r in prompts]
        num_runs = 0
        while not all(decoding.is_over for decoding in running):
            num_runs += 1
            engine.step()
        for decoding in running:
            engine.end(decoding)
        return [reader.features() for _, reader in prompts], num_runs

    single, many = load(1, 37, 0), load(8, 64, 2048)
    alone = [features(single, [text])[0][0] for text in texts]
    all_runs = 0
    for width in (1, 2, 4, 8):
        for first in range(0, 8, width):
            group = slice(first, first + width)
            for step in (1, -1):
                found, num_runs = features(many, texts[group][::step])
                np.testing.assert_array_equal(found, alone[group][::step])
                all_runs += num_runs
    assert all_runs < 2 * 8 * 4 * 2 / 3
