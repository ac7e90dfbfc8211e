"""Read JSON into dataclasses, strictly: what their annotations say, and nothing else.

An annotation may limit a value: a string by a pattern, a number by its largest value (the smallest
is then 1).
"""

import json
import sys
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args, get_origin

if TYPE_CHECKING:
    import re

_T = TypeVar("_T")


class WrongValueError(ValueError):
    """A value is not what its key may hold; the message begins with the key."""


def read_json(data: bytes) -> Any:  # noqa: ANN401 - any JSON
    """Return the value of a JSON text.

    Raises:
        ValueError: it is none, has a key twice in an object, or a number that is not finite.
        RecursionError: it is nested too deeply.
    """
    return json.loads(data, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)


def decode(kind: type[_T], tree: object) -> _T:
    """Return a dataclass made of a JSON object.

    Raises:
        WrongValueError: a key is missing or unknown, or a value of a wrong type.
    """
    return cast("_T", _decode(kind, tree, ""))


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; a hook for ``json.loads``.

    Raises:
        ValueError: a key is there twice, and readers could disagree which one counts.
    """
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return tree


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _decode(kind: Any, value: Any, path: str) -> Any:  # noqa: ANN401 - any annotation, any JSON
    # ``kind`` is an annotation of the dataclasses above; ``path`` names the value in errors.
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        return None if value is None else _decode(arguments[0], value, path)
    if origin is Annotated:
        return _within(arguments[1], _decode(arguments[0], value, path), path)
    if origin is tuple:
        if not isinstance(value, list):
            raise WrongValueError(f"{path} must be a list")
        return tuple(_decode(arguments[0], one, f"{path}[{i}]") for i, one in enumerate(value))
    if origin is not dict and not is_dataclass(kind):
        return _decode_scalar(kind, value, path)
    if not isinstance(value, dict):
        raise WrongValueError(f"{path or 'the top level'} must be an object")
    if origin is dict:
        return {k: _decode(arguments[1], one, f"{path}.{k}") for k, one in value.items()}
    return _decode_dataclass(cast("type", kind), value, f"{path}." if path else "")


def _decode_dataclass(kind: type, value: dict[str, Any], prefix: str) -> object:
    declared = {item.name: item.type for item in fields(kind)}
    for key in (*value, *declared):
        if key not in declared or key not in value:
            problem = "is missing" if key in declared else "is not a known key"
            raise WrongValueError(f"{prefix}{key} {problem}")
    return kind(**{k: _decode(t, value[k], prefix + k) for k, t in declared.items()})


def _within(limit: "int | re.Pattern[str]", value: Any, path: str) -> Any:  # noqa: ANN401 - as is
    if isinstance(limit, int):
        if not 1 <= value <= limit:
            raise WrongValueError(f"{path} is {value}, must be from 1 to {limit}")
    elif not limit.fullmatch(value):
        raise WrongValueError(f"{path} must match {limit.pattern}")
    return value


def _decode_scalar(kind: type, value: Any, path: str) -> object:  # noqa: ANN401 - any JSON
    is_right, expected = type(value) is kind, "true or false" if kind is bool else "a string"
    if issubclass(kind, StrEnum):
        is_right, expected = value in list(kind), f"one of {', '.join(kind)}"
    elif kind is int:
        is_right, expected = is_right and value >= 0, "a whole number of at least 0"
    elif kind is float:
        # An integer may be too large for a float, and 1e999 is read as infinity.
        is_right = type(value) in {int, float} and abs(value) <= sys.float_info.max
        expected = "a finite number"
    if not is_right:
        raise WrongValueError(f"{path} must be {expected}")
    return kind(value)
