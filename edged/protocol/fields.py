"""Read members of a parsed JSON object; an error names the path and what was expected.

Rule: an error never quotes a value that may be prompt text, only numbers, keywords and identifiers.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from edged.errors import ErrorCode

_MAX_QUOTED = 32
# Half of a surrogate pair, which JSON can write and UTF-8 cannot.
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_TYPE_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}


class MessageError(ValueError):
    """A message is not acceptable; the text starts with the path of the wrong key."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.BAD_REQUEST) -> None:
        super().__init__(message)
        self.code = code


def describe(value: object) -> str:
    """Quote a value, shortened, for the end of an error message."""
    if isinstance(value, str):
        quoted = json.dumps(value[:_MAX_QUOTED])
        return quoted if len(value) <= _MAX_QUOTED else f'{quoted[:-1]}…"'
    return type_name(value) if isinstance(value, dict | list) else json.dumps(value)


def type_name(value: object) -> str:
    """Name the JSON type of a value, for messages that must not quote it."""
    return "null" if value is None else _TYPE_NAMES.get(type(value), "a number")


class Fields:
    """The members of one JSON object, read by key.

    Args:
        members: The object.
        path: Where it is in the message; empty for the top level.
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

    def has(self, key: str) -> bool:
        """Return whether there is a member ``key``, even if it is null."""
        return key in self._members

    def value(self, key: str) -> Any:  # noqa: ANN401 - JSON has no narrower type
        """Return the raw member; None when it is absent or null."""
        self._read.add(key)
        return self._members.get(key)

    def wrong(self, key: str, expected: str, value: object) -> MessageError:
        """Return the error for a member that may be quoted."""
        return MessageError(f"{self.path(key)}: must be {expected}, got {describe(value)}")


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
    if _HALF_PAIR.search(value):
        raise MessageError(f"{path}: must not contain half of a surrogate pair (U+D800 to U+DFFF)")
    return value
