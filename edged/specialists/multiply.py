"""Few examples become many: values that a prompt names are exchanged, and prompts said otherwise.

A value of an answer is exchanged where every prompt that could have named it says it in the same
words, once: then what is said and what is answered still belong together. Enumerated values become
others of their enumeration, numbers others between those that the examples have, texts others that
the examples have for the same field. Then case, politeness, punctuation and spelling are varied,
and what is answered stays.

Everything is drawn from a seed: the same examples make the same ones.
"""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from edged.specialists.compact.shapes import AnswerError, FreeText, Listed, Number, Shape
from edged.specialists.dialogues import Dialogue, Turn
from edged.specialists.grounding import Found, values_of
from edged.specialists.hearing import number_words

_FEWEST_CHARACTERS = 3
# Of numbers, until one fits.
_DRAWS = 8
_SWAPPED = 0.12
_POLITE = 0.25
_BEFORE = ("please", "can you", "could you", "could you please", "I want you to", "hey,", "ok,")
_AFTER = ("please", "thanks", "now", "for me")
_ENGLISH = re.compile(r"\b(the|a|is|to|in|my|of|and|it|i|you|turn|what|for)\b", re.IGNORECASE)


@dataclass(slots=True)
class _Answered:
    """A value that a dialogue has in answers."""

    value: Any
    fields: list[Found]
    """Where it is answered."""
    form: int | None
    """Which of its surfaces is said; None if it stays."""

    @property
    def surface(self) -> str:
        """What is said for it."""
        return _surfaces(self.value)[self.form or 0]


class Multiplier:
    """Makes variations of examples.

    Args:
        dialogues: What the values of numbers and texts are taken from.
        shape: Of the answers; None where they are texts, which are never exchanged.
        seed: Decides everything.
    """

    def __init__(self, dialogues: Sequence[Dialogue], shape: Shape | None, seed: int = 0) -> None:
        self._shape = shape
        self._seed = seed
        self._pools = pools_of(dialogues, shape)
        self._is_english = is_english(dialogues)

    def _found(self, answer: Any) -> list[Found]:  # noqa: ANN401
        return [] if self._shape is None else list(values_of(self._shape, answer))

    def variation(self, dialogue: Dialogue, number: int) -> Dialogue:
        """Return another example; the same for the same number."""
        # The seed of ``random`` may be a text: its hash is the same in each process.
        rng = random.Random(f"{self._seed}:{dialogue.line}:{number}")  # noqa: S311 - reproducible
        exchanged = self._exchanged(dialogue, rng)
        kept = {str(found.value) for turn in exchanged.turns for found in self._texts(turn)}
        turns = [replace(t, said=self._said(t.said, kept, rng)) for t in exchanged.turns]
        return replace(exchanged, turns=tuple(turns))

    def _texts(self, turn: Turn) -> list[Found]:
        return [one for one in self._found(turn.answer) if isinstance(one.shape, FreeText)]

    def _exchanged(self, dialogue: Dialogue, rng: random.Random) -> Dialogue:
        """Exchange each value that is said, wherever it is answered.

        Different values stay different, and none becomes one that stays.
        """
        values = self._values(dialogue)
        taken = [one.value for one in values if one.form is None]
        others: dict[str, Any] = {}
        pairs: list[tuple[str, str]] = []
        for one in values:
            if one.form is None:
                continue
            other = self._other(one, one.form, taken, rng)
            if other is None and one.value in taken:
                return dialogue
            if other is not None:
                instead = said_of(other) if isinstance(other, str) else _surfaces(other)[one.form]
                pairs.append((one.surface, instead))
                others[repr(one.value)] = other
            taken.append(one.value if other is None else other)
        turns = [
            Turn(_replaced(turn.said, pairs), self._answer(turn.answer, others))
            for turn in dialogue.turns
        ]
        return replace(dialogue, turns=tuple(turns))

    def _values(self, dialogue: Dialogue) -> list[_Answered]:
        """Return the different values of all answers."""
        found = [self._found(turn.answer) for turn in dialogue.turns]
        values: dict[str, _Answered] = {}
        for turn, fields in zip(dialogue.turns, found, strict=True):
            for field in fields:
                new = _Answered(field.value, [], _form(field.value, turn.said))
                values.setdefault(repr(field.value), new).fields.append(field)
        for one in values.values():
            if one.form is not None and _means_other(one, dialogue, found):
                one.form = None
        return list(values.values())

    def _answer(self, answer: Any, others: Mapping[str, Any]) -> Any:  # noqa: ANN401
        if self._shape is None or not others:
            return answer
        names = {found.key.rpartition(".")[2] for found in self._found(answer)}
        return _mapped(answer, "", names, others)

    def _other(
        self, answered: _Answered, form: int, taken: Sequence[Any], rng: random.Random
    ) -> Any:  # noqa: ANN401
        """Return another value that all of the fields take, and that has this form; else None."""
        first = answered.fields[0]
        pool = self._pools[first.key]
        if isinstance(first.shape, Number):
            numbers = sorted(one for one in pool if not isinstance(one, str))
            is_whole = all(float(one).is_integer() for one in numbers)
            bounds = int(numbers[0]), int(numbers[-1])
            drawn = [
                rng.randint(*bounds) if is_whole else rng.choice(numbers) for _ in range(_DRAWS)
            ]
        else:
            known = first.shape.values if isinstance(first.shape, Listed) else pool
            drawn = [one for one in known if isinstance(one, str)]
            rng.shuffle(drawn)
        fitting = (one for one in drawn if all(_takes(found, one) for found in answered.fields))
        return next((o for o in fitting if o not in taken and len(_surfaces(o)) > form), None)

    def _said(self, text: str, kept: set[str], rng: random.Random) -> str:
        # Each draw is made whether it is used or not, so that one choice moves no other.
        style, is_polite, swap = rng.random(), rng.random() < _POLITE, rng.random() < _SWAPPED
        before, after, at_end = rng.choice(_BEFORE), rng.choice(_AFTER), rng.random() < 0.5  # noqa: PLR2004
        if swap:
            text = _misspelt(text, kept, rng)
        if is_polite and self._is_english:
            bare = text.rstrip(".!?")
            text = f"{bare} {after}{text[len(bare) :]}" if at_end else f"{before} {text}"
        if any(one != one.lower() for one in kept):
            return text
        if style < 0.25:  # noqa: PLR2004
            return text.lower().rstrip(".!?")
        if style < 0.5:  # noqa: PLR2004
            return text[:1].upper() + text[1:]
        if style < 0.6:  # noqa: PLR2004
            return text[:1].upper() + text[1:].rstrip(".!?") + "."
        return text


