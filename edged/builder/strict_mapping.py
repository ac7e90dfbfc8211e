"""Strict reading of a parsed YAML mapping: every error starts with the key's path."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from edged.errors import ConfigError

_LARGEST = 1e15


class StrictMapping:
    """One mapping of a document, read key by key."""

    def __init__(self, mapping: object, file: str, path: str = "") -> None:
        self._file = file
        self._path = path
        if not isinstance(mapping, dict):
            raise ConfigError(f"{file}: {path or 'the document'}: must be a mapping of keys")
        self._mapping: dict[Any, Any] = mapping

    def only(self, *allowed: str) -> None:
        """Refuse every key that is not in ``allowed``.

        Raises:
            ConfigError: There is such a key; the message suggests the nearest allowed name.
        """
        for key in self._mapping:
            if key not in allowed:
                near = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(allowed)}"
                raise self._error(str(key), f"unknown key ({hint})")

    def has(self, key: str) -> bool:
        """Return whether the key is present."""
        return key in self._mapping

    def section(self, key: str) -> "StrictMapping":
        """Read a nested mapping.

        Raises:
            ConfigError: It is missing or not a mapping.
        """
        return StrictMapping(self._require(key), self._file, self._where(key))

    def text(self, key: str, pattern: re.Pattern[str] | None = None) -> str:
        """Read a string that is not empty and matches ``pattern`` as a whole.

        Raises:
            ConfigError: It is missing, of another type or does not match.
        """
        value = self._require(key)
        if not isinstance(value, str) or not value:
            raise self._error(key, f"must be text, not {value!r} (put it in quotes)")
        if pattern is not None and not pattern.fullmatch(value):
            raise self._error(key, f"{value!r} does not look like {pattern.pattern}")
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Read one of several words.

        Raises:
            ConfigError: It is missing or none of them; the message suggests the nearest one.
        """
        value = self.text(key)
        if value not in choices:
            near = difflib.get_close_matches(value, choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise self._error(key, f"{value!r} is none of {', '.join(choices)}{hint}")
        return value

    def count(self, key: str) -> int:
        """Read a whole number above zero, and not too large to be shown.

        Raises:
            ConfigError: It is missing or something else.
        """
        value = self._require(key)
        if type(value) is int and value > _LARGEST:
            raise self._error(key, f"must be {_LARGEST:g} at most")
        if type(value) is not int or value < 1:
            raise self._error(key, f"must be a whole number above 0, not {value!r}")
        return value

    def number(self, key: str) -> float:
        """Read a finite number, zero or more.

        Raises:
            ConfigError: It is missing or something else.
        """
        value = self._require(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(key, f"must be a number, not {value!r}")
        if not 0 <= value <= _LARGEST:
            raise self._error(key, f"must be from 0 to {_LARGEST:g}")
        return float(value)

    def _require(self, key: str) -> Any:  # noqa: ANN401 - any value of the document
        if self._mapping.get(key) is None:
            raise self._error(key, "is missing")
        return self._mapping[key]

    def _where(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _error(self, key: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._file}: {self._where(key)}: {problem}")
