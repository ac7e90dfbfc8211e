"""Read ``tokenizer.json``, after a check.

The library would run any steps of the file: normalizers that multiply the text, expressions that
backtrack for hours. So only known steps and simple expressions are allowed.

Rule: encoding takes memory linear in the length of a text, and at most quadratic time: an
expression may be tried from each character to the end of the text.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import tokenizers

from edged.bundle.strict_json import unique_keys
from edged.errors import BundleError

# JSON values per token of the model: known files have 3, those with merges made from SentencePiece
# 6.
_VALUES_PER_TOKEN = 8
_VALUES = 1 << 16
_MAX_ADDED_TOKENS = 8192
MAX_TOKEN_CHARACTERS = 1024
_MAX_STEPS = 16
# Characters that a normalizer makes of one, at most.
_MAX_GROWTH = 64
_GROWTH = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 3, "ByteLevel": 4}
_GROWTH |= dict.fromkeys(("Nmt", "Strip", "StripAccents", "Prepend"), 1)
_SPLITTERS = (
    *("ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "UnicodeScripts", "Whitespace"),
    "WhitespaceSplit",
)
# Steps that add characters, and so may occur once.
_ONCE = ("ByteLevel", "Metaspace")
_MODELS = ("BPE", "Unigram")

_MAX_EXPRESSION = 1024
_MAX_ALTERNATIVES = 32
# One character or class; the parentheses and bars of groups.
_ITEM = re.compile(
    r"(?P<open>\((?:\?(?:i?:|!|=))?)"
    r"|(?P<close>\))"
    r"|(?P<bar>\|)"
    r"|\\[pP]\{\^?\w+\}|\\[sSdDwWrntfvbB]|\\[^\w\s]"
    r"|\[\^?(?!\])(?:\\.|&(?!&)|[^\\\[\]&])*\]"
    r"|[^\\\[()|*+?{]",
    re.DOTALL,
)
_QUANTIFIER = re.compile(r"[*+?][?+]?|\{(\d{1,2})(?:,(\d{0,2}))?\}")
_MAX_COUNT = 16
_MAX_VARIABLE_COUNT = 4
_MAX_OPTIONAL = 3
_MAX_GROUPS = 2
# The items of an alternative: ``g`` before a group, then how often each is repeated. A repetition
# backtracks one by one, and tries the rest again each time: so two are allowed, of no group, and
# nothing that may fail after the second.
_LINEAR = re.compile(r"(?:g?[1?])*(?:\*(?:g?[1?])*(?:\*(?:g?\?)*)?)?")


def read_tokenizer(definition: str, vocab_size: int | None = None) -> tokenizers.Tokenizer:
    """Read the text of ``tokenizer.json``; blocks for some 100 ms.

    The sizes are compared with the model's ``vocab_size`` where it is known.

    Raises:
        BundleError: it does not describe a tokenizer, or one that is too large for the model, or
            has a step that would take too much for a text.
    """
    _check_definition(definition, vocab_size)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(definition)
    except BaseException as error:
        if not is_library_failure(error):
            raise
        raise BundleError(
            f"tokenizer.json: not a tokenizer ({error}); rebuild the bundle with `edged build`"
        ) from error
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.special and token.normalized for token in added):
        # Matched after normalization, a control token could be spelled with look-alikes.
        tree = json.loads(definition)
        for token in tree["added_tokens"]:
            token["normalized"] = token["normalized"] and not token["special"]
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tree))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def is_library_failure(error: BaseException) -> bool:
    """Whether a library that is written in Rust failed."""
    # A panic arrives as a BaseException of a module that cannot be imported.
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"


def _check_definition(definition: str, vocab_size: int | None) -> None:
    most = _VALUES + _VALUES_PER_TOKEN * (vocab_size or 0)
    if vocab_size is not None and definition.count(",") > most:
        _refuse(f"more than {most} values, for a model of {vocab_size} tokens")
    try:
        tree = json.loads(definition, object_pairs_hook=unique_keys)
        _check_tokens(tree, vocab_size)
        _check_growth(list(_steps(tree, "normalizer")))
        _check_pieces(list(_steps(tree, "pre_tokenizer")))
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError) as error:
        _refuse(f"not a tokenizer ({error})")


def _check_tokens(tree: dict[str, Any], vocab_size: int | None) -> None:
    model = tree["model"]
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind not in _MODELS:
        _refuse(f"model {kind!r} is not known")
    vocabulary = model["vocab"]
    if vocab_size is not None and len(vocabulary) > vocab_size:
        _refuse(f"{len(vocabulary)} tokens, the model knows {vocab_size}")
    names = vocabulary if isinstance(vocabulary, dict) else (piece[0] for piece in vocabulary)
    added = [token["content"] for token in tree.get("added_tokens") or []]
    if len(added) > _MAX_ADDED_TOKENS:
        _refuse(f"added_tokens: {len(added)}, must be {_MAX_ADDED_TOKENS} at most")
    if max(map(len, (*names, *added)), default=0) > MAX_TOKEN_CHARACTERS:
        _refuse(f"a token has more than {MAX_TOKEN_CHARACTERS} characters")


def _steps(tree: dict[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of nested sequences in order."""
    waiting = [tree.get(key)]
    for _ in range(_MAX_STEPS):
        if not waiting:
            return
        step = waiting.pop(0)
        if step is None:
            continue
        if step["type"] == "Sequence":
            waiting += step.get("normalizers") or step.get("pretokenizers") or []
        else:
            yield step
    if waiting:
        _refuse(f"{key}: more than {_MAX_STEPS} steps")


