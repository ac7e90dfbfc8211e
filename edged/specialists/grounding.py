"""Values that are always said: a field whose every example stands in its prompt takes no other.

A model that learned few sentences of a function likes to fill in a field that nobody mentioned. So
what the examples never do is made impossible: where each value of a field stood in its prompt, the
grammar of an answer has only those values of the field that stand in the last words of this prompt.
A slip of one letter is forgiven. A field that may be left out, and of which nothing stands there,
is left out. One that may not takes any value then, since people have other words for it; but a
number has none, so what needs one is not answered.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edged.specialists.compact.records import Items, Lines, Listing, Record, is_fixed
from edged.specialists.compact.shapes import (
    AnswerError,
    AnyOf,
    FreeText,
    Inputs,
    Listed,
    Number,
    Scalar,
    Shape,
    either,
    escaped,
)
from edged.specialists.counting import Count, sure_keys
from edged.specialists.hearing import Heard

# Where what was heard stands among the inputs: no member of a request's inputs has this name.
PROMPT = ""


@dataclass(frozen=True, slots=True)
class Grounded:
    """A value that stands in the prompt."""

    shape: Shape
    is_needed: bool = False
    """Whether any value will do where none stands there: it has other names."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return the text of a value, wherever it stands."""
        return self.shape.write(value, inputs)

    def read(self, text: str, inputs: Inputs) -> Any:  # noqa: ANN401
        """Return the value of a text."""
        return self.shape.read(text, inputs)

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of the values that stand in the prompt; None if none does."""
        heard = inputs.get(PROMPT)
        if not isinstance(heard, Heard):
            return self.shape.pattern(inputs)
        # Fields of several functions are often the same; equal shapes may differ (1 is True).
        mark = repr(self.shape)
        if mark not in heard.patterns:
            heard.patterns[mark] = self._said(heard, inputs)
        found = heard.patterns[mark]
        return self.shape.pattern(inputs) if found is None and self.is_needed else found

    def _said(self, heard: Heard, inputs: Inputs) -> str | None:
        texts = []
        for value in said_values(self.shape, heard):
            try:
                texts.append(escaped(self.shape.write(value, inputs)))
            except AnswerError:
                continue
        return either(texts)


def said_values(shape: Shape, heard: Heard) -> Iterator[Scalar]:
    """Yield the values of a shape that were said."""
    if isinstance(shape, AnyOf):
        for option in shape.options:
            yield from said_values(option, heard)
    elif isinstance(shape, Listed):
        yield from filter(heard.says, shape.values)
    elif isinstance(shape, Number):
        yield from heard.numbers
    elif isinstance(shape, FreeText):
        yield from heard.spans


def grounded_keys(shape: Shape, answers: Sequence[tuple[Any, str]]) -> list[str]:
    """Return the keys of the fields whose values always stand in their prompts.

    Args:
        shape: Of the answers.
        answers: With their prompts.
    """
    counts = {key: Count() for key in leaf_keys(shape)}
    for answer, prompt in answers:
        heard = Heard(prompt)
        for found in values_of(shape, answer):
            is_text = isinstance(found.shape, FreeText)
            is_said = found.value in heard.text if is_text else heard.says(found.value)
            counts[found.key].add(is_so=is_said)
    return sure_keys(counts)


def leaf_keys(shape: Shape, key: str = "") -> Iterator[str]:
    """Yield the keys of all single values of a shape."""
    shape = shape.shape if isinstance(shape, Grounded) else shape
    if isinstance(shape, AnyOf):
        for index, option in enumerate(shape.options):
            yield from leaf_keys(option, key + mark_of(option, index))
    elif isinstance(shape, Record):
        for field in shape.fields:
            if field != shape.head:
                yield from leaf_keys(field.shape, f"{key}.{field.name}")
    elif isinstance(shape, Listing):
        yield from leaf_keys(shape.lines, f"{key}.{shape.name}")
        yield from leaf_keys(shape.rest, key)
    elif isinstance(shape, Items | Lines):
        yield from leaf_keys(shape.item, f"{key}[]")
    else:
        yield key


@dataclass(frozen=True, slots=True)
class Found:
    """A value within an answer, and its shape."""

    key: str
    """Of the field: values with the same key are of one kind."""
    value: Any
    shape: Shape


def values_of(shape: Shape, answer: Any, key: str = "") -> Iterator[Found]:  # noqa: ANN401
    """Yield the single values of an answer that a prompt may have said."""
    shape = shape.shape if isinstance(shape, Grounded) else shape
    if isinstance(shape, AnyOf):
        for index, option in enumerate(shape.options):
            if fits(option, answer):
                yield from values_of(option, answer, key + mark_of(option, index))
                break
    elif isinstance(shape, Listed | Number | FreeText):
        if not isinstance(answer, bool | None):
            yield Found(key, answer, shape)
    else:
        yield from _parts_of(shape, answer, key)


def _parts_of(shape: Shape, answer: Any, key: str) -> Iterator[Found]:  # noqa: ANN401
    if isinstance(shape, Record):
        for field in shape.fields:
            if field != shape.head and field.name in answer:
                yield from values_of(field.shape, answer[field.name], f"{key}.{field.name}")
    elif isinstance(shape, Listing):
        yield from values_of(shape.lines, answer[shape.name], f"{key}.{shape.name}")
        yield from values_of(shape.rest, answer, key)
    elif isinstance(shape, Items | Lines):
        for one in answer:
            yield from values_of(shape.item, one, f"{key}[]")


def mark_of(option: Shape, index: int) -> str:
    """Return what an alternative adds to the keys of its fields."""
    return f"|{index}" if isinstance(option, Record) else ""


def fits(shape: Shape, answer: Any) -> bool:  # noqa: ANN401
    """Tell whether an answer is of an alternative."""
    if isinstance(shape, Record) and shape.head is not None:
        return shape.claims(answer)
    try:
        shape.write(answer, {})
    except ValueError:  # also of inputs, which are not known here
        return False
    return True


def with_grounding(shape: Shape, keys: Collection[str], key: str = "") -> Shape:
    """Return the shape whose fields of these keys take only what stands in the prompt."""
    if key in keys:
        return Grounded(shape)
    if isinstance(shape, AnyOf):
        marked = enumerate(shape.options)
        return AnyOf(tuple(with_grounding(o, keys, key + mark_of(o, i)) for i, o in marked))
    if isinstance(shape, Record):
        return _record(shape, keys, key)
    if isinstance(shape, Items | Lines):
        return replace(shape, item=with_grounding(shape.item, keys, f"{key}[]"))
    if isinstance(shape, Listing):
        lines = with_grounding(shape.lines, keys, f"{key}.{shape.name}")
        assert isinstance(lines, Lines)  # noqa: S101 - it stays what it is
        return Listing(shape.name, lines, _record(shape.rest, keys, key))
    return shape


def _record(record: Record, keys: Collection[str], key: str) -> Record:
    fields = []
    for one in record.fields:
        shape = (
            one.shape
            if one == record.head or is_fixed(one)  # neither is written as others are
            else with_grounding(one.shape, keys, f"{key}.{one.name}")
        )
        if isinstance(shape, Grounded) and one.is_required and not isinstance(shape.shape, Number):
            shape = replace(shape, is_needed=True)
        fields.append(replace(one, shape=shape))
    return Record(tuple(fields), record.head)
