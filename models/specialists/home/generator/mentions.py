"""How people refer to one device: by name, by a part of it, by what it is and where."""

import re
from dataclasses import replace
from random import Random

from models.specialists.home.generator.homes import PROPER, Device, Home
from models.specialists.home.generator.resolve import Mention, Place
from models.specialists.home.generator.tables import names
from models.specialists.home.generator.words import NUMBER_WORDS, stem, tokens

_ON = frozenset(
    [
        "patio",
        "porch",
        "balcony",
        "terrace",
        "deck",
        "landing",
        "driveway",
        "veranda",
        "staircase",
        "gazebo",
    ]
)
_PERSONS = frozenset(
    [
        "dusty",
        "rosie",
        "robo",
        "mr",
        "shaun",
        "jeeves",
        "bob",
        "mowgli",
        "hoovie",
        "saugi",
        "sir",
        "luba",
    ]
)
_PLURALS = frozenset(
    [
        "lights",
        "spots",
        "downlights",
        "blinds",
        "curtains",
        "shades",
        "shutters",
        "speakers",
        "sprinklers",
        "groceries",
        "errands",
        "chores",
        "tasks",
        "reminders",
    ]
)
# What one, and what many of a kind are called.
NOUNS = {
    "light": ("light", "lights"),
    "fan": ("fan", "fans"),
    "blind": ("blind", "blinds"),
    "curtain": ("curtain", "curtains"),
    "shade": ("shade", "shades"),
    "shutter": ("shutter", "shutters"),
    "window": ("window", "windows"),
    "lock": ("lock", "locks"),
    "sprinkler": ("sprinkler", "sprinklers"),
    "vacuum": ("vacuum", "vacuums"),
    "mower": ("mower", "mowers"),
    "tv": ("tv", "tvs"),
    "speaker": ("speaker", "speakers"),
    "thermostat": ("thermostat", "thermostats"),
    "radiator": ("radiator", "radiators"),
    "ac": ("ac", "acs"),
    "humidifier": ("humidifier", "humidifiers"),
    "dehumidifier": ("dehumidifier", "dehumidifiers"),
    "garage_door": ("garage door", "garage doors"),
    "gate": ("gate", "gates"),
    "awning": ("awning", "awnings"),
    "siren": ("siren", "sirens"),
}
_OTHER_NOUNS = {
    "light": ("lamp",),
    "tv": ("television", "telly"),
    "vacuum": ("robot vacuum", "hoover", "vacuum cleaner"),
    "mower": ("lawn mower",),
    "ac": ("air conditioner", "air conditioning"),
}
# Words without which the rest of a name is no name.
SIDES = frozenset(word.lower() for split in ("train", "held-out") for word in names("side", split))
# What stands before one of these is no word that could be left out.
AREA_WORDS = frozenset(["room", "bathroom", "bedroom", "office", "yard", "suite", "house", "pair"])


def area_phrase(area: str) -> str:
    """Return an area as it stands behind a preposition: "the kitchen"."""
    said = area.lower()
    has_owner = "'" in said or said.split()[0] in ("toms", "sophies")
    if has_owner or said == "outside" or said[-1].isdigit():
        return said
    return f"the {said}"


def place_phrase(place: Place, rng: Random) -> str:
    """Return a place as it stands behind what is there: "in the kitchen"."""
    said = place.name.lower()
    if place.kind == "here":
        return rng.choice(("in here", "in here", "here", "in this room"))
    if place.is_here:
        return "on this floor"
    if place.kind == "floor":
        if said in ("upstairs", "downstairs"):
            return said
        return f"on the {said}"
    if said == "outside":
        return said
    word = said.split()[-1]
    preposition = "on" if word in _ON else "at" if word == "entrance" else "in"
    return f"{preposition} {area_phrase(place.name)}"


def without_place(text: str, place: Place) -> str | None:
    """Return a command without the place that it says; None where it does not say it once."""
    said = re.escape(place.name.lower())
    if place.kind == "here":
        said = "in here|here|in this room"
    elif place.is_here:
        said = "on this floor"
    pattern = rf" ?\b(?:(?:in|on|at) (?:the )?)?(?:{said})(?!['\w])"
    rest, count = re.subn(pattern, "", text, flags=re.IGNORECASE)
    return rest.strip() if count == 1 and rest.strip() else None


def place_name(place: Place | None) -> str:
    """Return the name by which a place is said; empty where it is said without one."""
    return "" if place is None or place.is_here else place.name.lower()


