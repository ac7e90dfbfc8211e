"""What a format leaves one way to say is not decoded: fewer runs, the same answer in company."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher

from benchmarks.forced.engines import TokenByToken
from edged.bundle.folder import open_bundle
from edged.engine import grammar
from edged.engine.decoding import Constraint, Decoding
from edged.engine.grammar import MAX_SEARCHED, GrammarConstraint, compile_format
from edged.engine.loading import load_engine, load_graph
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, PromptOrigin, Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import Answer, FinishReason, FormatType, OutputFormat, SamplingParams
from tests.breakouts import BREAKOUTS
from tests.held_answers import WIDTHS, ask, break_outs, cases, check
from tests.held_answers import held as json_request
from tests.tiny_model import MAX_MODEL_LEN, STOP_TOKEN_ID, write_tiny_bundle

GREEDY = SamplingParams()
PROMPT = list(range(5, 30))


def of(**properties: object) -> dict[str, Any]:
    required = list(properties)
    members = {"properties": properties, "required": required, "additionalProperties": False}
    return {"type": "object", **members}


ROOM = of(
    room={"enum": ["kitchen", "bedroom"]},
    level={"type": "integer", "minimum": 0, "maximum": 9},
    is_on={"type": "boolean"},
)
SCHEMAS = (
    ROOM,
    of(state={"const": "the heating is off"}, name={"type": "string", "maxLength": 6}),
    of(fault={"enum": ["no water", "no power", "leak"]}),
    of(device={"enum": ["Sheer Curtain", "Sheer Curtains C new", "Sheer Curtain rod"]}),
    of(values={"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(open_bundle(folder))


@pytest.fixture
def engine(folder: Path) -> Engine:
    path = folder / "model.onnx"
    graph = load_graph(path, is_fused=True, max_model_len=MAX_MODEL_LEN, num_threads=1, num_slots=4)
    settings = EngineSettings(graph.max_model_len, num_slots=4)
    return Engine(graph, (STOP_TOKEN_ID,), settings, is_exact=True)


def held(tokenizer: Tokenizer, schema: dict[str, Any]) -> GrammarConstraint:
    constraint = compile_format(tokenizer, OutputFormat(FormatType.JSON_SCHEMA, schema=schema))
    assert constraint is not None
    return constraint


def decode(
    engine: Engine, *constraints: Constraint, max_tokens: int = 100
) -> tuple[list[list[int]], int]:
    """Return the tokens of answers that are decoded together, and the runs that chose tokens."""
    answers: dict[Decoding, list[int]] = {
        engine.start(PROMPT, GREEDY, max_tokens=max_tokens, constraint=one): []
        for one in constraints
    }
    num_runs = 0
    while not all(decoding.is_over for decoding in answers):
        ran = engine.step()
        num_runs += ran.num_rows > 0
        for decoding, steps in ran.outcomes.items():
            answers[decoding] += [step.token_id for step in steps if isinstance(step, Token)]
    for decoding in answers:
        engine.end(decoding)
    return list(answers.values()), num_runs


def text(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    stream = tokenizer.detokenizer()
    return "".join(map(stream.push, token_ids)) + stream.flush()


def test_forced_text_takes_no_run_of_its_own(engine: Engine, tokenizer: Tokenizer) -> None:
    (answer,), num_runs = decode(engine, held(tokenizer, ROOM))
    (plain,), num_plain = decode(engine, TokenByToken(held(tokenizer, ROOM)))
    assert json.loads(text(tokenizer, answer)).keys() == {"room", "level", "is_on"}
    assert json.loads(text(tokenizer, plain)).keys() == {"room", "level", "is_on"}
    assert 2 * num_runs < num_plain


@pytest.mark.parametrize("num_beside", [2, 4])
def test_an_answer_has_the_same_tokens_alone_and_in_company(
    engine: Engine, tokenizer: Tokenizer, num_beside: int
) -> None:
    alone = [decode(engine, held(tokenizer, schema))[0][0] for schema in SCHEMAS]
    for first in range(0, len(SCHEMAS), num_beside):
        together = SCHEMAS[first : first + num_beside]
        answers, _ = decode(engine, *(held(tokenizer, schema) for schema in together))
        assert answers == alone[first : first + num_beside]


def test_forced_text_of_several_answers_is_run_together(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    _, num_alone = decode(engine, held(tokenizer, ROOM))
    _, num_runs = decode(engine, *(held(tokenizer, ROOM) for _ in range(4)))
    assert num_runs == num_alone


def test_a_free_text_never_waits_for_forced_text_beside_it(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    free = engine.start(PROMPT, SamplingParams(temperature=1.0, seed=1), max_tokens=60)
    for _ in range(3):
        engine.start(PROMPT, GREEDY, max_tokens=60, constraint=held(tokenizer, ROOM))
    while not free.is_over:
        ran = engine.step()
        assert ran.num_rows <= 4
        for decoding in [d for d in ran.outcomes if d.is_over]:
            engine.end(decoding)
            if decoding is not free:
                engine.start(PROMPT, GREEDY, max_tokens=60, constraint=held(tokenizer, ROOM))


def test_what_is_padded_fits_the_context(engine: Engine, tokenizer: Tokenizer) -> None:
    """One answer is at its end while another one has much that is forced."""
    schema = of(a={"enum": ["x", "y"]}, b={"const": "a" * 60}, c={"enum": ["x", "y"]})
    near = [5 + n % 200 for n in range(MAX_MODEL_LEN - 12)]
    answers = {
        engine.start(prompt, GREEDY, max_tokens=90, constraint=held(tokenizer, schema)): prompt
        for prompt in (near, PROMPT)
    }
    while not all(decoding.is_over for decoding in answers):
        engine.step()
    first, second = answers
    assert first.num_tokens == MAX_MODEL_LEN
    assert second.num_tokens > len(PROMPT) + 60


def test_what_is_forced_is_what_the_tokenizer_makes_of_it(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    schema = of(state={"const": "the heating is off"}, unit={"const": "°C"})
    (answer,), num_runs = decode(engine, held(tokenizer, schema))
    said = text(tokenizer, answer)
    assert json.loads(said) == {"state": "the heating is off", "unit": "°C"}
    assert answer == tokenizer.encode(said)
    assert num_runs == 0, "forced to the end: nothing is left to choose"


CURTAINS = ("Sheer Curtain", "Sheer Curtains C new", "Sheer Curtain's", "Curtain °C", "Curtain °F")
# With them " Curtain" is " Cur" and "tain", but " Curtains" is " Curt" and "ains".
SPLITS = ("a i", "ai n", "ain s", "C u", "Cu r", "Ġ Cur", "t ain", "ĠCur t")


@pytest.fixture(scope="module")
def curtains(folder: Path) -> Tokenizer:
    tree = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model, manifest = tree["model"], open_bundle(folder).manifest
    for merge in SPLITS:
        model["vocab"].setdefault(merge.replace(" ", ""), len(model["vocab"]))
    model["merges"] = [merge.split(" ") for merge in SPLITS]
    facts = replace(manifest.model, vocab_size=len(model["vocab"]) + 1)
    return Tokenizer(json.dumps(tree), replace(manifest, model=facts))


def test_no_token_is_forced_of_a_word_that_may_become_longer(curtains: Tokenizer) -> None:
    assert curtains.bytes_of(curtains.encode(" Curtain")[0]) == b" Cur"
    assert curtains.bytes_of(curtains.encode(" Curtains")[0]) == b" Curt"
    num_forced = 0
    for count in range(2, len(CURTAINS) + 1):
        choices = OutputFormat(FormatType.CHOICE, choices=CURTAINS[:count])
        for name in choices.choices:
            constraint, left = compile_format(curtains, choices), curtains.encode(name)
            assert constraint is not None
            while left:
                found = list(constraint.forced)
                assert found == left[: len(found)]
                num_forced += len(found)
                constraint.advance(left.pop(0))
    assert num_forced > 50, "the beginning that they share is"


def test_the_end_of_a_word_is_found_in_long_forced_text(curtains: Tokenizer) -> None:
    long = "a b " * 50
    for words, is_found in ((f"{long}z", True), ("a" * 100, False)):
        choices = OutputFormat(FormatType.CHOICE, choices=(f"{words}x", f"{words}y"))
        constraint = compile_format(curtains, choices)
        assert constraint is not None
        assert text(curtains, list(constraint.forced)) == (words[:-2] if is_found else "")


def test_what_takes_thousands_of_tokens_is_forced_a_part_at_a_time(tokenizer: Tokenizer) -> None:
    """All at once, nothing else was decoded for 0.1 s and more."""
    sevens = {"type": "array", "items": {"const": 7}, "minItems": 2000, "maxItems": 2000}
    constraint, said = held(tokenizer, sevens), ""
    while not constraint.is_complete:
        found = list(constraint.forced)
        assert 0 < len(found) <= MAX_SEARCHED
        said += text(tokenizer, found)
        assert constraint.is_ending == said.endswith("]")
        for token_id in found:
            constraint.advance(token_id)
    assert json.loads(said) == [7] * 2000


def test_forced_text_without_certain_tokens_is_looked_for_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no end of a word, and behind many thousand tokens a search took 60 ms."""
    searches: list[int] = []

    def forced(matcher: LLMatcher) -> list[int]:
        searches.append(len(searches))
        return find(matcher)

    find = grammar._forced
    monkeypatch.setattr(grammar, "_forced", forced)
    word = "a" * 200
    choices = OutputFormat(FormatType.CHOICE, choices=(f"{word}x", f"{word}y"))
    constraint = compile_format(tokenizer, choices)
    assert constraint is not None
    for token_id in tokenizer.encode(word):
        assert not constraint.forced
        constraint.advance(token_id)
    assert len(searches) == 2, "at the beginning and at its end"
    constraint.advance(tokenizer.encode("x")[0])
    assert constraint.is_complete


