"""What one value of an answer may be, how it is written, and how it is read back.

A value is written plainly where that says which value it is, and as JSON else. Each shape has three
sides that belong together: ``write`` and ``read`` are each other's inverse, and ``pattern`` is a
regular expression of what ``read`` takes.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, TypeAlias

from edged.specialists.compact.ranges import decimal_numbers, whole_numbers

Scalar: TypeAlias = str | int | float | bool | None
Inputs: TypeAlias = Mapping[str, Any]

# What cannot be taken for the end of a value or for another kind of one.
_WORD = r'[^\s"=,\[\]\\\x00-\x1f\x7f]'
_WORDS = re.compile(rf"{_WORD}+( {_WORD}+)*")
_QUOTED_CHARACTER = (
    r'([^"\\\x00-\x1f\x7f]|\\["\\\/bfnrt]|'
    r"\\u([0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))"
)
NOTHING = "-"
EMPTY_LIST = "[]"
# Of the expression of an answer: what a schema of 2 kB allows can take gigabytes to write down.
MAX_PATTERN_CHARACTERS = 1 << 17
TOO_MANY = "inputs: the answers that they allow are too many; send fewer of them, or shorter names"
_SPECIAL = re.compile(r"[\\^$.|?*+()\[\]{}/\-&~#\"]")


class ShapeError(ValueError):
    """A schema has no compact form; the message starts with the path of what has none."""


class AnswerError(ValueError):
    """A value is not of the shape, or a text is no such value; the message says where."""


class AmbiguousError(AnswerError):
    """A text names several things that nothing tells apart."""


class Shape(Protocol):
    """What a value may be."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401 - of JSON
        """Return the text of a value; raises ``AnswerError`` where it is none of the shape."""
        ...

    def read(self, text: str, inputs: Inputs) -> Any:  # noqa: ANN401 - of JSON
        """Return the value of a text; raises ``AnswerError`` where it is none."""
        ...

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of all texts; None where nothing can be said."""
        ...


def escaped(text: str) -> str:
    """Return a text as the expression that matches it."""
    return _SPECIAL.sub(r"\\\g<0>", text).replace("\n", "\\n")


def either(patterns: Sequence[str]) -> str | None:
    """Return the expression of any of these."""
    different = list(dict.fromkeys(patterns))
    if len(different) == 1:
        return different[0]
    return f"({'|'.join(different)})" if different else None


def joined_length(before: int, patterns: Iterable[str]) -> int:
    """Return how long the parts of an expression are together.

    Args:
        before: Characters of the parts before.
        patterns: More of them.

    Raises:
        AnswerError: They are longer than an expression may be.
    """
    length = before + sum(map(len, patterns))
    if length > MAX_PATTERN_CHARACTERS:
        raise AnswerError(TOO_MANY)
    return length


def quoted(text: str) -> str:
    """Return a text as a JSON string in which every control character is escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def plain_or_quoted(text: str) -> str:
    """Return words as they are, and any other text as a JSON string."""
    return text if _WORDS.fullmatch(text) and text != NOTHING else quoted(text)


def _plain(value: float | None) -> str:
    # Of hundreds of numbers, JSON's encoder takes a millisecond.
    return repr(value) if type(value) in (int, float) else json.dumps(value)


def is_of(value: Scalar, kinds: object) -> bool:
    """Tell whether a value is of a type of JSON Schema, or of one of a list of them."""
    names = kinds if isinstance(kinds, list) else [kinds]
    if isinstance(value, bool | None | str):
        return {bool: "boolean", str: "string"}.get(type(value), "null") in names
    is_whole = isinstance(value, int) or value.is_integer()
    return "number" in names or (is_whole and "integer" in names)


def same(one: Any, other: Any) -> bool:  # noqa: ANN401 - of JSON
    """Tell whether two values of JSON are equal; true is not 1, but 1.0 is."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


@dataclass(frozen=True, slots=True)
class Listed:
    """One of some values."""

    values: tuple[Scalar, ...]

    def _texts(self) -> list[tuple[str, Scalar]]:
        texts = [
            (plain_or_quoted(value) if isinstance(value, str) else _plain(value), value)
            for value in self.values
        ]
        taken = {text for text, value in texts if not isinstance(value, str)}
        return [
            (quoted(value) if isinstance(value, str) and text in taken else text, value)
            for text, value in texts
        ]

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401, ARG002
        """Return the text of one of the values.

        Raises:
            AnswerError: It is none of the shape.
        """
        for text, known in self._texts():
            if same(known, value):
                return text
        listed = ", ".join(text for text, _ in self._texts()[:8])
        raise AnswerError(f": must be one of {listed}, got {_shown(value)}")

    def read(self, text: str, inputs: Inputs) -> Scalar:  # noqa: ARG002
        """Return the value of a text.

        Raises:
            AnswerError: The text is no such value.
        """
        for known, value in self._texts():
            if known == text:
                return value
        raise AnswerError(f": {_shown(text)} is none of the values")

    def pattern(self, inputs: Inputs) -> str | None:  # noqa: ARG002
        """Return the expression of all values."""
        return either([escaped(text) for text, _ in self._texts()])


@dataclass(frozen=True, slots=True)
class FreeText:
    """Any text of some length, in characters."""

    least: int
    most: int
    is_quoted: bool = False
    """Whether it is always quoted: it would be taken for something else."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401, ARG002
        """Return words as they are, and any other text as a JSON string.

        Raises:
            AnswerError: It is none of the shape.
        """
        if not isinstance(value, str) or not self.least <= len(value) <= self.most:
            span = f"{self.least} to {self.most}"
            raise AnswerError(f": must be a text of {span} characters, got {_shown(value)}")
        return value if self._is_plain(value) else quoted(value)

    def read(self, text: str, inputs: Inputs) -> str:  # noqa: ARG002
        """Return the text, quoted or not.

        Raises:
            AnswerError: The text is no such value.
        """
        value = _unquoted(text) if text.startswith('"') else text
        if not text.startswith('"') and not self._is_plain(text):
            raise AnswerError(f": {_shown(text)} must be quoted")
        if not self.least <= len(value) <= self.most:
            raise AnswerError(f": must have {self.least} to {self.most} characters")
        return value

    def pattern(self, inputs: Inputs) -> str | None:  # noqa: ARG002
        """Return the expression of words, or of a JSON string."""
        plain = f"{_WORD}( ?{_WORD}){{{max(self.least, 1) - 1},{self._most_plain - 1}}}"
        string = f'\\"{_QUOTED_CHARACTER}{{{self.least},{self.most}}}\\"'
        has_plain = not self.is_quoted and self._most_plain >= max(self.least, 1)
        return f"({plain}|{string})" if has_plain else string

    @property
    def _most_plain(self) -> int:
        """Most characters of plain words: with the spaces between they are not too long."""
        return (self.most + 1) // 2

    def _is_plain(self, text: str) -> bool:
        num_characters = len(text) - text.count(" ")
        is_short = max(self.least, 1) <= num_characters <= self._most_plain
        return bool(is_short and not self.is_quoted and _WORDS.fullmatch(text))


