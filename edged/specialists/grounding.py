"""Values that are always said: a field whose every example stands in its prompt takes no other.

A model that learned few sentences of a function likes to fill in a field that nobody mentioned. So
what the examples never do is made impossible: where each value of a field stood in its prompt, the
grammar of an answer has only those values of the field that stand in this prompt. A slip of one
letter is forgiven. A field that may be left out, and of which nothing stands there, is left out.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from edged.specialists.compact.records import Items, Lines, Listing, Record
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

# Where the prompt stands among the inputs: no member of a request's inputs has this name.
PROMPT = ""
MAX_PROMPT_WORDS = 256
_MAX_SPAN = 12
_FEWEST_LETTERS = 4
_WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*")
_NUMERAL = re.compile(r"\d+(?:\.\d+)?")
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS_OF_NUMBERS = 100


@dataclass(frozen=True, slots=True)
class Grounded:
    """A value that stands in the prompt."""

    shape: Shape
    is_needed: bool = False
    """Whether any value will do where none stands there: something must be said."""

    def write(self, value: Any, inputs: Inputs) -> str:  # noqa: ANN401
        """Return the text of a value, wherever it stands."""
        return self.shape.write(value, inputs)

    def read(self, text: str, inputs: Inputs) -> Any:  # noqa: ANN401
        """Return the value of a text."""
        return self.shape.read(text, inputs)

    def pattern(self, inputs: Inputs) -> str | None:
        """Return the expression of the values that stand in the prompt; None if none does."""
        prompt = inputs.get(PROMPT)
        if not isinstance(prompt, str):
            return self.shape.pattern(inputs)
        texts = []
        for value in said_values(self.shape, prompt):
            try:
                texts.append(escaped(self.shape.write(value, inputs)))
            except AnswerError:
                continue
        found = either(texts)
        return self.shape.pattern(inputs) if found is None and self.is_needed else found


def said_values(shape: Shape, prompt: str) -> Iterator[Scalar]:
    """Yield the values of a shape that stand in a prompt."""
    if isinstance(shape, AnyOf):
        for option in shape.options:
            yield from said_values(option, prompt)
    elif isinstance(shape, Listed):
        words = words_of(prompt)[:MAX_PROMPT_WORDS]
        yield from (one for one in shape.values if stands_in(one, prompt, words))
    elif isinstance(shape, Number):
        yield from _numbers(prompt)
    elif isinstance(shape, FreeText):
        yield from _spans(prompt)


def stands_in(value: Any, prompt: str, words: Sequence[str] | None = None) -> bool:  # noqa: ANN401
    """Tell whether a prompt says a value, but for case, a plural, or a slip of one letter.

    Args:
        value: Of JSON.
        prompt: All that was said.
        words: Of the prompt, where they are known.
    """
    if isinstance(value, bool) or value is None:
        return False
    if not isinstance(value, str):
        return any(abs(value) == number for number in _numbers(prompt))
    wanted = words_of(value)
    words = words_of(prompt)[:MAX_PROMPT_WORDS] if words is None else words
    count = len(wanted)
    return count > 0 and any(
        all(map(_is_like, wanted, words[start : start + count]))
        for start in range(len(words) - count + 1)
    )


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters; of a name, its parts."""
    return [found.group().lower() for found in _WORD.finditer(text.replace("_", " "))]


def _is_like(wanted: str, word: str) -> bool:
    if word in {wanted, f"{wanted}s", f"{wanted}'s"} or f"{word}s" == wanted:
        return True
    if min(len(wanted), len(word)) < _FEWEST_LETTERS or abs(len(wanted) - len(word)) > 1:
        return False
    start = 0
    while start < min(len(wanted), len(word)) and wanted[start] == word[start]:
        start += 1
    one, other = wanted[start:], word[start:]
    # A letter is another one, is missing, is too much, or two are swapped.
    is_swapped = one[:2] == other[1::-1] and one[2:] == other[2:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:] or is_swapped


def _numbers(prompt: str) -> Iterator[int | float]:
    words = prompt.lower()
    found = [Decimal(one) for one in _NUMERAL.findall(words)[:MAX_PROMPT_WORDS]]
    found += [Decimal(one) for one in range(_WORDS_OF_NUMBERS) if _has_words(one, words)]
    for number in dict.fromkeys(found):
        for signed in (number, -number):
            yield int(signed) if signed == signed.to_integral_value() else float(signed)


def _has_words(number: int, words: str) -> bool:
    said = number_words(number).replace(" ", "[ -]")
    # Twenty is not said in twenty five.
    return re.search(rf"\b{said}\b(?![ -](?:{'|'.join(_UNITS[1:10])})\b)", words) is not None


def number_words(number: int) -> str:
    """Return a number from 0 to 99 in English words, others in digits."""
    if not 0 <= number < _WORDS_OF_NUMBERS:
        return str(number)
    if number < len(_UNITS):
        return _UNITS[number]
    tens, units = divmod(number, 10)
    return f"{_TENS[tens - 2]} {_UNITS[units]}" if units else _TENS[tens - 2]


def _spans(prompt: str) -> Iterator[str]:
    """Yield every run of some words, as it stands there."""
    words = [found.span() for found in re.finditer(r"\S+", prompt)][:MAX_PROMPT_WORDS]
    for first, (start, _) in enumerate(words):
        for _, end in words[first : first + _MAX_SPAN]:
            text = prompt[start:end]
            yield from dict.fromkeys((text, text.rstrip(".,!?;:")))


def grounded_keys(shape: Shape, answers: Sequence[tuple[Any, str]]) -> list[str]:
    """Return the keys of the fields whose values always stand in their prompts.

    Args:
        shape: Of the answers.
        answers: With their prompts.
    """
    counts = {key: Count() for key in leaf_keys(shape)}
    for answer, prompt in answers:
        for found in values_of(shape, answer):
            is_text = isinstance(found.shape, FreeText)
            is_said = found.value in prompt if is_text else stands_in(found.value, prompt)
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
            if one == record.head
            else with_grounding(one.shape, keys, f"{key}.{one.name}")
        )
        if isinstance(shape, Grounded) and one.is_required:
            shape = replace(shape, is_needed=True)
        fields.append(replace(one, shape=shape))
    return Record(tuple(fields), record.head)