def is_english(dialogues: Sequence[Dialogue]) -> bool:
    """Tell whether most prompts seem to be English."""
    prompts = [turn.said for one in dialogues for turn in one.turns]
    return 2 * sum(bool(_ENGLISH.search(prompt)) for prompt in prompts) > len(prompts)


def pools_of(dialogues: Sequence[Dialogue], shape: Shape | None) -> dict[str, list[Any]]:
    """Return the values that examples have, by the key of their field."""
    pools: dict[str, list[Any]] = {}
    if shape is None:
        return pools
    for one in dialogues:
        for turn in one.turns:
            for found in values_of(shape, turn.answer):
                pool = pools.setdefault(found.key, [])
                if found.value not in pool:
                    pool.append(found.value)
    return pools


def said_of(value: Any) -> str:  # noqa: ANN401
    """Return how a value is said."""
    return re.sub(r"[_-]+", " ", value) if isinstance(value, str) else _surfaces(value)[0]


def _takes(found: Found, value: Any) -> bool:  # noqa: ANN401
    if isinstance(found.shape, Listed):
        return isinstance(found.value, str) and value in found.shape.values
    try:
        found.shape.write(value, {})
    except AnswerError:
        return False
    return isinstance(found.shape, Number) or isinstance(value, str)


def _mapped(value: Any, name: str, names: Collection[str], others: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _mapped(one, key, names, others) for key, one in value.items()}
    if isinstance(value, list):
        return [_mapped(one, f"{name}[]", names, others) for one in value]
    return others.get(repr(value), value) if name in names else value


def _means_other(one: _Answered, dialogue: Dialogue, found: Sequence[Sequence[Found]]) -> bool:
    """Tell whether a prompt says it that is not answered with it: "open", and a door is unlocked.

    What the answer before had there may be said: "not the kitchen".
    """
    said, before = _matcher(one.surface), set[str]()
    for turn, fields in zip(dialogue.turns, found, strict=True):
        keys = {field.key for field in fields if field.value == one.value}
        if said.search(turn.said) and not (keys or before & {field.key for field in fields}):
            return True
        before = keys
    return False


def _form(value: Any, prompt: str) -> int | None:  # noqa: ANN401
    """Return which of its surfaces a prompt says for a value; None if none, or twice."""
    for index, said in enumerate(_surfaces(value)):
        if count := len(_matcher(said).findall(prompt)):
            return index if count == 1 else None
    return None


def _surfaces(value: Any) -> list[str]:  # noqa: ANN401
    """Return how a value may stand in a prompt."""
    if isinstance(value, str):
        words = re.sub(r"[_-]+", " ", value)
        return [one for one in (value, words) if len(one) >= _FEWEST_CHARACTERS]
    text = f"{Decimal(str(value)).normalize():f}"
    return [text, number_words(int(value))] if float(value).is_integer() else [text]


def _matcher(said: str) -> re.Pattern[str]:
    # A plural is the same word; digits with a point are another number.
    return re.compile(rf"(?<![\w.]){re.escape(said)}(?=s?\b)(?!\.\d)(?!\d)", re.IGNORECASE)


def _replaced(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Exchange all at once, so that what was exchanged is not exchanged again."""
    if not pairs:
        return text
    places: list[tuple[int, int, str]] = []
    for said, instead in sorted(pairs, key=lambda pair: -len(pair[0])):
        for found in _matcher(said).finditer(text):
            if all(found.end() <= start or end <= found.start() for start, end, _ in places):
                is_capital = found.group()[:1].isupper() and not said[:1].isupper()
                put = instead[:1].upper() + instead[1:] if is_capital else instead
                places.append((found.start(), found.end(), put))
    for start, end, put in sorted(places, reverse=True):
        text = text[:start] + put + text[end:]
    return text


def _misspelt(text: str, kept: set[str], rng: random.Random) -> str:
    """Swap two letters within a word that is no part of a text that is answered."""
    words = [
        found
        for found in re.finditer(r"[A-Za-z]{4,}", text)
        if not any(found.group().lower() in one.lower() for one in kept)
    ]
    if not words:
        return text
    start = rng.choice(words).start() + 1
    return text[:start] + text[start + 1] + text[start] + text[start + 2 :]
