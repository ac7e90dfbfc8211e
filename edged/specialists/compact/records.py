"""Objects and lists of them, a line for each object: ``word key=value key=value``."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edged.specialists.compact.shapes import (
    EMPTY_LIST,
    NOTHING,
    AnswerError,
    Inputs,
    Listed,
    Shape,
    either,
    escaped,
    joined_length,
    same,
)

_STRING_OR_KEY = re.compile(r'"(?:[^"\\]|\\.)*"|(?:^| )([\w-]+(?:\.[\w-]+)*)=')
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|, ')


@dataclass(frozen=True, slots=True)
class Items:
    """A list of single values: ``a, b``."""

    item: Shape
    least: int
    most: int
    is_unique: bool = False

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return the values with commas.

        Raises:
            AnswerError: It is none of the shape.
        """
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise AnswerError(f": must be a list of {self.least} to {self.most} values")
        if self.is_unique and len(_different(value)) != len(value):
            raise AnswerError(": must hold different values")
        return ", ".join(self.item.write(one, inputs) for one in value) or EMPTY_LIST

    def read(self, text: str, inputs: Inputs) -> list[Any]:
        """Return the values; of equal ones that must differ, the first.

        Raises:
            AnswerError: The text is no such value.
        """
        texts = [] if text == EMPTY_LIST else _split(text)
        values = [self.item.read(one, inputs) for one in texts]
        values = _different(values) if self.is_unique else values
        if not self.least <= len(values) <= self.most:
            raise AnswerError(f": {len(values)} values, {self.least} to {self.most} are allowed")
        return values

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of the lists."""
        return _repeated(self.item.pattern(inputs), ", ", self.least, self.most)


def _repeated(item: str | None, separator: str, least: int, most: int) -> str | None:
    empty = [escaped(EMPTY_LIST)] if least == 0 else []
    if item is None or most == 0:
        return either(empty)
    more = f"({separator}{item}){{{max(least - 1, 0)},{most - 1}}}" if most > 1 else ""
    return either([f"{item}{more}", *empty])


def _different(values: Sequence[Any]) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if not any(same(value, known) for known in kept):
            kept.append(value)
    return kept


def _split(text: str) -> list[str]:
    parts, start = [], 0
    for found in _STRING_OR_COMMA.finditer(text):
        if found.group() == ", ":
            parts.append(text[start : found.start()])
            start = found.end()
    return [*parts, text[start:]]


@dataclass(frozen=True, slots=True)
class Field:
    """One value of an object, or an object within it."""

    name: str
    key: str
    """What it is written with: its name, or the path to it where others have this name."""
    shape: "Shape | Record"
    is_required: bool


@dataclass(frozen=True, slots=True)
class Record:
    """An object of known fields."""

    fields: tuple[Field, ...]
    head: Field | None = None
    """One of the fields, which is written first and without its key."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return a line that is read as this object.

        Raises:
            AnswerError: It is none of the shape.
        """
        parts = list(self._parts(value, inputs))
        if self.head is not None:
            parts.insert(0, self.head.shape.write(value[self.head.name], inputs))
        text = " ".join(parts) or NOTHING
        # An empty object within, say, leaves no trace.
        if not same(self.read(text, inputs), value):
            raise AnswerError(": is not what would be read back; leave out empty objects")
        return text

    def claims(self, value: Any) -> bool:  # noqa: ANN401
        """Tell whether an object has the word that this record begins with."""
        if self.head is None or not isinstance(value, dict):
            return False
        shape = self.head.shape
        known = shape.values if isinstance(shape, Listed) else ()
        return any(same(value.get(self.head.name), one) for one in known)

    def _parts(self, value: Any, inputs: Inputs) -> Iterator[str]:  # noqa: ANN401
        if not isinstance(value, dict):
            raise AnswerError(": must be an object")
        if unknown := sorted(value.keys() - {field.name for field in self.fields}):
            raise AnswerError(f".{unknown[0]}: is not in the schema")
        for field in self.fields:
            if field.name not in value:
                if field.is_required:
                    raise AnswerError(f".{field.name}: is missing")
                continue
            try:
                yield from self._written(field, value[field.name], inputs)
            except AnswerError as error:
                raise type(error)(f".{field.name}{error}") from error

    def _written(self, field: Field, value: Any, inputs: Inputs) -> Iterator[str]:  # noqa: ANN401
        if isinstance(field.shape, Record):
            yield from field.shape._parts(value, inputs)  # noqa: SLF001 - its own class
            return
        text = field.shape.write(value, inputs)
        if field != self.head and not is_fixed(field):
            yield f"{field.key}={text}"

    def read(self, text: str, inputs: Inputs) -> dict[str, Any]:
        """Return the object of a line.

        Raises:
            AnswerError: The text is no such value.
        """
        texts, start, key = {}, 0, ""
        for found in [*_STRING_OR_KEY.finditer(text), None]:
            if found is not None and found.group(1) is None:
                continue
            part = text[start : None if found is None else found.start()]
            if key in texts:
                raise AnswerError(f".{key}: is there twice")
            texts[key] = part
            if found is not None:
                key, start = found.group(1), found.end()
        first, headed = texts.pop(""), {}
        # First, since most of several records end here.
        if self.head is not None:
            headed = {self.head.name: self.head.shape.read(first, inputs)}
        value = headed | self._read(texts, inputs)
        if texts:
            raise AnswerError(f".{next(iter(texts))}: is not in the schema")
        if self.head is None and first != (NOTHING if text == NOTHING else ""):
            raise AnswerError(f": {first[:40]!r} has no key")
        order = [field.name for field in self.fields]
        return dict(sorted(value.items(), key=lambda item: order.index(item[0])))

    def _read(self, texts: dict[str, str], inputs: Inputs) -> dict[str, Any]:
        """Return the fields that are there, and take their texts out of the dictionary.

        Raises:
            AnswerError: It is none of the shape.
        """
        value: dict[str, Any] = {}
        for field in self.fields:
            if field != self.head and (field.is_required or _is_there(field, texts)):
                try:
                    value[field.name] = _read_field(field, texts, inputs)
                except AnswerError as error:
                    raise type(error)(f".{field.name}{error}") from error
        return value

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of the lines."""
        parts = self._patterns(inputs)
        if self.head is not None:
            head = self.head.shape.pattern(inputs)
            parts = None if head is None or parts is None else [(head, True), *parts]
        if parts is None:
            return None
        can_be_empty = not any(is_required for _, is_required in parts)
        found = _sequence(parts)
        empty = [escaped(NOTHING)] if can_be_empty else []
        return either([*([found] if found is not None else []), *empty])

    def _patterns(self, inputs: Inputs) -> list[tuple[str, bool]] | None:
        """Return the expression of each part, and whether it is required; None if one cannot be."""
        found, length = list[tuple[str, bool]](), 0
        for field in self.fields:
            if field == self.head or is_fixed(field):
                continue
            parts = self._patterns_of(field, inputs)
            if parts is None and field.is_required:
                return None
            length = joined_length(length, (pattern for pattern, _ in parts or []))
            found += parts or []
        return found

    def _patterns_of(self, field: Field, inputs: Inputs) -> list[tuple[str, bool]] | None:
        if not isinstance(field.shape, Record):
            pattern = field.shape.pattern(inputs)
            return (pattern and [(f"{escaped(field.key)}={pattern}", field.is_required)]) or None
        parts = field.shape._patterns(inputs)  # noqa: SLF001
        if not parts or field.is_required or not any(is_required for _, is_required in parts):
            return parts
        # All that it requires, or none of it.
        whole = _sequence(parts)
        return None if whole is None else [(whole, False)]


