"""Words of names and of what is said, in a form in which they can be compared."""

import re
from collections.abc import Collection, Iterator, Sequence
from unicodedata import combining, normalize

from edged.specialists.hearing import NUMBER_WORDS, is_slip

_WORD = re.compile(r"[^\W_]+")
_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)} | {
    "first": "1st",
    "second": "2nd",
    "third": "3rd",
    "fourth": "4th",
    "fifth": "5th",
    # At the end of a name: "Garage door L".
    "l": "left",
    "r": "right",
}
# Of "A/C".
_AC = re.compile(r"\ba[/.]c\b")
_PLURAL_LETTERS = 3
_SHORT_PLURALS = frozenset(("acs", "tvs"))
_NO_PLURALS = frozenset(("sonos", "heos"))
# Two words for the same thing; the second stands for both.
_SAME = {
    "lamp": "light",
    "lighting": "light",
    "bulb": "light",
    "television": "tv",
    "telly": "tv",
    "hoover": "vacuum",
    "lawnmower": "mower",
    "tele": "tv",
    "drape": "curtain",
    "drapery": "curtain",
    "draperie": "curtain",  # of "draperies"
    "rad": "radiator",
    "aircon": "ac",
    "grocerie": "grocery",  # of "groceries"
    "tomatoe": "tomato",
    "berrie": "berry",
}
# What is heard for what was said.
_HEARD = {
    "lite": "light",
    "lamb": "lamp",
    "van": "fan",
    "curtin": "curtain",
    "eating": "heating",
    "nite": "night",
    "write": "right",
    "rite": "right",
}
# Two words that one person may say where another one has the other; used where nothing else fits.
_GROUPS = tuple(
    frozenset(group.split())
    for group in (
        "lounge living sitting",
        "bathroom restroom toilet wc loo washroom",
        "hallway hall corridor",
        "entrance entry entryway foyer",
        "garden yard backyard",
        "patio terrace",
        "basement cellar",
        "attic loft",
        "office study",
        "kid kids children child",
        "couch sofa",
        "closet wardrobe",
        "laundry utility",
        "upstair upper",
        "downstair lower",
        "ground 1st",
        "speaker stereo",
        "thermostat heating heater",
        "plug socket outlet",
        "robot vacuum",
        "bedside nightstand",
        "radio wireless",
        "computer pc rig",
    )
)
_SYNONYMS = {
    word: frozenset[str]().union(*(group for group in _GROUPS if word in group))
    for word in frozenset[str]().union(*_GROUPS)
}
_FEWEST_LETTERS = 4
_MOST_LETTERS = 24
_LONG = 8
_MOST_ALIKE = 16
# What is looked at for all words of a request; the longest prompts that people write need 5,000.
_MOST_TRIED = 8192


def words_of(text: str) -> tuple[str, ...]:
    """Return the words of a text: lower case, without apostrophes and accents."""
    text = _AC.sub("ac", text.lower().replace("'", "").replace("\u2019", ""))
    if not text.isascii():  # NFKD would make one letter of some names eighteen
        text = "".join(one for one in normalize("NFD", text) if not combining(one))
    return tuple(_WORD.findall(text))


def single(word: str) -> str:
    """Return what a word has in common with its plural, and with its digits."""
    word = _DIGITS.get(word, word)
    return word[:-1] if is_plural(word) else word


def stem(word: str) -> str:
    """Return what a word has in common with its plural, its digit and its synonym."""
    word = single(word)
    return _SAME.get(word, word)


def singles(text: str) -> tuple[str, ...]:
    """Return the words of a text without "the" and plurals, in digits."""
    return tuple(single(word) for word in words_of(text) if word != "the")


def stems(text: str) -> tuple[str, ...]:
    """Return the stems of the words of a text."""
    return tuple(map(stem, singles(text)))


def last_words(text: str, most: int) -> str:
    """Return a text from the last of its words on, as many as may be."""
    starts = [found.start() for found in _WORD.finditer(text)]
    return text[starts[-most] :] if len(starts) > most else text


