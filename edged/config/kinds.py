"""The kinds of values a setting can have: how text becomes a value, and what is expected.

Rule: every kind reads text, not YAML's interpretation of it (there ``0123`` is 83 and ``no`` is
false), so that the same text means the same in a file, on the command line and in a test.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from edged.protocol.topic import UNSENDABLE

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)
N = TypeVar("N", int, float)

# One scalar, or a list of scalars, as written.
Raw = str | tuple[str, ...]

_SIZE_UNITS = {
    "": 1,
    "B": 1,
    "K": 1024,
    "KiB": 1024,
    "kB": 1000,
    "M": 1024**2,
    "MiB": 1024**2,
    "MB": 1000**2,
    "G": 1024**3,
    "GiB": 1024**3,
    "GB": 1000**3,
}
_DURATION_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})\s*([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """The values of a setting."""

    expected: str
    """Description of a valid value, to follow "expected" in an error."""
    read: Callable[[Raw], T]
    """Parses text, or raises ``ValueError``."""
    show: Callable[[T], str] = str
    """Formats a value so that ``read`` returns it."""
    unit_suffix: str = ""
    """Suffix of the field's name that the key does not have."""


def _scalar(parse: Callable[[str], T]) -> Callable[[Raw], T]:
    def read(raw: Raw) -> T:
        if isinstance(raw, tuple):
            raise ValueError("a list")  # noqa: TRY004 - the one error of ``Kind.read``
        return parse(raw)

    return read


def _checked(is_valid: Callable[[str], bool], convert: Callable[[str], T]) -> Callable[[str], T]:
    def parse(value: str) -> T:
        if not is_valid(value):
            raise ValueError(value)
        return convert(value)

    return parse


def _ranged(parse: Callable[[str], N], minimum: N, maximum: N) -> Callable[[Raw], N]:
    def read(value: str) -> N:
        number = parse(value)
        if not minimum <= number <= maximum:
            raise ValueError(value)
        return number

    return _scalar(read)


def text(
    expected: str = "text without control characters",
    pattern: str = f"[^{UNSENDABLE}]+",
    max_length: int = 255,
) -> Kind[str]:
    """Text that matches a pattern; by default, text that MQTT allows."""

    def is_valid(value: str) -> bool:
        return len(value) <= max_length and re.fullmatch(pattern, value) is not None

    return Kind(expected, _scalar(_checked(is_valid, str)))


def topic(expected: str, refuse: Callable[[str], str | None]) -> Kind[str]:
    """Part of a topic; ``refuse`` returns why a value is not allowed, or None."""
    return Kind(expected, _scalar(_checked(lambda value: refuse(value) is None, str)))


def text_list(item: Kind[str]) -> Kind[tuple[str, ...]]:
    """List of texts; a single text is a list of one."""

    def read(raw: Raw) -> tuple[str, ...]:
        return tuple(map(item.read, (raw,) if isinstance(raw, str) else raw))

    return Kind(f"a list, each item {item.expected}", read, lambda texts: f"[{', '.join(texts)}]")


def path() -> Kind[Path]:
    """Path of a file or folder."""
    return Kind("a path", _scalar(_checked(lambda value: bool(value) and "\0" not in value, Path)))


def flag() -> Kind[bool]:
    """Yes or no."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    parse = _checked(lambda value: value.lower() in words, lambda value: words[value.lower()])
    return Kind("true or false", _scalar(parse), lambda value: str(value).lower())


def choice(options: type[E]) -> Kind[E]:
    """Member of an enumeration, by its value."""
    return Kind("one of " + ", ".join(options), _scalar(options))


def integer(minimum: int, maximum: int) -> Kind[int]:
    """Whole number in a closed range."""
    pattern = re.compile(r"[+-]?\d{1,20}", re.ASCII)
    parse = _checked(lambda value: pattern.fullmatch(value) is not None, int)
    expected = f"a whole number from {minimum} to {maximum}"
    return Kind(expected, _ranged(parse, minimum, maximum))


def number(minimum: float, maximum: float) -> Kind[float]:
    """Number in a closed range."""
    pattern = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)
    parse = _checked(lambda value: pattern.fullmatch(value) is not None, float)
    expected = f"a number from {minimum:g} to {maximum:g}"
    return Kind(expected, _ranged(parse, minimum, maximum))


def duration(minimum: float, maximum: float) -> Kind[float]:
    """Duration in a closed range, in seconds."""
    expected = f"a duration from {_show_duration(minimum)} to {_show_duration(maximum)}"
    read = _ranged(lambda value: _quantity(value, _DURATION_UNITS), minimum, maximum)
    return Kind(expected, read, _show_duration, "_s")


def size(minimum: int, maximum: int) -> Kind[int]:
    """Amount of memory in a closed range, in bytes."""
    expected = f"a size from {_show_size(minimum)} to {_show_size(maximum)}"
    read = _ranged(lambda value: round(_quantity(value, _SIZE_UNITS)), minimum, maximum)
    return Kind(expected, read, _show_size, "_bytes")


def _quantity(value: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(value.strip())
    if match is None or match[2] not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2]]


def _show_duration(value: float) -> str:
    if value == 0:
        return "0s"
    for unit in ("d", "h", "min", "s"):
        if value % _DURATION_UNITS[unit] == 0:
            return f"{value / _DURATION_UNITS[unit]:.0f}{unit}"
    return f"{value * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def _show_size(value: int) -> str:
    for unit in ("G", "M", "K"):
        if value and value % _SIZE_UNITS[unit] == 0:
            return f"{value // _SIZE_UNITS[unit]}{unit}"
    return str(value)