def is_fixed(field: Field) -> bool:
    """Tell whether a field is always there with the same value, so that it need not be written."""
    return field.is_required and isinstance(field.shape, Listed) and len(field.shape.values) == 1


def _is_there(field: Field, texts: Mapping[str, str]) -> bool:
    """Tell whether anything was written of a field."""
    if isinstance(field.shape, Record):
        return any(_is_there(one, texts) for one in field.shape.fields)
    return field.key in texts


def _read_field(field: Field, texts: dict[str, str], inputs: Inputs) -> Any:  # noqa: ANN401
    """Return the value of a field that must be there, and take its text out of the dictionary.

    Raises:
        AnswerError: It is missing, or its text is no value of it.
    """
    if isinstance(field.shape, Record):
        return field.shape._read(texts, inputs)  # noqa: SLF001 - its own class
    if is_fixed(field) and isinstance(field.shape, Listed):
        return field.shape.values[0]
    if field.key not in texts:
        raise AnswerError(": is missing")
    return field.shape.read(texts.pop(field.key), inputs)


def _sequence(parts: Sequence[tuple[str, bool]]) -> str | None:
    """Return the expression of one part at least, all required ones, with spaces between.

    Raises:
        AnswerError: It is longer than an expression may be.
    """
    firsts, length = list[str](), 0
    for index, (pattern, is_required) in enumerate(parts):
        rest = [f" {one}" if needed else f"( {one})?" for one, needed in parts[index + 1 :]]
        firsts.append(pattern + "".join(rest))
        length = joined_length(length, firsts[-1:])
        if is_required:
            break
    return either(firsts)


