"""The devices that come with a request, and where in the home the asker is."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from edged.specialists.compact.named import MAX_SAID_CHARACTERS, InputsError, listed
from edged.specialists.devices.kinds import DOORS, kinds_of, nouns_of, possible_kinds, words_for
from edged.specialists.devices.words import Speller, is_several, singles, stem, words_of

# No part of what a place is called.
LEVELS = frozenset(("floor", "level", "storey", "story"))
DEVICES, AREA = "devices", "area"
_CAMEL = re.compile(r"[A-Z][a-z]+(?=[A-Z])")
_OWNER = re.compile(r"\b([^\W_]+)['\u2019]s\b")
_FEWEST_LETTERS = 4
_PAIR = 2
# What may stand behind a name to tell it from another.
SIDES = frozenset(
    (
        *("left", "right", "upper", "lower", "front", "back", "rear", "inner", "outer", "middle"),
        *("north", "south", "east", "west", "new", "old", "test", "spare"),
    )
)


@dataclass(frozen=True, eq=False)
class Device:
    """One device; not equal to another one, though that may be called the same."""

    id: str
    name: str
    area: str = ""
    floor: str = ""

    @cached_property
    def domain(self) -> str:
        """What it is to Home Assistant."""
        return self.id.partition(".")[0]

    @cached_property
    def kinds(self) -> frozenset[str]:
        """What it may be, as far as its name says so."""
        return kinds_of(self.domain, self.name)

    @property
    def is_door(self) -> bool:
        """Whether it is opened by nothing but a word for it: a door, a gate, a lock, an alarm."""
        return bool(self.kinds & DOORS)

    @cached_property
    def name_words(self) -> tuple[str, ...]:
        """Of its name, without plurals."""
        return singles(self.name)

    @cached_property
    def is_plural(self) -> bool:
        """Whether its name is one for several."""
        words = words_of(self.name)
        return bool(words) and is_several(words[-1])

    @cached_property
    def area_words(self) -> tuple[str, ...]:
        """Of its area, without plurals."""
        return singles(self.area)

    @cached_property
    def name_stems(self) -> tuple[str, ...]:
        """Of its name."""
        return tuple(map(stem, self.name_words))

    @cached_property
    def named_stems(self) -> frozenset[str]:
        """Of its name, in no order."""
        return frozenset(self.name_stems)

    @cached_property
    def area_stems(self) -> frozenset[str]:
        """Of its area."""
        return frozenset(map(stem, self.area_words))

    @cached_property
    def nouns(self) -> frozenset[str]:
        """What one of its kinds is called."""
        return nouns_of(self.kinds)

    @cached_property
    def parts(self) -> frozenset[str]:
        """Halves of words of its name: "tower" of "TowerFan", "flood" of a "Floodlight"."""
        parts = [part.lower() for part in _CAMEL.findall(self.name)]
        if self.domain == "light":
            parts += (word[: -len("light")] for word in self.name_words if word.endswith("light"))
        return frozenset(part for part in parts if len(part) >= _FEWEST_LETTERS)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All words by which it may be called."""
        return self.named_stems | self.parts | self.area_stems | words_for(self.kinds)

    @cached_property
    def possible_vocabulary(self) -> frozenset[str]:
        """The same, and those of all that it may be by its name."""
        return self.vocabulary | words_for(possible_kinds(self.domain, self.name))

    @cached_property
    def noun(self) -> str:
        """The stem of the last word of its name that does not just tell it from another one."""
        words = words_of(self.name)
        said = (word for word in reversed(words) if len(word) > 1 and not word.isdigit())
        return stem(next((word for word in said if word not in SIDES), ""))

    def is_called(self, noun: str) -> bool:
        """Tell whether it is what a stem says: by its kind, or the last word of its name."""
        return noun in self.nouns or noun == self.noun


@dataclass(frozen=True, slots=True)
class Place:
    """Areas and floors."""

    areas: frozenset[str] = frozenset()
    floors: frozenset[str] = frozenset()

    def has(self, device: Device) -> bool:
        """Tell whether a device is there."""
        return device.area in self.areas or device.floor in self.floors


class Nothing(Enum):
    """Why there is nothing to be done."""

    NONE = "none"
    AMBIGUOUS = "ambiguous"


Devices: TypeAlias = tuple[Device, ...]
Test: TypeAlias = Callable[[Device], bool]
Said = TypeVar("Said", bound=Hashable)
Found: TypeAlias = Devices | Nothing


def only(found: Sequence[Device]) -> Found:
    """Return the one device that was found: none is none, several are ambiguous."""
    if not found:
        return Nothing.NONE
    return tuple(found) if len(found) == 1 else Nothing.AMBIGUOUS


