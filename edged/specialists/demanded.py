"""Values that are always answered where a prompt says them.

A model that saw few forms of a sentence likes to leave out what stands in an odd place: the room in
"the speed fan in the bedroom 83 percent". Where the examples of a field never left out what their
prompts said, the field is required in answers to prompts that say one of its values. Or it answers
what stands there as a part of something else only, as "kitchen" in "kitchen radio": a field whose
examples never do is left out then.

What a prompt says is read narrowly here, without slips of letters: nothing is demanded on a guess.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edged.specialists.compact.records import Field, Items, Lines, Listing, Record
from edged.specialists.compact.shapes import AnyOf, Listed, Shape
from edged.specialists.counting import Count, sure_keys
from edged.specialists.grounding import Grounded, fits, leaf_keys, mark_of
from edged.specialists.hearing import Heard

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Demands:
    """Keys of fields."""

    required: tuple[str, ...] = ()
    """Answered wherever a prompt says a value of them."""
    apart: tuple[str, ...] = ()
    """Left out where their values stand within longer ones of other fields only."""

    def of(self, keys: Collection[str]) -> "Demands":
        """Return those of some fields."""
        required, apart = (tuple(k for k in o if k in keys) for o in (self.required, self.apart))
        return Demands(required, apart)


def said_fields(record: Record, heard: Heard) -> dict[str, bool]:
    """Return the names of an object's own fields of which a value was said.

    Each is true where one stands there on its own, false where it is part of a longer one only.
    """
    fields = [field for field in record.fields if field != record.head]
    found = {field.name: list(_spans(field, heard)) for field in fields}
    every = [span for spans in found.values() for span in spans]
    return {
        name: any(not any(_is_within(span, other) for other in every) for span in spans)
        for name, spans in found.items()
        if spans
    }


def _spans(field: Field, heard: Heard) -> Iterator[Span]:
    """Yield where the words of a field's values stand."""
    for value in _listed(field.shape):
        yield from heard.spans_of(value)


def _listed(shape: Shape | Record) -> Iterator[str]:
    shape = shape.shape if isinstance(shape, Grounded) else shape
    if isinstance(shape, AnyOf):
        for option in shape.options:
            yield from _listed(option)
    elif isinstance(shape, Listed):
        yield from (value for value in shape.values if isinstance(value, str))


def _is_within(one: Span, other: Span) -> bool:
    return other[0] <= one[0] and one[1] <= other[1] and one != other


def demands_of(shape: Shape, answers: Sequence[tuple[Any, str]]) -> Demands:
    """Return what the examples of fields always did.

    Args:
        shape: Of the answers.
        answers: With all that was said before each.
    """
    keys = list(leaf_keys(shape))
    required, apart = ({key: Count() for key in keys} for _ in range(2))
    for answer, prompt in answers:
        heard = Heard(prompt)
        for key, record, value in _records(shape, answer, ""):
            for name, is_own in said_fields(record, heard).items():
                counts = required if is_own else apart
                counts[f"{key}.{name}"].add(is_so=(name in value) == is_own)
    return Demands(tuple(sure_keys(required)), tuple(sure_keys(apart)))


def with_demands(shape: Shape, demands: Demands, heard: Heard, key: str = "") -> Shape:
    """Return the shape of the answers to a prompt that do what examples always did.

    Args:
        shape: Of answers to this prompt (``with_grounding``).
        demands: Of the examples.
        heard: What was said.
        key: Of the shape.
    """
    if isinstance(shape, AnyOf):
        marked = [(option, key + mark_of(option, i)) for i, option in enumerate(shape.options)]
        return AnyOf(tuple(with_demands(one, demands, heard, mark) for one, mark in marked))
    if isinstance(shape, Record):
        return _record(shape, demands, heard, key)
    if isinstance(shape, Items | Lines):
        return replace(shape, item=with_demands(shape.item, demands, heard, f"{key}[]"))
    if isinstance(shape, Listing):
        lines = with_demands(shape.lines, demands, heard, f"{key}.{shape.name}")
        assert isinstance(lines, Lines)  # noqa: S101 - it stays what it is
        return Listing(shape.name, lines, _record(shape.rest, demands, heard, key))
    return shape


def _record(record: Record, demands: Demands, heard: Heard, key: str) -> Record:
    said, fields = said_fields(record, heard), []
    for field in record.fields:
        own = f"{key}.{field.name}"
        is_own = said.get(field.name)
        if is_own is False and own in demands.apart and not field.is_required:
            continue
        is_required = field.is_required or (is_own is True and own in demands.required)
        shape = with_demands(field.shape, demands, heard, own)
        fields.append(replace(field, shape=shape, is_required=is_required))
    return Record(tuple(fields), record.head)


def _records(
    shape: Shape | Record,
    answer: Any,  # noqa: ANN401 - of JSON
    key: str,
) -> Iterator[tuple[str, Record, dict[str, Any]]]:
    """Yield the objects of an answer with their keys."""
    if isinstance(shape, Record):
        yield key, shape, answer
    for part in _parts(shape, answer, key):
        yield from _records(*part)


def _parts(
    shape: Shape | Record,
    answer: Any,  # noqa: ANN401
    key: str,
) -> Iterator[tuple[Shape | Record, Any, str]]:
    if isinstance(shape, AnyOf):
        marked = ((option, mark_of(option, index)) for index, option in enumerate(shape.options))
        yield from ((one, answer, key + mark) for one, mark in marked if fits(one, answer))
    elif isinstance(shape, Record):
        own = (field for field in shape.fields if field.name in answer)
        yield from ((one.shape, answer[one.name], f"{key}.{one.name}") for one in own)
    elif isinstance(shape, Listing):
        yield shape.lines, answer[shape.name], f"{key}.{shape.name}"
        yield shape.rest, {name: one for name, one in answer.items() if name != shape.name}, key
    elif isinstance(shape, Items | Lines):
        yield from ((shape.item, one, f"{key}[]") for one in answer)
