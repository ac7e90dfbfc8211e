"""Read typed values from parsed JSON; an error names the path and what was expected.

Rule: an error never quotes a value that may be prompt text, only numbers, keywords and identifiers.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

from edged.errors import ErrorCode

Keyword = TypeVar("Keyword", bound=StrEnum | IntEnum)

# Levels of objects and arrays in one message; checked before it is parsed.
MAX_NESTING = 64
# Half of a surrogate pair, which JSON can write and UTF-8 cannot.
MAX_QUOTED = 32
_TOKEN = re.compile(r'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_TYPE_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}


class MessageError(ValueError):
    """A message is not acceptable; the text starts with the path of the wrong key."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(message)
        self.code = code


def parse_json(text: str) -> tuple[Any, str | None]:
    """Parse JSON strictly.

    Returns:
        The value, and the first key that occurs twice in one object, or None. The value has its
        last occurrence, so that the caller can still read the id.

    Raises:
        MessageError: Wrong syntax, NaN or Infinity, a number out of range, or nested deeper than
            ``MAX_NESTING``.
    """
    if _is_too_deep(text):
        raise MessageError(f"payload: nested deeper than {MAX_NESTING} levels")
    duplicates: list[str] = []

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            duplicates.append(next(key for key in members if counts[key] > 1))
        return members

    try:
        value = json.loads(
            text,
            object_pairs_hook=to_object,
            parse_constant=_refuse_constant,
            parse_float=_to_float,
            parse_int=_to_int,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise MessageError(f"payload: not JSON: {error.msg} at {place}") from error
    return value, duplicates[0] if duplicates else None


def _is_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_NESTING:
        return False
    depth = 0
    for match in _TOKEN.finditer(text):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
        if depth > MAX_NESTING:
            return True
    return False


def _refuse_constant(name: str) -> float:
    raise MessageError(f"payload: not JSON: {name} is not a JSON number")


def _to_float(digits: str) -> float:
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise MessageError("payload: a number is out of the range of a double")
    return value


def _to_int(digits: str) -> int:
    if len(digits) > MAX_QUOTED:
        raise MessageError(f"payload: an integer has more than {MAX_QUOTED} digits")
    return int(digits)


def describe(value: object) -> str:
    """Quote a value, shortened, for the end of an error message."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        quoted = json.dumps(value[:MAX_QUOTED])
        return quoted if len(value) <= MAX_QUOTED else f'{quoted[:-1]}…"'
    return type_name(value)


def type_name(value: object) -> str:
    """Name the JSON type of a value, for messages that must not quote it."""
    if value is None:
        return "null"
    return _TYPE_NAMES.get(type(value), "a number")


class Fields:
    """The members of one JSON object, read by key; ``unread`` has the others.

    Args:
        members: The object.
        path: Where it is in the message; empty for the top level.

    Raises:
        MessageError: By each reading method, when the member has a wrong type or value.
    """

    def __init__(self, members: Mapping[str, Any], path: str = "") -> None:
        self._members = members
        self._path = path
        self._read: set[str] = set()

    def path(self, key: str) -> str:
        """Return the path of the member ``key`` from the top level."""
        return f"{self._path}.{key}" if self._path else key

    @property
    def unread(self) -> list[str]:
        """Paths of the members that were never read, in the message's order."""
        return [self.path(key) for key in self._members if key not in self._read]

    def value(self, key: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """Return the raw member; None when it is absent or null."""
        self._read.add(key)
        return self._members.get(key)

    def number(self, key: str, low: float, high: float) -> float | None:
        """Return a number from ``low`` to ``high``; None when it is absent."""
        value = self.value(key)
        is_valid = _is_number(value) and low <= value <= high
        self._require(key, f"a number from {low:g} to {high:g}", value, is_valid=is_valid)
        return None if value is None else float(value)

    def integer(self, key: str, low: int, high: int) -> int | None:
        """Return an integer from ``low`` to ``high``; None when it is absent."""
        value = self.value(key)
        # JSON has one type of numbers: 3.0 is an integer.
        is_valid = _is_number(value) and low <= value <= high and value == int(value)
        self._require(key, f"an integer from {low} to {high}", value, is_valid=is_valid)
        return None if value is None else int(value)

    def boolean(self, key: str) -> bool:
        """Return a boolean; False when it is absent."""
        value = self.value(key)
        self._require(key, "true or false", value, is_valid=isinstance(value, bool))
        return value is True

    def keyword(self, key: str, words: Mapping[str, Keyword]) -> Keyword | None:
        """Return the value that ``words`` maps the member to; None when it is absent."""
        value = self.value(key)
        is_valid = isinstance(value, str) and value in words
        self._require(key, f"one of {', '.join(words)}", value, is_valid=is_valid)
        return None if value is None else words[value]

    def wrong(self, key: str, expected: str, value: object) -> MessageError:
        """Return the error for a member that may be quoted."""
        return MessageError(f"{self.path(key)}: must be {expected}, got {describe(value)}")

    def _require(self, key: str, expected: str, value: object, *, is_valid: bool) -> None:
        if value is not None and not is_valid:
            raise self.wrong(key, expected, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_text(path: str, value: object, *, max_length: int | None = None) -> str:
    """Return ``value`` when a tokenizer and the wire accept it as text.

    Raises:
        MessageError: It is not a string, too long, or has a NUL or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise MessageError(f"{path}: must be a string, got {type_name(value)}")
    if max_length is not None and not 1 <= len(value) <= max_length:
        raise MessageError(f"{path}: must have 1 to {max_length} characters, got {len(value)}")
    if "\0" in value:
        raise MessageError(f"{path}: must not contain NUL (U+0000)")
    if HALF_PAIR.search(value):
        raise MessageError(f"{path}: must not contain half of a surrogate pair (U+D800 to U+DFFF)")
    return value