class Household:
    """The devices of a home.

    Args:
        inputs: Of a request.

    Raises:
        InputsError: They are not what is needed; the message names the member.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.devices = tuple(_read(inputs))
        self.areas = tuple(dict.fromkeys(d.area for d in self.devices if d.area))
        asker = _text(inputs, AREA, "inputs").strip()
        same = (area for area in self.areas if area.casefold() == asker.casefold())
        self.asker = asker if asker in self.areas else next(same, asker)
        self.domains = frozenset(device.domain for device in self.devices)
        self.floors = tuple(dict.fromkeys(d.floor for d in self.devices if d.floor))
        self.places_called: dict[tuple[str, ...], Place | None] = {}
        """By the words that were looked up."""
        self._found: dict[tuple[object, Hashable], frozenset[Device]] = {}

    def those(self, test: Callable[[Said], Test], said: Said) -> frozenset[Device]:
        """Return the devices that pass a test of some words.

        Each is tested once, though a command is tried with many services.

        Args:
            test: Makes the test of a device of what was said.
            said: Words.
        """
        key = (test, said)
        if key not in self._found:
            self._found[key] = frozenset(filter(test(said), self.devices))
        return self._found[key]

    @cached_property
    def known(self) -> frozenset[str]:
        """Every word by which something here may be called, without plurals."""
        names = (one.name_words for one in self.devices)
        # Of each device's kinds: what is asked is kept, and a stranger chooses which are together.
        kinds = map(words_for, {device.kinds for device in self.devices})
        parts = (one.parts for one in self.devices)
        return frozenset[str]().union(*self.names_of_places.values(), *names, *kinds, *parts)

    @cached_property
    def owners(self) -> frozenset[str]:
        """The people who are in names of areas and devices: "Tom's room", without plurals."""
        names = " ".join(name for one in self.devices for name in (one.name, one.area))
        return frozenset(one for name in _OWNER.findall(names) for one in singles(name))

    @cached_property
    def speller(self) -> Speller:
        """Undoes slips in words for devices."""
        return Speller(self.known)

    @cached_property
    def names_of_places(self) -> dict[str, tuple[str, ...]]:
        """The words of each area's and each floor's name, without plurals."""
        return {name: singles(name) for name in (*self.areas, *self.floors)}

    @cached_property
    def places(self) -> dict[str, tuple[str, ...]]:
        """The stems of each area's and each floor's name, without "floor"."""
        stems_of = {name: tuple(map(stem, said)) for name, said in self.names_of_places.items()}
        return {
            name: tuple(word for word in words if word not in LEVELS) or words
            for name, words in stems_of.items()
        }

    @cached_property
    def words_of_places(self) -> dict[str, frozenset[str]]:
        """The same, in no order."""
        return {name: frozenset(words) for name, words in self.places.items()}

    @cached_property
    def beginnings(self) -> dict[tuple[str, ...], list[Place]]:
        """The first floor and the first area by the words with which one may be named."""
        found: dict[tuple[str, ...], list[Place]] = {}
        areas = frozenset(self.areas)
        for name in (*self.floors, *self.areas):
            words, names = self.names_of_places[name], frozenset((name,))
            place = Place(areas=names) if name in areas else Place(floors=names)
            for said in {words, tuple(word for word in words if word not in LEVELS)}:
                places = found.setdefault(said, [])
                if all(bool(one.areas) != bool(place.areas) for one in places):
                    places.append(place)
        return found

    @cached_property
    def place_speller(self) -> Speller:
        """Undoes slips in words for places."""
        return Speller(LEVELS.union(*self.names_of_places.values()))

    def near(self, devices: list[Device]) -> list[Device]:
        """Return those in the asker's area, or all where none of them is there."""
        here = [device for device in devices if self.asker and device.area == self.asker]
        return here or devices

    def pair(self, devices: list[Device]) -> Found:
        """Return two devices: where there are more, those in the asker's area."""
        for some in (self.near(devices), devices):
            if len(some) == _PAIR:
                return tuple(some)
        return Nothing.AMBIGUOUS if len(devices) > _PAIR else only(devices)

    def floor_of(self, area: str) -> str:
        """Return the floor of an area; empty where it has none."""
        return self._floors_of.get(area, "")

    @cached_property
    def _floors_of(self) -> dict[str, str]:
        return {one.area: one.floor for one in reversed(self.devices) if one.area}


def _read(inputs: Mapping[str, Any]) -> Iterator[Device]:
    for index, one in enumerate(listed(inputs, DEVICES)):
        where = f"inputs.{DEVICES}[{index}]"
        texts = {name: _text(one, name, where) for name in ("id", "name", "area", "floor")}
        if not texts["id"] or not texts["name"]:
            raise InputsError(f"{where}: must have an id and a name")
        yield Device(**texts)


def _text(one: Mapping[str, Any], name: str, where: str) -> str:
    value = one.get(name, "")
    value = "" if value is None else value
    if not isinstance(value, str) or len(value) > MAX_SAID_CHARACTERS:
        raise InputsError(
            f"{where}.{name}: must be a text of at most {MAX_SAID_CHARACTERS} characters"
        )
    return value
