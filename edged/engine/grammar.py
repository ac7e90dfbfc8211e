"""Constrain an answer to a format: the only importer of llguidance.

Rule: each keyword of a schema is either enforced or refused with its path; none is ignored.
"""

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from edged.engine.escapes import Escapes, ends_open
from edged.engine.forced import Words
from edged.engine.schema_cost import COST_LIMIT, estimate_cost
from edged.engine.schema_parts import SchemaError
from edged.engine.tokenizer import Tokenizer
from edged.engine.tokenizer.definition import is_library_failure
from edged.protocol.request import FormatType, OutputFormat

# All options of the library are set, so that a requester's "x-guidance" cannot replace any.
_OPTIONS = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ",",
        "key_separator": ":",
        "lenient": False,
        "coerce_one_of": False,
    }
}
# The library would allow its own first token of forced text only, which another may have to be.
_UNFORCED = '%llguidance {"no_forcing": true}\n'
# Removed, so that a schema is read as of 2020-12: under older drafts the library ignores newer
# keywords.
_DIALECT = ("$schema", "$id")
# Keywords whose value is one subschema or a list of them, and those that hold one for each name.
_SUBSCHEMAS = ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SUBSCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
# Of an error in the grammar that a schema is put in.
_PLACE = re.compile(r'^(?:at \d+\(\d+\): )?(?:failed to (?:compile JSON schema|parse "%json"): )?')
# Beside the estimate, these limit the work of the string automata and the parser during an answer:
# with the library's own limits that was 0.3 s and 40 MB (`docs/budgets.md`, what a schema costs).
_LIMITS = LLParserLimits(
    initial_lexer_fuel=30_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_grammar_size=100_000,
    max_lexer_states=10_000,
    verbose_errors=False,
)
# A specialist's grammar has the names of many things in many places: 250 devices and 30 services
# took 35 ms to compile. Its inputs are bounded before (``specialists/compact/named``).
_SPECIALIST_LIMITS = LLParserLimits(
    initial_lexer_fuel=250_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_grammar_size=100_000,
    max_lexer_states=10_000,
    verbose_errors=False,
)
# Memory grows with it, and time: 0.9 million characters took 0.3 s and 130 MiB.
MAX_GRAMMAR_CHARACTERS = 1 << 17
# Fixed cost of any compilation, in units of ``COST_LIMIT``.
_COST_OF_A_TRY = 150
# Tokens of forced text that are looked at together, at most: to go through some thousands took
# 0.1 s, and an answer that ends with them takes them all between two passes.
MAX_SEARCHED = 256
# A set of tokens that continue a JSON string, precomputed. The library's own four such sets take
# 9 MiB more and were not faster on texts of any length.
_SLICE = r'[^"\\\x00-\x1F\x7F]{1,30}'


class FormatError(ValueError):
    """A format cannot be enforced; the message starts with its path in the request."""


class ConstraintError(RuntimeError):
    """The grammar reached its limits, or was given a token that it does not allow."""


