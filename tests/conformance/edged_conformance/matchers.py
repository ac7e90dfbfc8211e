"""Compare JSON with expectations.

A matcher is a plain value, which must be equal, or a mapping with one or more of these keys.

=========  ======================================================================
equals     exactly this value (for a value that would be read as a matcher)
type       string, number, integer, boolean, object, array or null, or a list of them
regex      the complete text matches (Python's ``re``, with the flag ``s``)
range      number from the first to the second, inclusive
length     number of characters or members of a text, array or object
one_of     one of these values
has        array that contains this value
keys       object with exactly these keys
absent     true: missing
same_as    the value at the same path in the reply to the step with this label
more_than  a number greater than that value
=========  ======================================================================
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

MISSING = object()
"""Stands for a missing value."""
_SHOWN = 120
_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}


def value_at(document: object, path: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Follow a path such as ``data.text`` or ``messages[0].role``; ``MISSING`` without a value.

    A key that contains dots is found, too.
    """
    if isinstance(document, dict) and path in document:
        return document[path]
    value: Any = document
    for part in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def check_matcher(matcher: object) -> str | None:
    """Return what is wrong with a matcher itself; None if nothing."""
    if not isinstance(matcher, dict):
        return None
    unknown = [key for key in matcher if key not in _CHECKS]
    if unknown or not matcher:
        return f"a matcher has keys of {', '.join(_CHECKS)}, not {unknown}"
    kinds = matcher.get("type", [])
    wrong = [kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if kind not in _TYPES]
    return f"type: {wrong[0]!r} is none of {', '.join(_TYPES)}" if wrong else None


def mismatch(value: object, matcher: object, others: Mapping[str, object]) -> str | None:
    """Return how ``value`` differs from the matcher; None if it matches.

    Args:
        value: The received value, or ``MISSING``.
        matcher: A value or a matcher.
        others: For ``same_as``: label of a step → the value at the same path of its reply.
    """
    if not isinstance(matcher, dict):
        return _equals(value, matcher, others)
    if value is MISSING and matcher.get("absent") is not True:
        return f"is missing, expected {_show(matcher)}"
    found = (_CHECKS[key](value, argument, others) for key, argument in matcher.items())
    return next((problem for problem in found if problem is not None), None)


def _equals(value: object, expected: object, _others: object) -> str | None:
    is_same = json.dumps(expected, sort_keys=True) == _dumps(value)
    is_same |= _TYPES["number"](value) and _TYPES["number"](expected) and value == expected
    return None if is_same else f"expected {_show(expected)}, got {_show(value)}"


def _type(value: object, kinds: str | list[str], _others: object) -> str | None:
    wanted = [kinds] if isinstance(kinds, str) else kinds
    is_one = any(_TYPES[kind](value) for kind in wanted)
    return None if is_one else f"expected type {' or '.join(wanted)}, got {_show(value)}"


def _regex(value: object, pattern: str, _others: object) -> str | None:
    is_match = isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL)
    return None if is_match else f"expected text like {pattern}, got {_show(value)}"


def _range(value: Any, limits: list[float], _others: object) -> str | None:  # noqa: ANN401 - JSON
    is_inside = _TYPES["number"](value) and limits[0] <= value <= limits[1]
    return None if is_inside else f"expected {limits[0]} to {limits[1]}, got {_show(value)}"


def _length(value: Any, limits: Any, _others: object) -> str | None:  # noqa: ANN401 - JSON
    low, high = limits if isinstance(limits, list) else (limits, limits)
    is_inside = isinstance(value, str | list | dict) and low <= len(value) <= high
    return None if is_inside else f"expected a length of {low} to {high}, got {_show(value)}"


def _one_of(value: object, values: list[Any], others: object) -> str | None:
    is_one = any(_equals(value, item, others) is None for item in values)
    return None if is_one else f"expected one of {_show(values)}, got {_show(value)}"


def _has(value: object, item: object, others: object) -> str | None:
    is_in = isinstance(value, list) and any(_equals(x, item, others) is None for x in value)
    return None if is_in else f"expected an array with {_show(item)}, got {_show(value)}"


def _keys(value: object, keys: list[str], _others: object) -> str | None:
    is_same = isinstance(value, dict) and set(value) == set(keys)
    return None if is_same else f"expected the keys {_show(keys)}, got {_show(value)}"


def _absent(value: object, is_absent: object, _others: object) -> str | None:
    is_right = (value is MISSING) == bool(is_absent)
    return None if is_right else f"expected nothing, got {_show(value)}"


def _same_as(value: object, label: str, others: Mapping[str, object]) -> str | None:
    other = others.get(label, MISSING)
    return (
        None
        if _dumps(value) == _dumps(other)
        else (f"expected the same as in the reply to {label}, {_show(other)}, got {_show(value)}")
    )


def _more_than(value: object, label: str, others: Mapping[str, object]) -> str | None:
    other = others.get(label, MISSING)
    if isinstance(value, int | float) and isinstance(other, int | float) and value > other:
        return None
    return f"expected more than in the reply to {label}, {_show(other)}, got {_show(value)}"


_CHECKS: dict[str, Callable[[Any, Any, Mapping[str, object]], str | None]] = {
    "equals": _equals,
    "type": _type,
    "regex": _regex,
    "range": _range,
    "length": _length,
    "one_of": _one_of,
    "has": _has,
    "keys": _keys,
    "absent": _absent,
    "same_as": _same_as,
    "more_than": _more_than,
}


def _dumps(value: object) -> str:
    return "" if value is MISSING else json.dumps(value, sort_keys=True)


def _show(value: object) -> str:
    shown = "nothing" if value is MISSING else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
