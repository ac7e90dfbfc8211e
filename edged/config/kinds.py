"""How the text of one setting becomes a value, and what to say when it does not.

Rule: every kind reads text, never what YAML guesses from it (there ``0123`` is 83 and ``no`` is
false), so that a file, the command line and a test mean the same by the same characters.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from edged.protocol.topic import UNSENDABLE

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

Raw = str | tuple[str, ...]
"""One scalar, or a list of scalars, as written."""

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
    """The values that a setting can have."""

    expected: str
    """What a value must look like, to stand after "expected"."""
    read: Callable[[Raw], T]
    """Turns text into a value, or raises ``ValueError``."""
    show: Callable[[T], str] = str
    """Writes a value so that ``read`` gives it back."""
    unit_suffix: str = ""
    """What a field's name has at its end and the key's has not."""


def _scalar(parse: Callable[[str], T]) -> Callable[[Raw], T]:
    def read(raw: Raw) -> T:
        if isinstance(raw, tuple):
            raise ValueError("a list")  # noqa: TRY004 - the one error of ``Kind.read``
        return parse(raw)

    return read


def text(
    expected: str = "text without control characters",
    pattern: str = f"[^{UNSENDABLE}]+",
    max_length: int = 255,
) -> Kind[str]:
    """Characters that match a pattern as a whole; by default those that MQTT takes."""

    def parse(value: str) -> str:
        if len(value) > max_length or re.fullmatch(pattern, value) is None:
            raise ValueError(value)
        return value

    return Kind(expected, _scalar(parse))


def topic(expected: str, refuse: Callable[[str], str | None]) -> Kind[str]:
    """Make the kind of a part of a topic, for which ``refuse`` has no reason against it."""

    def parse(value: str) -> str:
        if refuse(value) is not None:
            raise ValueError(value)
        return value

    return Kind(expected, _scalar(parse))


def text_list(item: Kind[str]) -> Kind[tuple[str, ...]]:
    """Make the kind of a list of texts; one text alone is a list of one."""

    def read(raw: Raw) -> tuple[str, ...]:
        return tuple(map(item.read, (raw,) if isinstance(raw, str) else raw))

    def show(values: tuple[str, ...]) -> str:
        return "[" + ", ".join(values) + "]"

    return Kind(f"a list, each item {item.expected}", read, show)


def path() -> Kind[Path]:
    """Make the kind of a file's or folder's path."""

    def parse(value: str) -> Path:
        if not value or "\0" in value:
            raise ValueError(value)
        return Path(value)

    return Kind("a path", _scalar(parse))


def flag() -> Kind[bool]:
    """Make the kind of yes or no."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

    def parse(value: str) -> bool:
        if value.lower() not in words:
            raise ValueError(value)
        return words[value.lower()]

    return Kind("true or false", _scalar(parse), lambda value: str(value).lower())


def choice(options: type[E]) -> Kind[E]:
    """Make the kind of one member of an enumeration, by its value."""
    return Kind("one of " + ", ".join(options), _scalar(options))


def integer(minimum: int, maximum: int) -> Kind[int]:
    """Make the kind of a whole number inside a closed range."""

    def parse(value: str) -> int:
        if re.fullmatch(r"[+-]?\d{1,20}", value, re.ASCII) is None:
            raise ValueError(value)
        return _inside(int(value), minimum, maximum)

    return Kind(f"a whole number from {minimum} to {maximum}", _scalar(parse))


def number(minimum: float, maximum: float) -> Kind[float]:
    """Make the kind of a number inside a closed range."""

    def parse(value: str) -> float:
        if re.fullmatch(r"[+-]?\d{1,20}(\.\d{1,20})?", value, re.ASCII) is None:
            raise ValueError(value)
        return _inside(float(value), minimum, maximum)

    return Kind(f"a number from {minimum:g} to {maximum:g}", _scalar(parse))


def duration(minimum: float, maximum: float) -> Kind[float]:
    """Make the kind of a time span inside a closed range; seconds inside."""

    def parse(value: str) -> float:
        return _inside(_quantity(value, _DURATION_UNITS), minimum, maximum)

    expected = f"a duration from {_show_duration(minimum)} to {_show_duration(maximum)}"
    return Kind(expected, _scalar(parse), _show_duration, "_s")


def size(minimum: int, maximum: int) -> Kind[int]:
    """Make the kind of an amount of memory inside a closed range; bytes inside."""

    def parse(value: str) -> int:
        return _inside(round(_quantity(value, _SIZE_UNITS)), minimum, maximum)

    expected = f"a size from {_show_size(minimum)} to {_show_size(maximum)}"
    return Kind(expected, _scalar(parse), _show_size, "_bytes")


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


N = TypeVar("N", int, float)


def _quantity(value: str, units: dict[str, N]) -> float:
    """Read ``number unit``.

    Raises:
        ValueError: it is not a number with one of the units.
    """
    match = _QUANTITY.fullmatch(value.strip())
    if match is None or match[2] not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2]]


def _inside(value: N, minimum: N, maximum: N) -> N:
    """Return the value.

    Raises:
        ValueError: it is out of the closed range.
    """
    if not minimum <= value <= maximum:
        raise ValueError(value)
    return value
