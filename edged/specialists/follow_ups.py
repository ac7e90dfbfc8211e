"""Dialogues that go on: what was answered is corrected, and something else is asked.

A model that learned some dialogues likes to answer what it answered last, whatever is said then.
So more of them are made, in which what is said last changes one value of the answer before, or has
nothing to do with it: the beginning of another example.

Everything is drawn from a seed: the same examples make the same ones.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edged.specialists.compact.records import Record
from edged.specialists.compact.shapes import AnyOf, Listed, Number, Shape
from edged.specialists.dialogues import MAX_TURNS, Dialogue, Turn
from edged.specialists.grounding import fits, mark_of, values_of
from edged.specialists.hearing import Heard
from edged.specialists.multiply import is_english, pools_of, said_of

# Of the dialogues, so many must have several answers; else nobody goes on.
_LEAST_SHARE = 0.1
_GOES_ON, _CHANGES, _ASIDE = 0.6, 0.5, 0.25
# With fewer values it is on and off, and nobody says "off too".
_FEWEST_ALIKE = 4
_INSTEAD = (
    *("{new}", "no, {new}", "no, {new} not {old}", "not {old}, {new}", "{new} instead"),
    *("make it {new}", "make that {new}", "sorry, I meant {new}", "actually {new}", "wait, {new}"),
    *("oops, {new} not {old}", "change the {field} to {new}"),
)
_TOO = ("{new} too", "and {new}", "{new} as well", "the same for {new}", "now {new}")
_ADDED = ("{new}", "{new} please", "make it {new}", "the {field} is {new}")
_EXCHANGED = ("no, the other way round", "the other way around", "swap them", "no, the opposite")


@dataclass(frozen=True, slots=True)
class _Place:
    """A field of an answer that takes a value which can be said."""

    path: tuple[str, ...]
    key: str
    """As ``values_of`` has it."""
    shape: Listed | Number
    value: Any
    """None where the answer leaves it out."""

    @property
    def kind(self) -> str:
        """Equal for fields that take the same values: which is meant is not said."""
        return "number" if isinstance(self.shape, Number) else repr(self.shape)


def goes_on(dialogues: Sequence[Dialogue]) -> bool:
    """Tell whether enough of the examples have several answers."""
    return sum(len(one.turns) > 1 for one in dialogues) >= _LEAST_SHARE * len(dialogues)


class FollowUps:
    """Makes dialogues that go on.

    Args:
        dialogues: The examples.
        shape: Of the answers; None where they are texts.
        seed: Decides everything.
        asides: What may be said that is meant for nothing, each with its answer.
    """

    def __init__(
        self,
        dialogues: Sequence[Dialogue],
        shape: Shape | None,
        seed: int = 0,
        asides: Sequence[Turn] = (),
    ) -> None:
        self._asides = asides
        self._is_english = is_english(dialogues)
        self._dialogues, self._shape, self._seed = dialogues, shape, seed
        self._is_going_on = goes_on(dialogues)
        known = dialogues if self._is_going_on else ()
        self._pools = pools_of(known, shape)
        self._said = [] if shape is None else _said_keys(shape, known)

    def after(self, dialogue: Dialogue, number: int) -> Dialogue:
        """Return an example that goes on, or as it is; the same for the same number."""
        if not self._is_going_on:
            return dialogue
        rng = random.Random(f"{self._seed}:{dialogue.line}:{number}:on")  # noqa: S311 - reproducible
        if rng.random() >= _GOES_ON:
            return dialogue
        turns = (*dialogue.turns, *self._more(dialogue, rng))
        return replace(dialogue, turns=turns) if len(turns) <= MAX_TURNS else dialogue

    def _more(self, dialogue: Dialogue, rng: random.Random) -> Sequence[Turn]:
        kind = rng.random()
        if self._is_english and kind < _CHANGES:
            changed = self._changed(dialogue.turns[-1].answer, rng)
            if changed is not None:
                return (changed,)
        if self._asides and kind > 1 - _ASIDE:
            return (rng.choice(self._asides),)
        other = rng.choice(self._dialogues)
        return other.turns if other.inputs == dialogue.inputs else ()

    def _changed(self, answer: Any, rng: random.Random) -> Turn | None:  # noqa: ANN401
        """Return what changes one value of an answer; None if no value can be."""
        places = [] if self._shape is None else _places(self._shape, answer)
        alike: dict[str, list[_Place]] = {}
        for place in places:
            alike.setdefault(place.kind, []).append(place)
        said = [all_ for all_ in alike.values() if all(one.key in self._said for one in all_)]
        clear = [all_ for all_ in said if len(all_) == 1 or _can_be_exchanged(all_)]
        if not clear:
            return None
        first, *others = rng.choice(clear)
        if not others:
            return self._with(answer, first, rng)
        (second,) = others
        exchanged = _set(_set(answer, first.path, second.value), second.path, first.value)
        return Turn(rng.choice(_EXCHANGED), exchanged)

    def _with(self, answer: Any, place: _Place, rng: random.Random) -> Turn | None:  # noqa: ANN401
        listed = place.shape.values if isinstance(place.shape, Listed) else ()
        known = [one for one in listed if isinstance(one, str)] or self._pools.get(place.key, [])
        others = [one for one in known if one != place.value]
        if not others:
            return None
        new = rng.choice(others)
        forms = _ADDED if place.value is None else _INSTEAD
        if place.value is not None and len(listed) >= _FEWEST_ALIKE:
            forms = (*forms, *_TOO)
        field = place.path[-1].replace("_", " ")
        old = "" if place.value is None else said_of(place.value)
        text = rng.choice(forms).format(new=said_of(new), old=old, field=field)
        return Turn(text, _set(answer, place.path, new))


def _places(
    shape: Shape | Record,
    answer: Any,  # noqa: ANN401
    path: tuple[str, ...] = (),
    key: str = "",
) -> Iterator[_Place]:
    """Yield the fields of an answer whose values can be said, those that it leaves out as well."""
    if isinstance(shape, AnyOf):
        for index, option in enumerate(shape.options):
            if fits(option, answer):
                yield from _places(option, answer, path, key + mark_of(option, index))
                break
    elif isinstance(shape, Record):
        for field in shape.fields:
            if field != shape.head:
                value = answer.get(field.name) if isinstance(answer, dict) else None
                yield from _places(field.shape, value, (*path, field.name), f"{key}.{field.name}")
    elif isinstance(shape, Listed | Number) and not isinstance(answer, bool):
        yield _Place(path, key, shape, answer)


def _said_keys(shape: Shape, dialogues: Sequence[Dialogue]) -> list[str]:
    """Return the keys of the fields whose values are mostly said."""
    num_said, num_answered = Counter[str](), Counter[str]()
    for one in dialogues:
        heard = Heard("\n".join(turn.said for turn in one.turns))
        for turn in one.turns:
            for found in values_of(shape, turn.answer):
                num_answered[found.key] += 1
                num_said[found.key] += heard.says(found.value)
    return [key for key, count in num_answered.items() if 2 * num_said[key] > count]


def _can_be_exchanged(alike: Sequence[_Place]) -> bool:
    values = {repr(place.value) for place in alike}
    return len(alike) == len(values) == 2 and all(one.value is not None for one in alike)  # noqa: PLR2004


def _set(answer: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:  # noqa: ANN401
    name, *more = path
    return {**answer, name: _set(answer.get(name, {}), more, value) if more else value}
