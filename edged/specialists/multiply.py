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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from edged.specialists.compact.shapes import FreeText, Listed, Number, Shape
from edged.specialists.dialogues import Dialogue, Turn
from edged.specialists.grounding import Found, values_of
from edged.specialists.hearing import number_words

_FEWEST_CHARACTERS = 3
_SWAPPED = 0.12
_POLITE = 0.25
_BEFORE = ("please", "can you", "could you", "could you please", "I want you to", "hey,", "ok,")
_AFTER = ("please", "thanks", "now", "for me")
_ENGLISH = re.compile(r"\b(the|a|is|to|in|my|of|and|it|i|you|turn|what|for)\b", re.IGNORECASE)


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
        self._pools: dict[str, list[Any]] = {}
        for one in dialogues:
            for turn in one.turns:
                for found in self._found(turn.answer):
                    pool = self._pools.setdefault(found.key, [])
                    if found.value not in pool:
                        pool.append(found.value)
        prompts = [turn.said for one in dialogues for turn in one.turns]
        english = sum(bool(_ENGLISH.search(prompt)) for prompt in prompts)
        self._is_english = 2 * english > len(prompts)

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
        chosen: dict[tuple[str, str], tuple[Any, list[tuple[str, str]]]] = {}
        prompts = [turn.said for turn in dialogue.turns]
        for turn in dialogue.turns:
            for found in self._found(turn.answer):
                mark = (found.key.rpartition(".")[2], repr(found.value))
                if mark in chosen:
                    continue
                other = self._other(found, rng)
                pairs = [] if other is None else _wordings(found.value, other, prompts)
                if pairs:
                    chosen[mark] = (other, pairs)
        taken = {mark: value for mark, (value, _) in chosen.items()}
        pairs = [pair for _, found_pairs in chosen.values() for pair in found_pairs]
        turns = [
            Turn(_replaced(turn.said, pairs), self._answer(turn.answer, taken))
            for turn in dialogue.turns
        ]
        return replace(dialogue, turns=tuple(turns))

    def _answer(self, answer: Any, taken: Mapping[tuple[str, str], Any]) -> Any:  # noqa: ANN401
        if self._shape is None or not taken:
            return answer
        return _mapped(answer, "", taken)

    def _other(self, found: Found, rng: random.Random) -> Any:  # noqa: ANN401
        pool = self._pools[found.key]
        if isinstance(found.shape, Listed):
            texts = [one for one in found.shape.values if isinstance(one, str)]
            return rng.choice(texts) if isinstance(found.value, str) and texts else None
        if isinstance(found.shape, Number):
            numbers = sorted(one for one in pool if not isinstance(one, str))
            if found.shape.decimals == 0 or all(float(one).is_integer() for one in numbers):
                return rng.randint(int(numbers[0]), int(numbers[-1]))
            return rng.choice(numbers)
        return rng.choice([one for one in pool if isinstance(one, str)])

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


def _mapped(value: Any, name: str, taken: Mapping[tuple[str, str], Any]) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _mapped(one, key, taken) for key, one in value.items()}
    if isinstance(value, list):
        return [_mapped(one, f"{name}[]", taken) for one in value]
    return taken.get((name, repr(value)), value)


def _wordings(value: Any, other: Any, prompts: Sequence[str]) -> list[tuple[str, str]]:  # noqa: ANN401
    """Return what is said for a value, with what is said for the other one; none if it is unclear.

    A prompt may say it once; some prompt must.
    """
    for said, instead in zip(_surfaces(value), _surfaces(other), strict=False):
        counts = [len(_matcher(said).findall(prompt)) for prompt in prompts]
        if max(counts) == 1:
            return [(said, instead)]
        if max(counts) > 1:
            return []
    return []


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
