"""Hold an answer to a format: the only importer of llguidance.

Rule: what a schema asks for is either enforced or refused with its path; nothing is ignored.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from edged.engine.schema_cost import COST_LIMIT, estimate_cost
from edged.engine.schema_parts import SchemaError
from edged.engine.tokenizer import Tokenizer, Vocabulary
from edged.protocol.request import FormatType, OutputFormat

# Each option of the library stands here, so that a requester's own cannot take its place.
_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": ",",
    "key_separator": ":",
    "lenient": False,
    "coerce_one_of": False,
}
# Say how to read a schema. Without them it is read as of 2020-12: under older drafts the library
# ignores keywords of newer ones.
_DIALECT = ("$schema", "$id")
# Keywords whose value holds subschemas: one, a list, or one for each name.
_SUBSCHEMA_KEYS = ("items", "additionalProperties")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SUBSCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
# Beneath the estimate, for what the automata of strings and the parser take in an answer: with the
# library's own limits that was 0.3 s and 40 MB (`docs/budgets.md`, what a schema costs).
_LIMITS = LLParserLimits(
    initial_lexer_fuel=30_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_grammar_size=100_000,
    max_lexer_states=10_000,
    verbose_errors=False,
)
_COST_OF_A_TRY = 150
"""Of any compilation, however small, in units of ``COST_LIMIT``."""
# Tokens that a string of JSON may go on with, looked at together. The library's own four such sets
# take 9 MiB more and were not faster on texts of any length.
_SLICE = r'[^"\\\x00-\x1F\x7F]{1,30}'
_LOADED: WeakKeyDictionary[Tokenizer, LLTokenizer] = WeakKeyDictionary()


class FormatError(ValueError):
    """A format cannot be enforced; the message starts with its path in the request."""


class ConstraintError(RuntimeError):
    """The grammar cannot go on: it ran into its limits, or was given a token it had forbidden."""


class GrammarConstraint:
    """A grammar in the middle of one answer."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        with _failures(ConstraintError, "the grammar"):
            return bool(self._matcher.is_stopped())

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Overwrite the logits ``[vocabulary]`` of all tokens that may not come next with -inf.

        Raises:
            ConstraintError: the grammar ran into its limits.
        """
        with _failures(ConstraintError, "the grammar"):
            bits = _bits(self._matcher)
            self._check()
        logits[bits[: len(logits)] == 0] = -np.inf

    def advance(self, token_id: int) -> None:
        """Take in the chosen token.

        Raises:
            ConstraintError: the token may not stand here.
        """
        with _failures(ConstraintError, "the grammar"):
            self._matcher.consume_token(token_id)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(_complaint(self._matcher))


def compile_format(tokenizer: Tokenizer, output_format: OutputFormat) -> GrammarConstraint | None:
    """Return a fresh constraint for one answer, or None for free text; blocks for milliseconds.

    The first call for a tokenizer reads its vocabulary and blocks for some 100 ms.

    Raises:
        FormatError: the choices or the schema cannot be enforced.
    """
    if output_format.type is FormatType.TEXT:
        return None
    if output_format.type is FormatType.CHOICE:
        with _failures(FormatError, "format.choices"):
            return GrammarConstraint(_compile_choices(tokenizer, output_format.choices))
    with _failures(FormatError, "format.schema"):
        return GrammarConstraint(_compile_schema(tokenizer, output_format))


@contextmanager
def _failures(kind: type[FormatError | ConstraintError], where: str) -> Iterator[None]:
    """Turn whatever a library raises into ``kind``: hostile input must not end the process.

    A panic in Rust arrives as a ``BaseException`` of a module that cannot be imported.

    Raises:
        FormatError: when that is the ``kind``.
        ConstraintError: when that is the ``kind``.
    """
    try:
        yield
    except (FormatError, ConstraintError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise kind(f"{where}: cannot be enforced ({type(error).__name__})") from error


def _compile_choices(tokenizer: Tokenizer, choices: tuple[str, ...]) -> LLMatcher:
    if not choices or not all(choices):
        raise FormatError("format.choices: must hold at least one text, and no empty one")
    # A Lark string is written like one of JSON, but takes no bare DEL.
    strings = (json.dumps(choice, ensure_ascii=False) for choice in choices)
    alternatives = " | ".join(string.replace("\x7f", "\\u007f") for string in strings)
    matcher = _matcher(tokenizer, LLMatcher.grammar_from_lark(f"start: {alternatives}"))
    if matcher.is_error():
        raise FormatError(f"format.choices: {_complaint(matcher)}")
    return matcher


def _compile_schema(tokenizer: Tokenizer, output_format: OutputFormat) -> LLMatcher:
    schema = {} if output_format.schema is True else output_format.schema
    if not isinstance(schema, dict):
        raise FormatError("format.schema: must be a JSON Schema that allows an answer")
    try:
        estimate_cost(schema)
    except SchemaError as error:
        raise FormatError(f"format.schema{error}") from error
    compiled = _try_schema(tokenizer, schema)
    if isinstance(compiled, str):
        path = _path_of(tokenizer, schema, compiled)
        raise FormatError(f"format.schema{path}: {compiled}")
    return compiled


def _try_schema(tokenizer: Tokenizer, schema: dict[str, Any]) -> LLMatcher | str:
    """Return what was compiled, or the complaint."""
    held = {key: value for key, value in schema.items() if key not in _DIALECT}
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(held), overrides=_OPTIONS)
    except ValueError as error:
        return str(error)
    matcher = _matcher(tokenizer, grammar)
    if matcher.is_error():
        return _complaint(matcher)
    # Some limits only show behind the first character, so look there before the answer begins.
    is_allowed = _bits(matcher)
    for opening in (tokenizer.encode(character)[0] for character in '{["'):
        if is_allowed[opening]:
            ahead = matcher.deep_copy()
            ahead.consume_token(opening)
            ahead.compute_bitmask()
            if ahead.is_error():
                return _complaint(ahead)
    return matcher


def _bits(matcher: LLMatcher) -> NDArray[np.uint8]:
    """Return 1 for each token that may come next; past the vocabulary's end there is padding."""
    mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(mask, bitorder="little")