def _unquoted(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise AnswerError(f": {_shown(text)} is no JSON string") from error
    if not isinstance(value, str):
        raise AnswerError(f": {_shown(text)} is no JSON string")
    return value


@dataclass(frozen=True, slots=True)
class Number:
    """A number between two bounds."""

    low: Decimal
    high: Decimal
    decimals: int
    """0 for integers."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401, ARG002
        """Return a number without an exponent.

        Raises:
            AnswerError: It is none of the shape.
        """
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise AnswerError(f": must be a number, got {_shown(value)}")
        try:
            exact = Decimal(str(value))
            text = f"{exact:f}"
        except ArithmeticError as error:
            raise AnswerError(f": {_shown(value)} is no number") from error
        if "." in text:
            text = text.rstrip("0").removesuffix(".")
        text = "0" if text == "-0" else text
        if not self._holds(text):
            raise AnswerError(f": {_shown(value)} is not {self._span}")
        return text

    def read(self, text: str, inputs: Inputs) -> float:  # noqa: ARG002
        """Return the number; an integer where it has no point.

        Raises:
            AnswerError: The text is no such value.
        """
        is_number = re.fullmatch(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{0,17}[1-9])?", text)
        if not is_number or text == "-0" or not self._holds(text):
            raise AnswerError(f": {_shown(text)} is not {self._span}")
        return float(text) if "." in text else int(text)

    def _holds(self, text: str) -> bool:
        places = len(text.partition(".")[2])
        return places <= self.decimals and self.low <= Decimal(text) <= self.high

    @property
    def _span(self) -> str:
        kind = f"a number of {self.decimals} decimals" if self.decimals else "an integer"
        return f"{kind} from {self.low} to {self.high}"

    def pattern(self, inputs: Inputs) -> str | None:  # noqa: ARG002
        """Return the expression of the numbers."""
        if self.decimals:
            return decimal_numbers(self.low, self.high, self.decimals)
        return whole_numbers(int(self.low), int(self.high))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """A value of one of several shapes; of what two of them read, the first decides."""

    options: tuple[Shape, ...]
    is_one: bool = False
    """Whether a value of several of them is none: ``oneOf``."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return a text that is read as this value."""
        error = AnswerError(f": {_shown(value)} is none of the alternatives")
        for option in self.options:
            try:
                texts = [option.write(value, inputs)]
            except AnswerError as refused:
                if isinstance(refused, AmbiguousError) or _claims(option, value):
                    error = refused
                continue
            # A text that looks like a number.
            texts += [quoted(value)] if isinstance(value, str) else []
            for text in texts:
                if self._is_read_as(text, value, inputs):
                    return text
            error = AnswerError(": the alternatives cannot be told apart; add a constant to each")
        raise error

    def _is_read_as(self, text: str, value: Any, inputs: Inputs) -> bool:  # noqa: ANN401
        try:
            return same(self.read(text, inputs), value)
        except AnswerError:
            return False

    def read(self, text: str, inputs: Inputs) -> Any:  # noqa: ANN401
        """Return what the first shape that can reads.

        Raises:
            AnswerError: None of them can, or several of ``oneOf`` allow it.
        """
        error: AnswerError = AnswerError(f": {_shown(text)} is none of the alternatives")
        for option in self.options:
            try:
                value = option.read(text, inputs)
            except AmbiguousError as ambiguous:
                error = ambiguous
            except AnswerError:
                continue
            else:
                if self.is_one and sum(self._fitting(value, inputs)) > 1:
                    raise AnswerError(f": {_shown(value)} is of several alternatives of oneOf")
                return value
        raise error

    def _fitting(self, value: Any, inputs: Inputs) -> Iterator[bool]:  # noqa: ANN401
        """Yield whether it is a value of each of them."""
        for option in self.options:
            try:
                option.write(value, inputs)
            except AnswerError:
                yield False
            else:
                yield True

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of all of them."""
        found, length = list[str](), 0
        for option in self.options:
            if (one := option.pattern(inputs)) is not None:
                length = joined_length(length, [one])
                found.append(one)
        return either(found)


def _claims(option: Shape, value: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is meant to be of this shape, as its constant says."""
    claims = getattr(option, "claims", None)
    return claims is not None and claims(value)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:60] + "…"  # noqa: PLR2004
