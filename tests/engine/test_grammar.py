"""Formats: the answer is one of the choices, or JSON that obeys the schema; else it is refused."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from edged.bundle.folder import open_bundle
from edged.engine.grammar import ConstraintError, FormatError, GrammarConstraint, compile_format
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Token
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import FormatType, OutputFormat, SamplingParams
from tests.system.hostile.schemas import ENDLESS, EXPENSIVE, HONEST
from tests.tiny_model import MAX_MODEL_LEN, STOP_TOKEN_ID, write_tiny_bundle

VOCAB_SIZE = 296
PERSON = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "ok": {"type": "boolean"},
    },
    "required": ["age", "ok"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(open_bundle(folder))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load_engine(open_bundle(folder), EngineSettings(MAX_MODEL_LEN, num_threads=1))


def choice(*choices: str) -> OutputFormat:
    return OutputFormat(FormatType.CHOICE, choices=choices)


def schema(value: Any) -> OutputFormat:  # noqa: ANN401 - also what is no schema
    return OutputFormat(FormatType.JSON_SCHEMA, schema=value)


def constraint(tokenizer: Tokenizer, output_format: OutputFormat) -> GrammarConstraint:
    compiled = compile_format(tokenizer, output_format)
    assert compiled is not None
    return compiled


def allowed(held: GrammarConstraint) -> set[int]:
    logits = np.zeros(VOCAB_SIZE, np.float32)
    held.allowed(logits)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def answer(
    engine: Engine, tokenizer: Tokenizer, output_format: OutputFormat, seed: int
) -> tuple[str, GrammarConstraint, Token]:
    held = constraint(tokenizer, output_format)
    params = SamplingParams(temperature=2, seed=seed)
    steps = list(engine.generate([5, 6], params, max_tokens=200, constraint=held))
    detokenizer = tokenizer.detokenizer()
    text = "".join(detokenizer.push(step.token_id) for step in steps if isinstance(step, Token))
    last = steps[-1]
    assert isinstance(last, Token)
    return text + detokenizer.flush(), held, last


ON_ENGINE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)


@ON_ENGINE
@given(
    choices=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    seed=st.integers(0, 99),
)
def test_a_random_model_gives_one_of_the_choices(
    engine: Engine, tokenizer: Tokenizer, choices: list[str], seed: int
) -> None:
    text, held, _ = answer(engine, tokenizer, choice(*choices), seed)
    assert text in choices
    assert held.is_complete


@ON_ENGINE
@given(seed=st.integers(0, 999))
def test_a_random_model_gives_json_that_obeys_the_schema(
    engine: Engine, tokenizer: Tokenizer, seed: int
) -> None:
    text, held, _ = answer(engine, tokenizer, schema(PERSON), seed)
    person = json.loads(text)
    assert held.is_complete
    assert list(person) == ["age", "ok"]
    assert 0 <= person["age"] <= 150
    assert isinstance(person["ok"], bool)
    # Compact: every token that carries nothing costs the deadline time.
    assert text == json.dumps(person, separators=(",", ":"))


@pytest.mark.parametrize(
    "text", ["\x7f", "\x00", '"\\', "a\nb", "//", "%x", "\u2028", "\U0010ffff"]
)
def test_a_choice_may_hold_any_character(engine: Engine, tokenizer: Tokenizer, text: str) -> None:
    assert answer(engine, tokenizer, choice(text), seed=0)[0] == text


def test_a_whole_answer_ends_without_a_stop_token(engine: Engine, tokenizer: Tokenizer) -> None:
    text, _, last = answer(engine, tokenizer, choice("the"), seed=0)
    assert text == "the"
    assert not last.is_stop


def test_an_answer_that_could_go_on_is_ended_by_a_stop_token(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    ends = [answer(engine, tokenizer, choice("a", "aa"), seed) for seed in range(20)]
    assert {(text, last.is_stop) for text, _, last in ends} == {("a", True), ("aa", False)}


def test_what_may_come_next_is_known_exactly(tokenizer: Tokenizer) -> None:
    held = constraint(tokenizer, choice("yes", "no", "nod"))
    (y,), (n,), (o,), (d,) = (tokenizer.encode(letter) for letter in "ynod")
    assert allowed(held) == {y, n}
    held.advance(n)
    assert allowed(held) == {o}
    assert not held.is_complete
    held.advance(o)
    assert allowed(held) == {d, STOP_TOKEN_ID}
    assert not held.is_complete
    held.advance(STOP_TOKEN_ID)
    assert held.is_complete


def spelled(held: GrammarConstraint, tokenizer: Tokenizer, said: str) -> str:
    """Write a text as far as it is allowed, and return that."""
    for at, character in enumerate(said):
        (token_id,) = tokenizer.encode(character)
        if token_id not in allowed(held):
            return said[:at]
        held.advance(token_id)
    return said


@pytest.mark.parametrize(
    ("value", "said", "written"),
    [
        ({"properties": {"a": {"enum": [1, 2]}}}, r'{"\u0061":1}', '{"\\'),
        (
            {"properties": {"a": {"enum": [1, 2]}}},
            r'{"a":1,"b\\\u0061":1}',
            '{"a":1,"b' + 3 * "\\",
        ),
        ({"patternProperties": {"[0-9]": {"type": "null"}}}, r'{"x\u0031":1}', '{"x\\'),
        ({"patternProperties": {"[0-9]": {"type": "null"}}}, r'{"x\\u":1}', r'{"x\\u":1}'),
        ({}, r'{"\ud800":1}', '{"\\'),
    ],
)
def test_a_name_cannot_be_written_with_escapes_of_unicode(
    tokenizer: Tokenizer, value: dict[str, Any], said: str, written: str
) -> None:
    held = constraint(tokenizer, schema({"type": "object", **value}))
    assert spelled(held, tokenizer, said) == written


@pytest.mark.parametrize("text", [r"C:\ub", r"C:\wb", "\x01", "x\x7f"])
def test_a_value_may_hold_what_must_be_escaped(tokenizer: Tokenizer, text: str) -> None:
    held = constraint(tokenizer, schema({"enum": [r"C:\ub", r"C:\wb", "\x01", "x\x7f"]}))
    assert spelled(held, tokenizer, json.dumps(text)) == json.dumps(text)
    assert held.is_complete


def test_a_forbidden_token_is_an_error(tokenizer: Tokenizer) -> None:
    held = constraint(tokenizer, choice("yes"))
    with pytest.raises(ConstraintError, match="doesn't satisfy the grammar"):
        held.advance(tokenizer.encode("q")[0])


def test_a_grammar_that_runs_into_its_limits_says_so(tokenizer: Tokenizer) -> None:
    held = constraint(
        tokenizer, schema({"type": "string", "pattern": r"(\w{3,90}[^x]{7,80}){9,99}"})
    )
    with pytest.raises(ConstraintError, match="lexer error"):  # noqa: PT012 - at any of the tokens
        for token_id in tokenizer.encode('"' + "abc" * 99):
            allowed(held)
            held.advance(token_id)


def test_free_text_is_not_held_to_anything(tokenizer: Tokenizer) -> None:
    assert compile_format(tokenizer, OutputFormat()) is None


def test_each_answer_has_a_grammar_of_its_own(tokenizer: Tokenizer) -> None:
    first, second = (constraint(tokenizer, choice("ab")) for _ in range(2))
    first.advance(tokenizer.encode("a")[0])
    assert allowed(first) == set(tokenizer.encode("b"))
    assert allowed(second) == set(tokenizer.encode("a"))


def test_a_grammar_compiled_on_one_thread_works_on_another(tokenizer: Tokenizer) -> None:
    held = constraint(tokenizer, choice("ab"))
    found: list[set[int]] = []
    thread = threading.Thread(target=lambda: found.append(allowed(held)))
    thread.start()
    thread.join(10)
    assert found == [set(tokenizer.encode("a"))]


@pytest.mark.parametrize("value", [2**53, -(10**18), 0.1, -1.5e-7, 3.141592653589793, 1e18])
def test_a_number_of_a_schema_is_written_as_it_is(
    engine: Engine, tokenizer: Tokenizer, value: float
) -> None:
    assert json.loads(answer(engine, tokenizer, schema({"const": value}), seed=0)[0]) == value


@pytest.mark.parametrize("value", [True, {}])
def test_a_schema_that_allows_anything_is_any_json(
    engine: Engine, tokenizer: Tokenizer, value: object
) -> None:
    numbers = [answer(engine, tokenizer, schema(value), seed)[0] for seed in range(5)]
    assert all(text[0] in '{["-0123456789tfn' for text in numbers)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (False, r"format\.schema: must be"),
        (None, r"format\.schema: must be"),
        ({"type": "intger"}, r"format\.schema\.type: Invalid type: intger"),
        (
            {"properties": {"a": {"items": {"uniqueItems": True}}}},
            r"format\.schema\.properties\.a\.items: Unimplemented keys: \[\"uniqueItems\"\]",
        ),
        (
            {"anyOf": [{"type": "null"}, {"type": "nil"}]},
            r"format\.schema\.anyOf\[1\].type: Invalid",
        ),
        ({"items": {"not": {}}}, r"format\.schema\.items: Unimplemented keys: \[\"not\"\]"),
        ({"properties": {"a": 3}}, r"format\.schema\.properties\.a: schema must be an object or"),
        ({"properties": 3}, r"format\.schema\.properties: must be an object"),
        ({"$ref": "http://example.com/x"}, r"format\.schema\.\$ref: leads out of the schema"),
        ({"properties": {"a": {"format": "x"}}}, r"format\.schema\.properties\.a: Unknown format"),
        (
            {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"format": "x"}}},
            r"format\.schema\.\$defs\.a: Unknown format",
        ),
        ({"const": "\ud800"}, r"format\.schema: .*hex escape"),
        ({"type": "string", "pattern": "("}, r"format\.schema: regex parse error"),
        ({"minimum": 5, "maximum": 3, "type": "integer"}, r"format\.schema: Unsatisfiable"),
        ({"oneOf": [{"type": "string"}, {"minLength": 2}]}, "oneOf is only supported where"),
        (
            {"properties": {f"p{i}": {"type": "string"} for i in range(900)}},
            r"format\.schema\.properties\.p\d+: costs too much",
        ),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_with_its_path(
    tokenizer: Tokenizer, value: object, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        compile_format(tokenizer, schema(value))


def test_a_deep_schema_is_refused(tokenizer: Tokenizer) -> None:
    value: dict[str, Any] = {}
    for _ in range(400):
        value = {"items": value}
    with pytest.raises(FormatError, match="recursion limit"):
        compile_format(tokenizer, schema(value))


@pytest.mark.parametrize("value", ENDLESS, ids=range(len(ENDLESS)))
def test_a_schema_that_no_finite_answer_obeys_is_refused(
    tokenizer: Tokenizer, value: dict[str, Any]
) -> None:
    with pytest.raises(FormatError, match="no finite answer obeys it; let a property be optional"):
        compile_format(tokenizer, schema(value))


@pytest.mark.parametrize("choices", [(), ("a", "")])
def test_choices_without_a_text_are_refused(tokenizer: Tokenizer, choices: tuple[str, ...]) -> None:
    with pytest.raises(FormatError, match=r"format\.choices: must hold"):
        compile_format(tokenizer, choice(*choices))


def test_choices_beyond_the_limits_are_refused(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.engine.grammar._LIMITS", LLParserLimits(max_grammar_size=3))
    with pytest.raises(FormatError, match=r"format\.choices: .*grammar size"):
        compile_format(tokenizer, choice(*(f"{i} is a number" for i in range(60))))


def test_the_search_for_the_path_is_bounded(tokenizer: Tokenizer) -> None:
    names: dict[str, Any] = {f"p{index}": {} for index in range(40)}
    last = {"type": "object", "properties": {**names, "last": {"format": "x"}}}
    with pytest.raises(FormatError, match=r"format\.schema: Unknown format"):
        compile_format(tokenizer, schema(last))


@pytest.mark.parametrize("value", EXPENSIVE, ids=range(len(EXPENSIVE)))
def test_an_expensive_schema_is_refused_with_its_path_before_it_is_compiled(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, value: dict[str, Any]
) -> None:
    monkeypatch.setattr("edged.engine.grammar.LLMatcher", None)
    with pytest.raises(FormatError, match=r"^format\.schema[^ ]*: "):
        compile_format(tokenizer, schema(value))


@pytest.mark.parametrize("value", HONEST, ids=range(len(HONEST)))
def test_an_honest_schema_is_compiled(tokenizer: Tokenizer, value: dict[str, Any]) -> None:
    assert allowed(constraint(tokenizer, schema(value)))


def test_the_options_of_the_library_are_not_the_requesters(tokenizer: Tokenizer) -> None:
    value = {"type": "integer", "not": {"const": 7}}
    for options in ({"lenient": True}, {"coerce_one_of": True}, {}):
        with pytest.raises(FormatError, match=r"format\.schema\.x-guidance: is not allowed"):
            compile_format(tokenizer, schema({**value, "x-guidance": options}))
    with pytest.raises(FormatError, match="Unimplemented"):
        compile_format(tokenizer, schema(value))


def test_an_older_draft_enforces_the_newer_keywords_as_well(
    engine: Engine, tokenizer: Tokenizer
) -> None:
    value = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "prefixItems": [{"const": 7}],
        "items": False,
        "minItems": 1,
    }
    assert answer(engine, tokenizer, schema(value), seed=0)[0] == "[7]"


def test_a_string_that_runs_into_the_limits_at_once_is_refused(tokenizer: Tokenizer) -> None:
    value = {"type": "string", "pattern": "^(ab?)*$", "minLength": 10_000}
    with pytest.raises(FormatError, match=r"format\.schema: lexer error"):
        compile_format(tokenizer, schema(value))


def test_whatever_a_library_raises_for_choices_is_an_error_of_the_format(
    tokenizer: Tokenizer,
) -> None:
    with pytest.raises(FormatError, match=r"format\.choices: .*UnicodeEncodeError"):
        compile_format(tokenizer, choice("\ud800"))


def test_whatever_a_library_raises_for_a_schema_is_an_error_of_the_format(
    tokenizer: Tokenizer,
) -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(FormatError, match=r"format\.schema: .*RecursionError"):
        compile_format(tokenizer, schema({"const": deep}))


def test_whatever_a_library_raises_for_a_token_is_an_error_of_the_constraint(
    tokenizer: Tokenizer,
) -> None:
    held = constraint(tokenizer, choice("yes"))
    with pytest.raises(ConstraintError, match=r"the grammar: .*OverflowError"):
        held.advance(-1)


class PanicException(BaseException):
    """What pyo3 raises for a panic in Rust cannot be imported; this has its name."""

    __module__ = "pyo3_runtime"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (PanicException("no more"), FormatError),
        (MemoryError(), FormatError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(), SystemExit),
    ],
)
def test_a_panic_is_an_error_of_the_format_and_an_interruption_is_none(
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    seen: type[BaseException],
) -> None:
    def panic(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("edged.engine.grammar._matcher", panic)
    with pytest.raises(seen):
        compile_format(tokenizer, schema({}))


KEYWORDS = (
    *("type", "enum", "const", "anyOf", "allOf", "oneOf", "$ref", "$defs", "items", "prefixItems"),
    *("additionalItems", "minItems", "maxItems", "properties", "required", "additionalProperties"),
    *("patternProperties", "minProperties", "maxProperties", "minLength", "maxLength", "pattern"),
    *("format", "minimum", "maximum", "exclusiveMinimum", "multipleOf", "$id", "$schema", "a", "0"),
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 10**20)
    | st.floats()
    | st.sampled_from(["#", "#/$defs/a", "#/anyOf/0", "string", "object", "array", "number", "^a"])
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=5)
    ),
    max_leaves=25,
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(value=st.dictionaries(st.sampled_from(KEYWORDS), VALUES, max_size=6))
def test_any_schema_is_a_constraint_or_an_error_of_the_format(
    tokenizer: Tokenizer, value: dict[str, Any]
) -> None:
    try:
        held = constraint(tokenizer, schema(value))
    except FormatError as error:
        assert str(error).startswith("format.schema")  # noqa: PT017 - either is right
    else:
        assert allowed(held)