def _complaint(matcher: LLMatcher) -> str:
    complaint = str(matcher.get_error()).partition("\n")[0]
    if "coerce_one_of" in complaint:
        return "oneOf is only supported where its alternatives exclude each other; use anyOf"
    return complaint


def _path_of(tokenizer: Tokenizer, schema: dict[str, Any], complaint: str) -> str:
    """Find the innermost subschema with this complaint: the library does not say where it is.

    All that is compiled for it costs no more, by the estimate, than one schema may.
    """
    path, children, budget = "", _children(schema), float(COST_LIMIT)
    while (found := next(children, None)) is not None:
        step, child = found
        budget -= _COST_OF_A_TRY
        try:
            budget -= estimate_cost(child, limit=budget)
        except SchemaError:  # too much, or it refers to what stands elsewhere
            continue
        if _try_schema(tokenizer, child) == complaint:
            path, children = path + step, _children(child)
    return path


def _children(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in (*_SUBSCHEMA_KEYS, *_SUBSCHEMA_LISTS, *_SUBSCHEMA_MAPS):
        value = schema.get(key)
        if key in _SUBSCHEMA_MAPS and isinstance(value, dict):
            found = [(f".{key}.{name}", child) for name, child in value.items()]
        elif key in _SUBSCHEMA_LISTS and isinstance(value, list):
            found = [(f".{key}[{index}]", child) for index, child in enumerate(value)]
        else:
            found = [(f".{key}", value)] if key in _SUBSCHEMA_KEYS else []
        yield from ((step, child) for step, child in found if isinstance(child, dict))


def _matcher(tokenizer: Tokenizer, grammar: str) -> LLMatcher:
    loaded = _LOADED.get(tokenizer)
    if loaded is None:
        vocabulary = tokenizer.vocabulary()
        loaded = _LOADED[tokenizer] = LLTokenizer(
            TokenizerWrapper(_Tokens(vocabulary)),
            n_vocab=len(vocabulary.pieces),
            eos_token=vocabulary.stop_ids,
            slices=[_SLICE],
        )
        vocabulary.pieces.clear()  # read once, and the wrapper would hold them
    return LLMatcher(loaded, grammar, log_level=0, limits=_LIMITS)


class _Tokens:
    """The vocabulary under the names that llguidance looks for.

    Reading ``tokenizer.json`` itself, the library would hold a second copy of the tokenizer, and
    takes GPT-2's byte characters for text where the decoder has further steps.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.stop_ids[0]
        self.bos_token_id = None
        self.tokens = vocabulary.pieces
        self.special_token_ids = vocabulary.control_ids
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)