def _article(rng: Random, name: str) -> str:
    """Return what stands before a name."""
    first = name.lower().split()[0]
    if first in _PERSONS or "'" in first:
        return ""
    return rng.choices(("the ", "", "my "), (16, 4, 1))[0]


def _spoken(rng: Random, name: str) -> str:
    """Return a name as it is said: mostly in small letters."""
    name = name.replace("_", " ")
    if rng.random() < 0.8:
        name = name.lower()
    if rng.random() < 0.3:
        name = re.sub(r"\b\d\b", lambda found: NUMBER_WORDS[int(found[0])], name)
    return name


def _mention(rng: Random, name: str, place: Place | None = None) -> Mention:
    """Refer to one by a name, or by what is left of it."""
    article, said = _article(rng, name), _spoken(rng, name)
    where = f" {place_phrase(place, rng)}" if place else ""
    is_plural = tokens(name)[-1] in _PLURALS
    mention = Mention(article + said + where, tokens(name), place=place, is_plural=is_plural)
    return replace(mention, said=said, said_place=place_name(place))


def _noun(rng: Random, device: Device) -> str:
    """Return what a device is called by somebody who does not say its name."""
    if device.kind not in NOUNS:
        return device.base or device.name
    if rng.random() < 0.2 and device.kind in _OTHER_NOUNS:
        return rng.choice(_OTHER_NOUNS[device.kind])
    return NOUNS[device.kind][0]


def _part_of_name(rng: Random, device: Device) -> str:
    """Leave out a word of a name, or say them in another order."""
    words = device.name.replace("_", " ").split()
    last = words[-1].lower()
    if last in SIDES and not last.isdigit() and len(last) > 1 and rng.random() < 0.6:
        return " ".join([words[-1], *words[:-1]])
    area = tokens(device.area or "")
    if area and tokens(device.name)[: len(area)] == area and len(words) > len(area):
        return " ".join(words[len(area) :])
    if last in SIDES and len(words) > 1:
        return " ".join(words[:-1])
    if device.kind == "light" and stem(last) == "light" and len(words) > 1:
        other = "lamp" if last == "light" else "light"
        return " ".join([*words[:-1], other])
    is_area_cut = len(words) > 1 and (words[1].lower() in AREA_WORDS or words[1].isdigit())
    if (
        len(words) > 1
        and not is_area_cut
        and words[0].lower() not in ("mr", "sir", "hot", "water", "air", "garage")
    ):
        is_brand = device.kind in ("vacuum", "speaker", "ac") and words[0].lower() not in SIDES
        return words[0] if is_brand else " ".join(words[1:])
    return device.name


def one(rng: Random, home: Home, device: Device) -> Mention:
    """Refer to one device in one of many ways; whether that is enough is not looked at."""
    if device.kind in PROPER:
        said = _spoken(rng, device.name)
        return Mention(said, tokens(device.name), said=said)
    ways = _ways(rng, home, device)
    _, name, place = rng.choices(ways, [weight for weight, _, _ in ways])[0]
    if place and place.kind == "floor" and rng.random() < 0.4:
        mention = _mention(rng, name, place)
        both = f"{place.name.lower()} {name.lower()}"
        return replace(mention, text=f"the {both}", said=both, said_place="")
    return _mention(rng, name, place)


def _ways(rng: Random, home: Home, device: Device) -> list[tuple[float, str, Place | None]]:
    """Return what a device may be called, where it is said to be, and how often that is."""
    name, noun = device.name, _noun(rng, device)
    ways: list[tuple[float, str, Place | None]] = [
        (0.34, name, None),
        (0.16, noun, None),
        (0.12, _part_of_name(rng, device), None),
    ]
    if device.kind in ("todo", "timer", "alarm"):
        return ways
    if device.kind in NOUNS and not {stem(w) for w in tokens(noun)} & {*map(stem, tokens(name))}:
        ways.append((0.12, f"{name} {noun}", None))
    if device.floor:
        ways.append((0.06, noun, Place("floor", device.floor)))
    if home.asker and device.area == home.asker:
        ways.append((0.08, noun, Place("here")))
    if not device.area or _says_area(device):
        return ways
    area = Place("area", device.area)
    return [
        *ways,
        (0.08, name, area),
        (0.08, f"{area.name} {name}", None),
        (0.07, f"{area.name} {noun}", None),
        (0.07, noun, area),
    ]


def _says_area(device: Device) -> bool:
    """Tell whether a name has the area in it."""
    return {*tokens(device.area or "")} <= {*tokens(device.name)}
