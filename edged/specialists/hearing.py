"""What was said before an answer, as far as values are looked for in it.

Rule: anybody writes prompts, so only the last words count, and each is read once, however many
fields ask for it.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from typing import Any

MAX_WORDS, MAX_CHARACTERS = 256, 4096
_MAX_SPAN = 12
# Of a long prompt, shorter ones: all of them are alternatives in the grammar of an answer.
_MANY, _MAX_SPAN_OF_MANY = 24, 6
_FEWEST_LETTERS = 4
_PIECE = re.compile(r"\S+")
_WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*")
_NUMERAL = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS_OF_NUMBERS = 10_000
_UNITS, _OF_TEN = "|".join(NUMBER_WORDS), "|".join(NUMBER_WORDS[1:10])
_SPOKEN = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[ -](?P<behind>{_OF_TEN}))?|(?P<units>{_UNITS}))\b"
)
_SMALL = rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{_OF_TEN}))?|{_UNITS})"
_HUNDREDS = rf"(?:(?:{_SMALL}|an?) hundred(?: (?:and )?{_SMALL})?)"
_THOUSANDS = rf"(?:{_HUNDREDS}|{_SMALL}|an?) thousand(?: (?:and )?(?:{_HUNDREDS}|{_SMALL}))?"
_LARGE = re.compile(rf"\b(?:{_THOUSANDS}|{_HUNDREDS})\b")
_VALUES = (
    {word: number for number, word in enumerate(NUMBER_WORDS)}
    | {word: 20 + 10 * index for index, word in enumerate(_TENS)}
    | {"a": 1, "an": 1, "and": 0}
)


class Heard:
    """The last words of what was said.

    Args:
        text: All of it, of any length.
    """

    def __init__(self, text: str) -> None:
        pieces = list(_PIECE.finditer(text, max(len(text) - MAX_CHARACTERS, 0)))
        self.text = text[pieces[-MAX_WORDS:][0].start() :] if pieces else ""
        self.patterns: dict[str, str | None] = {}
        """What may be answered of it, by the field's form."""

    @cached_property
    def numbers(self) -> list[int | float]:
        """The numbers in it, in digits or words, each with either sign."""
        words = self.text.lower()
        found = [Decimal(one.replace(",", "")) for one in _NUMERAL.findall(words)[-MAX_WORDS:]]
        for spoken in _SPOKEN.finditer(words):
            tens, behind, units = spoken.group("tens", "behind", "units")
            # Five is said in twenty five, and twenty is not.
            alone = NUMBER_WORDS.index(behind or units) if behind or units else 0
            found += [Decimal(alone)] if behind or units else []
            found += [Decimal(20 + 10 * _TENS.index(tens) + alone)] if tens else []
        found += [Decimal(_large(spoken.group())) for spoken in _LARGE.finditer(words)]
        signed = [one for number in dict.fromkeys(found) for one in (number, -number)]
        return [int(one) if one == one.to_integral_value() else float(one) for one in signed]

    @cached_property
    def spans(self) -> list[str]:
        """Every run of some words, as it stands there."""
        text, found = self.text, dict[str, None]()
        words = [piece.span() for piece in _PIECE.finditer(text)]
        longest = _MAX_SPAN if len(words) <= _MANY else _MAX_SPAN_OF_MANY
        for first, (start, _) in enumerate(words):
            for _, end in words[first : first + longest]:
                said = text[start:end]
                found |= dict.fromkeys((said, said.rstrip(".,!?;:")))
        return list(found)

    def spans_of(self, value: str) -> Iterator[tuple[int, int]]:
        """Yield where a text stands, but for case and plurals: its first word and behind its last.

        Words are counted from the first that is looked at.
        """
        wanted = [self._places_exactly(word) for word in _words(value)]
        for start in wanted[0] if wanted else ():
            if all(start + index in places for index, places in enumerate(wanted)):
                yield start, start + len(wanted)

    def says(self, value: Any) -> bool:  # noqa: ANN401 - of JSON
        """Tell whether it says a value, but for case, plurals, spaces, or a slip of one letter."""
        if isinstance(value, bool) or value is None:
            return False
        if not isinstance(value, str):
            return abs(value) in self._numbers
        words = _words(value)
        if not words:
            return False
        # Speech recognition writes "bath room", and people "livingroom".
        if not self._run_together.isdisjoint(_forms("".join(words))):
            return True
        first, *others = map(self._places_of, words)
        return any(
            all(start + index in places for index, places in enumerate(others, 1))
            for start in first
        )

    @cached_property
    def _numbers(self) -> frozenset[int | float]:
        return frozenset(self.numbers)

    @cached_property
    def _last_words(self) -> list[str]:
        return _words(self.text)[-MAX_WORDS:]

    @cached_property
    def _places(self) -> dict[str, list[int]]:
        """Where each word stands."""
        places = defaultdict(list)
        for index, word in enumerate(self._last_words):
            places[word].append(index)
        return dict(places)

    @cached_property
    def _run_together(self) -> frozenset[str]:
        """Each word, and each two that stand side by side, without the space."""
        words = self._last_words
        return frozenset((*words, *map("".join, pairwise(words))))

    @cached_property
    def _of_length(self) -> dict[int, list[str]]:
        found = defaultdict(list)
        for word in self._places:
            found[len(word)].append(word)
        return dict(found)

    @cached_property
    def _known(self) -> dict[str, frozenset[int]]:
        return {}

    def _places_exactly(self, wanted: str) -> set[int]:
        return {place for one in _forms(wanted) for place in self._places.get(one, ())}

    def _places_of(self, wanted: str) -> frozenset[int]:
        """Return where a word stands that is like this one."""
        if wanted not in self._known:
            said = _forms(wanted)
            if len(wanted) >= _FEWEST_LETTERS:
                lengths = range(max(len(wanted) - 1, _FEWEST_LETTERS), len(wanted) + 2)
                near = [one for size in lengths for one in self._of_length.get(size, ())]
                said |= {one for one in near if is_slip(wanted, one)}
            places = [place for one in said for place in self._places.get(one, ())]
            self._known[wanted] = frozenset(places)
        return self._known[wanted]