@dataclass(frozen=True, slots=True)
class Lines:
    """A list of objects: one line for each."""

    item: Shape
    least: int
    most: int

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return the lines.

        Raises:
            AnswerError: It is none of the shape.
        """
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise AnswerError(f": must be a list of {self.least} to {self.most} objects")
        lines = []
        for index, one in enumerate(value):
            try:
                lines.append(self.item.write(one, inputs))
            except AnswerError as error:
                raise type(error)(f"[{index}]{error}") from error
        return "\n".join(lines) or EMPTY_LIST

    def read(self, text: str, inputs: Inputs) -> list[Any]:
        """Return the objects.

        Raises:
            AnswerError: The text is no such value.
        """
        lines = [] if text == EMPTY_LIST else text.split("\n")
        if not self.least <= len(lines) <= self.most:
            raise AnswerError(f": {len(lines)} lines, {self.least} to {self.most} are allowed")
        return [self.item.read(line, inputs) for line in lines]

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of the lines."""
        return _repeated(self.item.pattern(inputs), "\\n", self.least, self.most)


@dataclass(frozen=True, slots=True)
class Listing:
    """An object with a list of objects in it: the list's lines, then one with the other fields."""

    name: str
    """Of the list."""
    lines: Lines
    rest: Record

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return lines that are read as this object.

        Raises:
            AnswerError: It is none of the shape.
        """
        if not isinstance(value, dict):
            raise AnswerError(": must be an object")
        if self.name not in value:
            raise AnswerError(f".{self.name}: is missing")
        try:
            text = self.lines.write(value[self.name], inputs)
        except AnswerError as error:
            raise type(error)(f".{self.name}{error}") from error
        others = {name: one for name, one in value.items() if name != self.name}
        if (last := self.rest.write(others, inputs)) != NOTHING:
            text = last if text == EMPTY_LIST else f"{text}\n{last}"
        if not same(self.read(text, inputs), value):
            raise AnswerError(": its lines and its other fields cannot be told apart")
        return text

    def read(self, text: str, inputs: Inputs) -> dict[str, Any]:
        """Return the object."""
        before, _, last = text.rpartition("\n")
        if text.count("\n") < self.lines.least:
            last = NOTHING  # the list needs them all, whatever the last one looks like
        try:
            # Of other fields that are all left out there is no line: this is an object of the list.
            others = {} if last == NOTHING else self.rest.read(last, inputs)
            listed = text if last == NOTHING else before or EMPTY_LIST
        except AnswerError:
            others, listed = {}, text
        others = others or self.rest.read(NOTHING, inputs)
        return {self.name: self.lines.read(listed, inputs), **others}

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of the lines."""
        parts, item = self.rest._patterns(inputs), self.lines.item.pattern(inputs)  # noqa: SLF001
        if parts is None:
            return None
        last = _sequence(parts) if parts else None
        is_last_needed = any(is_required for _, is_required in parts)
        found = []
        least, most = self.lines.least, self.lines.most
        if (lines := _repeated(item, "\\n", max(least, 1), most)) is not None:
            more = "" if last is None else f"\\n{last}" if is_last_needed else f"(\\n{last})?"
            found.append(f"{lines}{more}")
        if least == 0:
            found += [] if last is None else [last]
            found += [] if is_last_needed else [escaped(EMPTY_LIST)]
        return either(found)