def _check_growth(steps: list[dict[str, Any]]) -> None:
    growth = 1
    for step in steps:
        kind = step["type"]
        if kind == "Replace":
            length = _pattern_characters("normalizer", step["pattern"])
            growth *= max(1, math.ceil(len(step["content"]) / length))
        elif kind not in _GROWTH:
            _refuse(f"normalizer: {kind!r} is not known")
        growth *= _GROWTH.get(kind, 1)
        if growth > _MAX_GROWTH or len(step.get("prepend", "")) > _MAX_GROWTH:
            _refuse(f"normalizer: a text may become more than {_MAX_GROWTH} times as long")


def _check_pieces(steps: list[dict[str, Any]]) -> None:
    kinds = [step["type"] for step in steps]
    for step, kind in zip(steps, kinds, strict=True):
        if kind not in _SPLITTERS:
            _refuse(f"pre_tokenizer: {kind!r} is not known")
        if kind in _ONCE and kinds.count(kind) > 1:
            _refuse(f"pre_tokenizer: {kind!r} stands more than once")
        if kind == "Split":
            _pattern_characters("pre_tokenizer", step["pattern"])


def _pattern_characters(key: str, pattern: dict[str, str]) -> int:
    """Check a pattern, and return how many characters it matches at least."""
    if set(pattern) == {"String"}:
        if not pattern["String"]:
            _refuse(f"{key}: an empty text is looked for")
        return len(pattern["String"])
    expression = pattern["Regex"]
    if len(expression) > _MAX_EXPRESSION or not _is_simple(expression):
        _refuse(
            f"{key}: the expression {expression[:80]!r} may take for ever; edged takes characters "
            "and classes, repeated one after the other, in alternatives"
        )
    return 1


def _is_simple(expression: str) -> bool:
    """Whether each alternative is matched in time linear in the text."""
    alternatives = [""]
    place, is_inside = 0, False
    while place < len(expression):
        item = _ITEM.match(expression, place)
        if item is None or (is_inside and item["open"]) or (item["close"] and not is_inside):
            return False
        place, is_inside = item.end(), bool(item["open"] or (is_inside and not item["close"]))
        if item["bar"] and not is_inside:
            alternatives.append("")
        if is_inside or item["bar"]:
            continue
        quantifier = _QUANTIFIER.match(expression, place)
        place = quantifier.end() if quantifier else place
        alternatives[-1] += ("g" if item["close"] else "") + _repetition(quantifier)
    is_short = not is_inside and len(alternatives) <= _MAX_ALTERNATIVES
    return is_short and all(
        items.count("g") <= _MAX_GROUPS
        and items.count("?") <= _MAX_OPTIONAL
        and _LINEAR.fullmatch(items)
        for items in alternatives
    )


def _repetition(quantifier: "re.Match[str] | None") -> str:
    """Return ``1`` for a fixed count, ``?`` for a few, ``*`` for any number, ``!`` for too many."""
    if quantifier is None:
        return "1"
    least, most = quantifier.groups()
    if least is None:
        return "?" if quantifier[0][0] == "?" else "*"
    if most:
        return "?" if int(most) <= _MAX_VARIABLE_COUNT else "!"
    if int(least) > _MAX_COUNT:
        return "!"
    return "1" if most is None else "*"


def _refuse(complaint: str) -> NoReturn:
    raise BundleError(
        f"tokenizer.json: {complaint}; rebuild the bundle with `edged build` from a model whose "
        "tokenizer edged knows"
    )
