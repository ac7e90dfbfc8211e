"""How a sentence reaches the node: typed, typed in a hurry, or heard by a machine."""

import re
from collections.abc import Collection
from random import Random

from models.specialists.home.generator.values import COLORS
from models.specialists.home.generator.words import NUMBER_WORDS

# A slip in one of these would be another word, or hide what is asked for.
_KEEP = frozenset(
    (
        *COLORS,
        *NUMBER_WORDS,
        *[
            "half",
            "quarter",
            "quarters",
            "three",
            "percent",
            "degrees",
            "lock",
            "unlock",
            "locked",
            "unlocked",
            "open",
            "close",
            "closed",
            "left",
            "right",
            "north",
            "south",
            "east",
            "west",
            "upper",
            "lower",
            "upstairs",
            "downstairs",
            "inner",
            "outer",
            "middle",
            "front",
            "back",
            "rear",
            "don't",
            "never",
            "except",
        ],
        *["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred"],
    )
)
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_MIN_LETTERS = 5
_QUESTION = re.compile(
    r"(can|could|would|will|is|are|did|does|how|what|why|who|which|where|was|has)\b"
    r"|(when (did|is|was)|should (i|we)|do (you|we|i|people))\b"
)
# What is heard for what was said.
_MISHEARD = (
    ("turn off", "turn of"),
    ("switch off", "switch of"),
    ("turn on", "turn in"),
    (" to ", " too "),
    ("lights", "light's"),
    ("blinds", "blind's"),
    ("lamp", "lamb"),
    ("light", "lite"),
    ("fan", "van"),
    ("curtain", "curtin"),
    ("heating", "eating"),
    ("living room", "livingroom"),
    ("bedroom", "bed room"),
    ("please", "pleas"),
    ("dim", "dimm"),
    ("percent", "per cent"),
    ("degrees", "degree"),
)


def _slip(rng: Random, word: str) -> str:
    """Mistype a word."""
    place = rng.randrange(1, len(word) - 1)
    kind = rng.random()
    if kind < 0.35:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind < 0.65:
        return word[:place] + word[place + 1 :]
    if kind < 0.8:
        return word[:place] + word[place] + word[place:]
    row = next((row for row in _KEYS if word[place].lower() in row), None)
    if row is None:
        return word
    near = row.index(word[place].lower()) + rng.choice((-1, 1))
    return word[:place] + row[max(0, min(near, len(row) - 1))] + word[place + 1 :]


def _with_slip(rng: Random, text: str) -> str:
    """Mistype one of the longer words."""
    words = text.split(" ")
    longer = [
        index
        for index, word in enumerate(words)
        if len(word) >= _MIN_LETTERS and word.isalpha() and word.lower() not in _KEEP
    ]
    if longer:
        index = rng.choice(longer)
        words[index] = _slip(rng, words[index])
    return " ".join(words)


def _without_article(text: str, rng: Random) -> str:
    """Leave out one of the words that carry little."""
    found = list(re.finditer(r"\b(the|to|of) ", text))
    if not found:
        return text
    chosen = rng.choice(found)
    return text[: chosen.start()] + text[chosen.end() :]


def _misheard(rng: Random, text: str) -> str:
    """Hear something else."""
    fitting = [(said, heard) for said, heard in _MISHEARD if said in text]
    if not fitting:
        return text
    said, heard = rng.choice(fitting)
    return text.replace(said, heard, 1)


def deliver(rng: Random, text: str, kept: Collection[str], *, is_spoken: bool) -> str:
    """Return a sentence in the form in which it arrives.

    Args:
        rng: Chance.
        text: The sentence.
        kept: What stands in the answer as it was said: nothing is changed in it.
        is_spoken: Whether it was heard by a machine.
    """
    text = re.sub(r"\s+([,.?!])", r"\1", " ".join(text.split())).strip(" ,")
    changed = _changed(rng, text, is_spoken=is_spoken)
    if all(part.lower() in changed.lower() for part in kept):
        text = changed
    if is_spoken:
        text = re.sub(r"[,.?!]", "", text.lower())
        is_kept = any("'" in part for part in kept)
        return text if is_kept or rng.random() < 0.85 else text.replace("'", "")
    style = rng.random()
    if style < 0.5:
        text = text[0].upper() + text[1:]
        text = re.sub(r"\bi\b", "I", text)
        is_question = _QUESTION.match(text.lower())
        return text + ("?" if is_question else rng.choice((".", ".", "", "!")))
    return text.upper() if style < 0.56 else text


def _changed(rng: Random, text: str, *, is_spoken: bool) -> str:
    """Mistype or mishear a sentence, seldom."""
    if is_spoken:
        return _misheard(rng, text) if rng.random() < 0.1 else text
    if rng.random() < 0.1:
        text = _with_slip(rng, text)
    return _without_article(text, rng) if rng.random() < 0.05 else text