def places_in(said: Sequence[str], words: Sequence[str]) -> list[int]:
    """Return where some words stand among others; nowhere, if there are none of them."""
    text, wanted = f" {' '.join(said)} ", f" {' '.join(words)} "
    places, place, before, at = list[int](), 0, 0, text.find(wanted) if words else -1
    while at >= 0:
        place += text.count(" ", before, at)
        places.append(place)
        before, at = at, text.find(wanted, at + 1)
    return places


def is_plural(word: str) -> bool:
    """Tell whether a word looks like several of a thing."""
    if not word.endswith("s") or word.endswith("ss") or word in _NO_PLURALS:
        return False
    return len(word) > _PLURAL_LETTERS or word in _SHORT_PLURALS


def is_several(word: str) -> bool:
    """Tell whether a word is one for several of a thing: a plural, or "lighting"."""
    return is_plural(word) or word == "lighting"


class Speller:
    """Undoes slips of the keyboard and of hearing, where a known word is like what was said.

    A word is looked up by what is left of it without one of its letters, so that anybody's words
    are not compared with anybody's names one by one.

    Args:
        known: Words without plurals.
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = frozenset(known)
        self._near: dict[str, list[str]] = {}
        for word in sorted(word for word in self._known if len(word) >= _FEWEST_LETTERS):
            for part in {word, *_without_a_letter(word)}:
                alike = self._near.setdefault(part, [])
                if len(alike) < _MOST_ALIKE:  # a stranger's names may all be
                    alike.append(word)
        self._found: dict[str, tuple[str, ...]] = {}
        self._tries_left = _MOST_TRIED

    def repaired(self, said: Sequence[str]) -> tuple[str, ...]:
        """Return words as they were probably meant.

        Args:
            said: Without plurals, in their order.
        """
        words, made = list(said), list[str]()
        while words:
            word = words.pop(0)
            if words and word not in self._known and word + words[0] in self._known:
                made.append(word + words.pop(0))  # "bed room"
                continue
            if word not in self._found:
                self._found[word] = self._meant(word)
            made += self._found[word]
        return tuple(made)

    def _meant(self, word: str) -> tuple[str, ...]:
        if word in self._known:
            return (word,)
        for cut in range(2, len(word) - 1) if len(word) <= _MOST_LETTERS else ():
            if word[:cut] in self._known and word[cut:] in self._known:  # "livingroom"
                return word[:cut], word[cut:]
        heard = _HEARD.get(word, word)
        own = (one for one in (heard, *_without_ing(word)) if one in self._known)
        if found := next(own, ""):
            return (found,)
        tried = (word, *(_without_a_letter(word) if len(word) >= _LONG else ()))
        # Of long words, two slips.
        near = (other for text in tried for other in self._like(text, word[0]))
        return (next(near, word),)

    def _like(self, text: str, first: str) -> Iterator[str]:
        """Yield the known words that are a slip away from a text, and begin as it was said.

        A word stays as it is where a stranger's words and names are alike too often.
        """
        for part in (text, *_without_a_letter(text)) if self._tries_left > 0 else ():
            alike = self._near.get(part, ())
            self._tries_left -= 1 + len(alike)
            for other in alike:
                if other[0] == first and is_slip(other, text):
                    yield other


def _without_ing(word: str) -> tuple[str, ...]:
    """Return what "filling" and "closing" may be made of."""
    base = word.removesuffix("ing")
    return (base, f"{base}e") if len(base) >= _FEWEST_LETTERS and base != word else ()


def _without_a_letter(word: str) -> tuple[str, ...]:
    if not _FEWEST_LETTERS <= len(word) <= _MOST_LETTERS:
        return ()
    return tuple(word[:cut] + word[cut + 1 :] for cut in range(len(word)))


def synonyms(word: str) -> frozenset[str]:
    """Return what else a stem may be called."""
    return _SYNONYMS.get(word, frozenset())
