"""Words of names and of what is said, in a form in which they can be compared."""

from functools import cache

from edged.specialists.devices.words import words_of as tokens
from edged.specialists.hearing import NUMBER_WORDS

__all__ = ["NUMBER_WORDS", "is_alike", "spoken_number", "stem", "stems", "tokens"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}
_SAME = {
    "lamp": "light",
    "lighting": "light",
    "television": "tv",
    "telly": "tv",
    "hoover": "vacuum",
    "lawnmower": "mower",
    "drape": "curtain",
}
# Words that some people use for the same thing: one for another is neither right nor wrong.
_ALIKE = tuple(
    frozenset(group.split())
    for group in (
        "lounge living family den snug parlour sunroom conservatory",
        "bathroom toilet wc shower suite powder restroom",
        "hallway hall corridor entrance foyer lobby vestibule landing entry staircase stair",
        "garden backyard yard lawn outside courtyard outdoor orchard",
        "patio terrace deck veranda porch balcony gazebo",
        "office study library desk",
        "basement cellar",
        "attic loft",
        "kid nursery girl twin playroom child teen",
        "spare guest box",
        "closet storage pantry larder cupboard wardrobe",
        "garage carport",
        "laundry utility wash washing",
        "speaker stereo sonos soundbar hifi radio music echo homepod boombox receiver sound",
        "tv projector beamer screen roku chromecast",
        "heater heating radiator thermostat boiler ac nest ecobee hive conditioner air",
        "blind shade shutter curtain awning window",
        "plug socket outlet",
        "fan purifier ac hood cleaner",
        "vacuum robot roborock roomba cleaner",
        "humidifier dehumidifier",
        "door lock gate garage",
        "sprinkler irrigation watering drip",
        "alarm siren",
        "couch sofa",
        "bed bedside bedroom night",
        "big large small little tall",
        "left right",
    )
)


@cache
def stem(word: str) -> str:
    """Return what a word has in common with its plural, its digit and its synonym."""
    word = _DIGITS.get(word, word)
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    return _SAME.get(word, word)


@cache
def stems(text: str) -> frozenset[str]:
    """Return the stems of the words of a text."""
    return frozenset(stem(word) for word in tokens(text))


@cache
def is_alike(one: str, other: str) -> bool:
    """Tell whether two stems are so alike that one may be said for the other."""
    if one == other:
        return True
    shorter, longer = sorted((one, other), key=len)
    if len(shorter) > 2 and longer.startswith(shorter):
        return True
    return any(one in group and other in group for group in _ALIKE)


def spoken_number(number: int) -> str:
    """Return a number from 0 to 199 in words."""
    if number >= 100:
        rest = number - 100
        return "one hundred" + (f" {spoken_number(rest)}" if rest else "")
    if number < len(NUMBER_WORDS):
        return NUMBER_WORDS[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens - 2] + (f" {NUMBER_WORDS[ones]}" if ones else "")