def _forms(word: str) -> set[str]:
    return {word, f"{word}s", f"{word}'s", word.removesuffix("s")}


def _words(text: str) -> list[str]:
    return [found.group().lower() for found in _WORD.finditer(text.replace("_", " "))]


def is_slip(wanted: str, word: str) -> bool:
    """Tell whether a letter is another one, is missing, is too much, or two are swapped."""
    start = 0
    while start < min(len(wanted), len(word)) and wanted[start] == word[start]:
        start += 1
    one, other = wanted[start:], word[start:]
    is_swapped = one[:2] == other[1::-1] and one[2:] == other[2:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:] or is_swapped


def _large(words: str) -> int:
    """Return the number that is said with "hundred" or "thousand"."""
    thousands = number = 0
    for word in re.split("[ -]", words):
        if word == "hundred":
            number *= 100
        elif word == "thousand":
            thousands, number = 1000 * number, 0
        else:
            number += _VALUES[word]
    return thousands + number


def number_words(number: int) -> str:
    """Return a number from 0 to 9,999 in English words, others in digits."""
    if not 0 <= number < _WORDS_OF_NUMBERS:
        return str(number)
    if number < len(NUMBER_WORDS):
        return NUMBER_WORDS[number]
    for size, name in ((1000, " thousand"), (100, " hundred")):
        if number >= size:
            many, rest = divmod(number, size)
            return number_words(many) + name + (f" {number_words(rest)}" if rest else "")
    tens, units = divmod(number, 10)
    return f"{_TENS[tens - 2]} {NUMBER_WORDS[units]}" if units else _TENS[tens - 2]
