"""The kinds of values a setting can have: how text becomes a value, and what is expected.

Rule: every kind reads text, not YAML's interpretation of it (there ``0123`` is 83 and ``no`` is
false), so that the same text means the same in a file, on the command line and in a test.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from edged.protocol.wire import UNSENDABLE

T = TypeVar("T")

# One scalar, or a list of scalars, as written.
Raw = str | tuple[str, ...]

# K, M and G are powers of 1024, as in systemd's units.
_BINARY_UNITS = {"K": 1024, "KiB": 1024, "M": 1024**2, "MiB": 1024**2, "G": 1024**3, "GiB": 1024**3}
_SIZE_UNITS = _BINARY_UNITS | {"": 1, "B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
# With few digits: an amount needs no more, and reading many takes time.
_QUANTITY = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})\s*([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """The values of a setting."""

    expected: str
    """Description of a valid value, to follow "expected" in an error."""
    parse: Callable[[Any], T]
    """Makes a value of a valid text, or of a list; may raise ``ValueError``."""
    is_valid: Callable[[str], object] = bool
    limits: tuple[float, float] | None = None
    """The smallest and the largest value."""
    unit_suffix: str = ""
    """Suffix of the field's name that the key does not have."""
    is_list: bool = False

    def read(self, raw: Raw) -> T:
        """Return the value of what was written.

        Raises:
            ValueError: It is not a valid value.
        """
        if self.is_list:
            return self.parse((raw,) if isinstance(raw, str) else raw)
        if isinstance(raw, tuple) or not self.is_valid(raw):
            raise ValueError(raw)
        value: Any = self.parse(raw)
        if self.limits is not None and not self.limits[0] <= value <= self.limits[1]:
            raise ValueError(raw)
        return value  # type: ignore[no-any-return]


# Opening a path with NUL would raise ValueError, not OSError.
PATH = Kind("a path", Path, lambda value: value and "\0" not in value)
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
FLAG = Kind(
    "true or false", lambda value: _FLAGS[value.lower()], lambda value: value.lower() in _FLAGS
)


def _matches(pattern: str, max_length: int = 255) -> Callable[[str], object]:
    # The length first, so that no pattern is applied to a long text.
    return lambda value: len(value) <= max_length and re.fullmatch(pattern, value)


def text(
    expected: str = "text without control characters",
    pattern: str = f"[^{UNSENDABLE}]+",
    max_length: int = 255,
) -> Kind[str]:
    """Text that matches a pattern; by default, text that MQTT allows."""
    return Kind(expected, str, _matches(pattern, max_length))


def topic(expected: str, refuse: Callable[[str], str | None]) -> Kind[str]:
    """Part of a topic; ``refuse`` returns why a value is not allowed, or None."""
    return Kind(expected, str, lambda value: refuse(value) is None)


def text_list(item: Kind[str]) -> Kind[tuple[str, ...]]:
    """List of texts; a single text is a list of one."""
    return Kind(
        f"a list, each item {item.expected}",
        lambda texts: tuple(map(item.read, texts)),
        is_list=True,
    )


def path_list(max_items: int) -> Kind[tuple[Path, ...]]:
    """List of paths; a single one is a list of one."""

    def parse(texts: Iterable[Raw]) -> tuple[Path, ...]:
        paths = tuple(map(PATH.read, texts))
        if len(paths) > max_items:
            raise ValueError(len(paths))
        return paths

    return Kind(f"a list of at most {max_items} paths", parse, is_list=True)


def choice(*words: str) -> Kind[str]:
    """One of the given words."""
    return Kind("one of " + ", ".join(words), str, words.__contains__)


def integer(minimum: int, maximum: int) -> Kind[int]:
    """Whole number in a closed range."""
    expected = f"a whole number from {minimum} to {maximum}"
    return Kind(expected, int, _matches(r"[+-]?[0-9]{1,20}"), (minimum, maximum))


def number(minimum: float, maximum: float) -> Kind[float]:
    """Number in a closed range."""
    # ``float`` would take "nan", "1e3" and "1_0" as well.
    is_valid = _matches(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?")
    return Kind(f"a number from {minimum:g} to {maximum:g}", float, is_valid, (minimum, maximum))


def duration(minimum: str, maximum: str) -> Kind[float]:
    """Duration in a closed range, in seconds."""
    return Kind(
        f"a duration from {minimum} to {maximum}",
        _seconds,
        limits=(_seconds(minimum), _seconds(maximum)),
        unit_suffix="_s",
    )


def size(minimum: str, maximum: str) -> Kind[int]:
    """Amount of memory in a closed range, in bytes."""
    return Kind(
        f"a size from {minimum} to {maximum}",
        _num_bytes,
        limits=(_num_bytes(minimum), _num_bytes(maximum)),
        unit_suffix="_bytes",
    )


def _seconds(value: str) -> float:
    return _quantity(value, _DURATION_UNITS)


def _num_bytes(value: str) -> int:
    return round(_quantity(value, _SIZE_UNITS))


def _quantity(value: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(value.strip())
    if match is None or match[2] not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2]]