def test_an_answer_whose_end_is_forced_needs_no_run_for_it(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    choices = OutputFormat(FormatType.CHOICE, choices=("yes, it is", "no, it is not"))
    constraint = compile_format(tokenizer, choices)
    assert constraint is not None
    (answer,), num_runs = decode(engine, constraint)
    assert text(tokenizer, answer) in choices.choices
    assert num_runs == 0, "its first token says which of the two it is"


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_forced_text_is_cut_at_the_limit_as_any_other(
    engine: Engine, tokenizer: Tokenizer, max_tokens: int
) -> None:
    (whole,), _ = decode(engine, held(tokenizer, ROOM))
    (answer,), _ = decode(engine, held(tokenizer, ROOM), max_tokens=max_tokens)
    assert answer == whole[:max_tokens]


def test_the_cache_after_forced_text_is_that_of_single_tokens(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    (answer,), _ = decode(engine, held(tokenizer, ROOM))
    later = [*PROMPT, *answer, 7, 8]
    after = list(engine.generate(later, GREEDY, max_tokens=12))
    engine.release()
    fresh = list(engine.generate(later, GREEDY, max_tokens=12))
    assert [step for step in after if isinstance(step, Token)] == [
        step for step in fresh if isinstance(step, Token)
    ]


def test_a_repetition_penalty_counts_forced_tokens(engine: Engine, tokenizer: Tokenizer) -> None:
    penalised = SamplingParams(repetition_penalty=2.0)
    schema = of(a={"const": "aaaa"}, b={"type": "string", "maxLength": 8})
    answers = []
    for constraint in (held(tokenizer, schema), TokenByToken(held(tokenizer, schema))):
        steps = engine.generate(PROMPT, penalised, max_tokens=60, constraint=constraint)
        answers.append([step.token_id for step in steps if isinstance(step, Token)])
    # Of one character each in this tokenizer: whoever chose them, they are the same.
    assert text(tokenizer, answers[0]) == text(tokenizer, answers[1])


SEEDED = SamplingParams(temperature=1.5, seed=7)


def go_on(
    engine: Engine,
    constraint: Constraint,
    answered: Sequence[int],
    sampling: SamplingParams,
    max_tokens: int = 100,
) -> list[int]:
    """Return an answer that was paused after so many tokens, with those after the pause."""
    origin = PromptOrigin(None, len(answered))
    prompt = [*PROMPT, *answered]
    decoding = engine.start(
        prompt,
        sampling,
        max_tokens=max_tokens - len(answered),
        constraint=constraint,
        origin=origin,
    )
    found = list(answered)
    while not decoding.is_over:
        steps = engine.step().outcomes[decoding]
        found += [step.token_id for step in steps if isinstance(step, Token)]
    engine.end(decoding)
    return found


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_seeded_answer_goes_on_after_a_pause_as_without_one(
    engine: Engine, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    whole = go_on(engine, held(tokenizer, schema), (), SEEDED)
    for count in range(1, len(whole)):
        paused = held(tokenizer, schema)
        for token_id in whole[:count]:
            paused.advance(token_id)
        assert go_on(engine, paused, whole[:count], SEEDED) == whole


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_seeded_answer_is_the_one_that_was_chosen_token_by_token(
    engine: Engine, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    plain = go_on(engine, TokenByToken(held(tokenizer, schema)), (), SEEDED)
    assert go_on(engine, held(tokenizer, schema), (), SEEDED) == plain


def test_answers_to_random_schemas_keep_what_replies_promise(
    tokenizer: Tokenizer, folder: Path
) -> None:
    engine = load_engine(open_bundle(folder), EngineSettings(MAX_MODEL_LEN, num_slots=max(WIDTHS)))
    wrong, counts = check(engine, tokenizer, list(cases(tokenizer, 1, 40)))
    assert not wrong
    assert counts.keys() == {"stop", "length", "deadline", "cancelled"}


def test_prompts_that_try_to_break_out_get_what_replies_promise(
    tokenizer: Tokenizer, folder: Path
) -> None:
    assert len(set(BREAKOUTS)) >= 50
    engine = load_engine(open_bundle(folder), EngineSettings(MAX_MODEL_LEN, num_slots=max(WIDTHS)))
    both = list(break_outs(tokenizer))
    wrong, counts = check(engine, tokenizer, both[::4] + both[3::4], widths=(8,))
    assert not wrong
    assert counts["stop"] > 30


def test_forced_text_ends_with_the_context(engine: Engine, tokenizer: Tokenizer) -> None:
    schema = of(a={"enum": ["x", "y"]}, b={"const": "a" * 99}, c={"enum": ["x", "y"]})
    prompt = [5 + n % 200 for n in range(MAX_MODEL_LEN - 30)]
    steps = list(engine.generate(prompt, GREEDY, max_tokens=90, constraint=held(tokenizer, schema)))
    assert sum(isinstance(step, Token) for step in steps) == 30


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_json_that_was_cut_is_none_even_if_it_could_be_parsed(
    engine: Engine, tokenizer: Tokenizer, max_tokens: int
) -> None:
    case = json_request(tokenizer, "a year", {"type": "integer", "minimum": 1000, "maximum": 1999})
    (cut,) = ask(engine, tokenizer, [replace(case, max_tokens=max_tokens)])
    assert isinstance(cut.said, Answer)
    assert len(str(json.loads(cut.said.text))) == max_tokens
    assert cut.said.json is None


def test_what_a_stop_string_cuts_out_of_forced_text_is_none(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    case = json_request(tokenizer, "a state", of(state={"const": "the heating is off"}))
    stopped = replace(case, request=replace(case.request, stop=("ing",)))
    (cut,) = ask(engine, tokenizer, [stopped])
    assert cut.said == Answer('{"state":"the heat', FinishReason.STOP, None)
    assert cut.sent == cut.said.text
    assert text(tokenizer, list(cut.token_ids)).endswith("ing"), "no token behind it counts"