class GrammarConstraint:
    """The state of a grammar within one answer; see ``Constraint``.

    Args:
        matcher: Of the grammar.
        words: Of the tokenizer.
        escapes: Of the tokenizer; those of Unicode are left out where JSON is written.

    Raises:
        ConstraintError: by each method, when the grammar reached its limits, or was given a token
            that it does not allow.
    """

    def __init__(self, matcher: LLMatcher, words: Words, escapes: Escapes | None = None) -> None:
        self._matcher, self._words, self._escapes = matcher, words, escapes
        self._is_open = False
        """Whether the text so far ends in the backslash of an escape."""
        self._forced: deque[int] | None = None
        self._num_unsure = 0
        """Bytes of forced text behind ``_forced`` whose tokens are not certain."""
        self.is_ending = False
        """Whether the answer is whole after the forced tokens."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        with _failures(ConstraintError, "the grammar"):
            return bool(self._matcher.is_stopped())

    @property
    def forced(self) -> Sequence[int]:
        """The next tokens, as far as there is one way to go on.

        They are those that the tokenizer makes of the text, whatever follows it: a word that the
        following text may make longer is left out, since its first tokens could be others then.
        """
        return self._look_ahead() if self._forced is None else self._forced

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Overwrite the logits ``[vocabulary]`` of all tokens that may not come next with -inf."""
        if self.forced:
            others = np.arange(len(logits)) != self.forced[0]
            logits[others] = -np.inf
            return
        with _failures(ConstraintError, "the grammar"):
            is_allowed = _bits(self._matcher)[: len(logits)] != 0
            self._check()
        if self._escapes is not None:
            is_allowed = self._escapes.without(is_allowed, is_open=self._is_open)
        logits[~is_allowed] = -np.inf

    def advance(self, token_id: int) -> None:
        """Append the chosen or the forced token."""
        with _failures(ConstraintError, "the grammar"):
            self._matcher.consume_token(token_id)
            self._check()
        if self._escapes is not None:
            self._is_open = ends_open(self._words.bytes_of(token_id), is_open=self._is_open)
        # The same text as before: a new search, from within it, need not find it again.
        if not self._forced:
            self._num_unsure -= len(self._words.bytes_of(token_id))
        elif self._forced.popleft() != token_id:
            self._forced, self._num_unsure = None, 0
        if not self._forced and self._num_unsure <= 0:
            self._look_ahead()

    def _look_ahead(self) -> deque[int]:
        with _failures(ConstraintError, "the grammar"):
            found = [] if self._matcher.is_stopped() else _forced(self._matcher)
            self._check()
            num_certain = self._num_certain(found)
        unsure = found[num_certain:MAX_SEARCHED]
        self._num_unsure = sum(len(self._words.bytes_of(token_id)) for token_id in unsure)
        self._forced = deque(found[:num_certain])
        return self._forced

    def _num_certain(self, found: list[int]) -> int:
        """Return how many tokens of a forced text are forced, and note whether they end it."""
        self.is_ending = False
        if len(found) > MAX_SEARCHED:
            may_follow = np.zeros(1 + max(found), np.uint8)
            may_follow[found[MAX_SEARCHED]] = 1
            return self._words.num_certain(found[:MAX_SEARCHED], may_follow)
        if not found:
            return 0
        ahead = self._matcher.deep_copy()
        # An error would stop it as well.
        self.is_ending = bool(ahead.consume_tokens(found) and ahead.is_stopped())
        return len(found) if self.is_ending else self._words.num_certain(found, _bits(ahead))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(_error_text(self._matcher))


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
            matcher = _compile_choices(tokenizer, output_format.choices)
            return GrammarConstraint(matcher, _loaded(tokenizer).words)
    with _failures(FormatError, "format.schema"):
        matcher = _compile_schema(tokenizer, output_format)
        loaded = _loaded(tokenizer)
        return GrammarConstraint(matcher, loaded.words, loaded.escapes)


def compile_grammar(tokenizer: Tokenizer, grammar: str) -> GrammarConstraint:
    """Return a fresh constraint of a Lark grammar, such as a specialist's compact form.

    Raises:
        FormatError: It cannot be enforced.
    """
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        raise FormatError(f"grammar: more than {MAX_GRAMMAR_CHARACTERS} characters")
    with _failures(FormatError, "grammar"):
        matcher = _matcher(tokenizer, grammar, _SPECIALIST_LIMITS)
        if matcher.is_error():
            raise FormatError(f"grammar: {_error_text(matcher)}")
        return GrammarConstraint(matcher, _loaded(tokenizer).words)


@contextmanager
def _failures(kind: type[FormatError | ConstraintError], where: str) -> Iterator[None]:
    # Whatever the library raises becomes ``kind``: hostile input must not end the process.
    try:
        yield
    except BaseException as error:
        if isinstance(error, FormatError | ConstraintError) or not is_library_failure(error):
            raise
        raise kind(f"{where}: cannot be enforced ({type(error).__name__})") from error


