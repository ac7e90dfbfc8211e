"""Where devices are said to be."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edged.specialists.devices.calling import Words
from edged.specialists.devices.command import Mention
from edged.specialists.devices.household import LEVELS, Device, Household
from edged.specialists.devices.kinds import kinds_called
from edged.specialists.devices.words import single, stem, stems, synonyms

# Said for the whole home.
_HOME = frozenset(("house", "home", "everywhere", "flat", "apartment", "place", "building"))
# Words in names of floors, from the lowest one up.
_HEIGHTS: tuple[frozenset[str], ...] = (
    frozenset(("basement", "cellar", "lower")),
    frozenset(("ground", "main")),
    frozenset(("1st", "mezzanine")),
    frozenset(("2nd", "upper")),
    frozenset(("3rd",)),
    frozenset(("attic", "loft", "top")),
)
_STAIRS = frozenset(("upstair", "downstair"))
_TWO = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Areas and floors."""

    areas: frozenset[str] = frozenset()
    floors: frozenset[str] = frozenset()

    def has(self, device: Device) -> bool:
        """Tell whether a device is there."""
        return device.area in self.areas or device.floor in self.floors


def place_of(home: Household, mention: Mention) -> Place | None:
    """Return where it is said to be; None where nothing is said, or no such place is here."""
    if mention.where == "here" and home.asker:
        return Place(areas=frozenset((home.asker,)))
    if mention.where == "floor":
        return Place(floors=frozenset((home.floor_of(home.asker),)) - {""})
    return place_called(home, mention.place) if mention.place else None


def is_elsewhere(home: Household, mention: Mention) -> bool:
    """Tell whether a place is said that is not in this home."""
    is_whole = bool(_HOME & {*mention.place})
    return bool(mention.place) and not is_whole and place_called(home, mention.place) is None


def place_called(home: Household, said: Sequence[str]) -> Place | None:
    """Return the place that is called so; None where there is none."""
    meant = home.place_speller.repaired(tuple(map(single, said)))
    words = tuple(stem(word) for word in meant if word not in LEVELS)
    if not words:
        return None
    telling = [word for word in words if word != "room"] or words
    tests: tuple[Callable[[tuple[str, ...]], bool], ...] = (
        lambda name: name == words,
        lambda name: {*words} <= {*name},
        lambda name: all(word in name or synonyms(word) & {*name} for word in telling),
    )
    for test in tests:
        if found := frozenset(name for name, own in home.places.items() if test(own)):
            areas = found & {*home.areas}
            return Place(areas, found - areas)
    is_stair = len(words) == 1 and words[0] in _STAIRS
    return _upstairs_or_down(home, words[0]) if is_stair else None


def _upstairs_or_down(home: Household, said: str) -> Place | None:
    """Return the floors that are upstairs or downstairs where none is called so."""
    heights = {
        floor: height
        for floor in home.floors
        for height, names in enumerate(_HEIGHTS)
        if names & {*stems(floor)}
    }
    # Of three floors, the cellar is neither.
    some = [one for one in heights.values() if one or len(heights) <= _TWO]
    lowest = min(some, default=0)
    is_there = lowest.__lt__ if said == "upstair" else lowest.__eq__
    floors = frozenset(floor for floor, height in heights.items() if is_there(height))
    return Place(floors=floors) if floors else None


def split_place(home: Household, mention: Mention, words: Words) -> tuple[Words, Place | None]:
    """Return the words without the place that they begin with: "upstairs lights"."""
    is_several = mention.is_all or mention.is_plural
    for count in range(len(words.said) - 1, 0, -1):
        rest = words.said[count:]
        rest = rest[1:] if rest[0] in LEVELS else rest
        for name in home.beginnings.get(words.said[:count], ()) if rest else ():
            names = frozenset((name,))
            if name not in home.areas:
                return Words(rest, words.is_plural), Place(floors=names)
            # "The kitchen light" may as well be a name.
            if is_several and kinds_called(tuple(map(stem, rest))):
                return Words(rest, words.is_plural), Place(areas=names)
    first, rest = words.said[:1], words.said[1:]
    is_name = any(first[0] in device.name_words for device in home.devices) if first else False
    is_place = bool(rest) and first[0] in _STAIRS and not is_name
    place = place_called(home, first) if is_place else None
    return (words, None) if place is None else (Words(rest, words.is_plural), place)


def there(
    home: Household, mention: Mention, place: Place, devices: Sequence[Device]
) -> list[Device]:
    """Return the devices of a place; where none is, those without a place named after it."""
    named = {stem(word) for word in mention.place} or {*stems(home.asker)}
    return [one for one in devices if place.has(one)] or _named_after(named, devices)


def _named_after(place: set[str], devices: Iterable[Device]) -> list[Device]:
    return [one for one in devices if not one.area and place and place <= {*one.name_stems}]
