"""Where devices are said to be."""

from collections.abc import Iterable, Sequence

from edged.specialists.devices.calling import Words
from edged.specialists.devices.command import Mention
from edged.specialists.devices.household import LEVELS, Device, Household, Place
from edged.specialists.devices.kinds import kinds_called
from edged.specialists.devices.words import single, stem, stems, synonyms

# Said for the whole home.
_HOME = frozenset(("house", "home", "everywhere", "flat", "apartment", "place", "building"))
# Said for it by those who live in one, with "all": a cabin may as well be a room that is not here.
_HOMES = frozenset(
    (
        *("boat", "houseboat", "yacht", "cabin", "cottage", "villa", "bungalow", "chalet", "lodge"),
        *("farm", "farmhouse", "condo", "caravan", "camper", "van", "property", "premises"),
    )
)
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


def place_of(home: Household, mention: Mention) -> Place | None:
    """Return where it is said to be; None where nothing is said, or no such place is here."""
    if mention.where == "here" and home.asker:
        return Place(areas=frozenset((home.asker,)))
    if mention.where == "floor":
        return Place(floors=frozenset((home.floor_of(home.asker),)) - {""})
    return place_called(home, mention.place) if mention.place else None


def is_elsewhere(home: Household, mention: Mention) -> bool:
    """Tell whether a place is said that is not in this home."""
    homes = _HOME | _HOMES if mention.is_all else _HOME
    is_whole = bool(homes & {*mention.place}) or (mention.where == "here" and home.asker)
    return bool(mention.place) and not is_whole and place_called(home, mention.place) is None


def place_called(home: Household, said: Sequence[str]) -> Place | None:
    """Return the place that is called so; None where there is none."""
    key = tuple(said)
    if key not in home.places_called:
        meant = home.place_speller.repaired(tuple(map(single, said)))
        words = tuple(stem(word) for word in meant if word not in LEVELS)
        home.places_called[key] = _place_of_stems(home, words) if words else None
    return home.places_called[key]


def _place_of_stems(home: Household, words: tuple[str, ...]) -> Place | None:
    telling = [word for word in dict.fromkeys(words) if word != "room"] or words
    wanted, either = frozenset(words), [{word} | synonyms(word) for word in telling]
    ways = (
        (name for name, own in home.places.items() if own == words),
        (name for name, own in home.words_of_places.items() if wanted <= own),
        (
            name
            for name, own in home.words_of_places.items()
            if not any(map(own.isdisjoint, either))
        ),
    )
    for way in ways:
        if found := frozenset(way):
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
        if names & home.words_of_places[floor]
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
        for place in home.beginnings.get(words.said[:count], ()):
            rest = words.said[count + (words.said[count] in LEVELS) :]
            # "The kitchen light" may as well be a name.
            is_thing = is_several and kinds_called(tuple(map(stem, rest)))
            if rest and (place.floors or is_thing):
                return Words(rest, words.is_plural), place
    first, rest = words.said[:1], words.said[1:]
    is_stair = bool(rest) and first[0] in _STAIRS
    if not is_stair or any(first[0] in device.name_words for device in home.devices):
        return words, None
    upstairs = place_called(home, first)
    return (words, None) if upstairs is None else (Words(rest, words.is_plural), upstairs)


def there(
    home: Household, mention: Mention, place: Place, devices: Sequence[Device]
) -> list[Device]:
    """Return the devices of a place; where none is, those without a place named after it."""
    named = {stem(word) for word in mention.place} or {*stems(home.asker)}
    return [one for one in devices if place.has(one)] or _named_after(named, devices)


def _named_after(place: set[str], devices: Iterable[Device]) -> list[Device]:
    return [one for one in devices if not one.area and place and place <= one.named_stems]