def _compile_choices(tokenizer: Tokenizer, choices: tuple[str, ...]) -> LLMatcher:
    if not choices or not all(choices):
        raise FormatError("format.choices: must hold at least one text, and no empty one")
    # A Lark string is written like a JSON string, but must escape DEL.
    strings = (json.dumps(choice, ensure_ascii=False) for choice in choices)
    alternatives = " | ".join(string.replace("\x7f", "\\u007f") for string in strings)
    matcher = _matcher(tokenizer, f"start: {alternatives}")
    if matcher.is_error():
        raise FormatError(f"format.choices: {_error_text(matcher)}")
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
    """Return the compiled grammar, or the library's error text."""
    kept = {key: value for key, value in schema.items() if key not in _DIALECT}
    matcher = _matcher(tokenizer, f"start: %json {json.dumps(kept | _OPTIONS)}")
    if matcher.is_error():
        return _error_text(matcher)
    # Some limits are reached only after the first character; find out before the answer begins.
    is_allowed = _bits(matcher)
    forced = _forced(matcher)[:1]
    for opening in forced or (tokenizer.encode(character)[0] for character in '{["'):
        if is_allowed[opening]:
            ahead = matcher.deep_copy()
            ahead.consume_token(opening)
            ahead.compute_bitmask()
            if ahead.is_error():
                return _error_text(ahead)
    return matcher


def _forced(matcher: LLMatcher) -> list[int]:
    """Return the tokens of the text that must follow."""
    matcher.compute_ff_bytes()  # else only those of what was looked at before
    found: list[int] = matcher.compute_ff_tokens()
    return found


def _bits(matcher: LLMatcher) -> NDArray[np.uint8]:
    """Return 1 for each token that may come next; past the vocabulary's end there is padding."""
    mask = np.frombuffer(matcher.compute_bitmask(), np.uint8)
    return np.unpackbits(mask, bitorder="little")


def _error_text(matcher: LLMatcher) -> str:
    message = _PLACE.sub("", str(matcher.get_error()).partition("\n")[0])
    if "coerce_one_of" in message:
        return "oneOf is only supported where its alternatives exclude each other; use anyOf"
    return message


def _path_of(tokenizer: Tokenizer, schema: dict[str, Any], message: str) -> str:
    """Find the innermost subschema with this error: the library does not say where it is."""
    # All these compilations together may cost, by the estimate, as much as one schema.
    path, children, budget = "", _children(schema), float(COST_LIMIT)
    while (found := next(children, None)) is not None:
        step, child = found
        budget -= _COST_OF_A_TRY
        try:
            budget -= estimate_cost(child, limit=budget)
        except SchemaError:  # too expensive, or it has references out of itself
            continue
        if _try_schema(tokenizer, child) == message:
            path, children = path + step, _children(child)
    return path


def _children(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in (*_SUBSCHEMAS, *_NAMED_SUBSCHEMAS):
        value = schema.get(key)
        found = [(f".{key}", value)] if key in _SUBSCHEMAS else []
        if isinstance(value, list):
            found = [(f".{key}[{index}]", child) for index, child in enumerate(value)]
        elif isinstance(value, dict) and key in _NAMED_SUBSCHEMAS:
            found = [(f".{key}.{name}", child) for name, child in value.items()]
        yield from ((step, child) for step, child in found if isinstance(child, dict))


def _matcher(tokenizer: Tokenizer, lark: str, limits: LLParserLimits | None = None) -> LLMatcher:
    grammar = LLMatcher.grammar_from_lark(_UNFORCED + lark)
    library = _loaded(tokenizer).library
    return LLMatcher(library, grammar, log_level=0, limits=limits or _LIMITS)


class _Vocabulary:
    """What llguidance reads of a tokenizer, by these names.

    Reading ``tokenizer.json`` itself, it would hold a second copy of the tokenizer, and mistake
    GPT-2's byte characters for text where the decoder has further steps.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokens = tokenizer.vocabulary()
        self.special_token_ids = tokenizer.control_ids
        self.eos_token_id = tokenizer.stop_ids[0]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


class _Loaded(NamedTuple):
    """A tokenizer, as the library, ``Words`` and ``Escapes`` read it."""

    library: LLTokenizer
    words: Words
    escapes: Escapes


@lru_cache(maxsize=1)  # a process has one tokenizer
def _loaded(tokenizer: Tokenizer) -> _Loaded:
    read = _Vocabulary(tokenizer)
    num_tokens, stop_ids = len(read.tokens), tokenizer.stop_ids
    words, escapes = Words(tokenizer, read.tokens), Escapes(read.tokens)
    library = LLTokenizer(read, n_vocab=num_tokens, eos_token=stop_ids, slices=[_SLICE])
    read.tokens.clear()  # read once; the library keeps the object
    return _Loaded(library, words, escapes)
