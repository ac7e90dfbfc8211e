"""Hold an answer to a format: the only importer of llguidance.

Rule: what a schema asks for is either enforced or refused with its path; nothing is ignored.
"""

import json
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from edged.request import FormatType, OutputFormat
from edged.tokenizer import Tokenizer, Vocabulary

_COMPACT = {"whitespace_flexible": False}
# Keywords whose value holds subschemas: one, a list, or one for each name.
_SUBSCHEMA_KEYS = ("items", "additionalProperties", "if", "then", "else", "not")
_SUBSCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SUBSCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
# A schema comes with a request: it may take 0.3 s to compile and some 40 MB of lexer, no more.
_LIMITS = LLParserLimits(max_grammar_size=100_000, max_lexer_states=20_000, verbose_errors=False)
_SEARCH_S = 0.2
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
        return bool(self._matcher.is_stopped())

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Overwrite the logits ``[vocabulary]`` of all tokens that may not come next with -inf.

        Raises:
            ConstraintError: the grammar ran into its limits.
        """
        bits = _bits(self._matcher)
        self._check()
        logits[bits[: len(logits)] == 0] = -np.inf

    def advance(self, token_id: int) -> None:
        """Take in the chosen token.

        Raises:
            ConstraintError: the token may not stand here.
        """
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
        return GrammarConstraint(_compile_choices(tokenizer, output_format.choices))
    return GrammarConstraint(_compile_schema(tokenizer, output_format))


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
    compiled = _try_schema(tokenizer, schema)
    if isinstance(compiled, str):
        path = _path_of(tokenizer, schema, compiled)
        raise FormatError(f"format.schema{path}: {compiled}")
    return compiled


def _try_schema(tokenizer: Tokenizer, schema: dict[str, Any]) -> LLMatcher | str:
    """Return what was compiled, or the complaint."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_COMPACT)
    except (ValueError, RecursionError) as error:
        return str(error)
    matcher = _matcher(tokenizer, grammar)
    if matcher.is_error():
        return _complaint(matcher)
    # Some limits only show behind the opening bracket, so look there before the answer begins.
    is_allowed = _bits(matcher)
    for opening in (tokenizer.encode(bracket)[0] for bracket in "{["):
        ahead = matcher.deep_copy()
        if is_allowed[opening] and not ahead.consume_token(opening):
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
    """Find the innermost subschema with this complaint: the library does not say where it is."""
    give_up_s = time.monotonic() + _SEARCH_S
    path, children = "", _children(schema)
    while time.monotonic() < give_up_s:
        step, child = next(children, ("", None))
        if child is None:
            break
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
