"""The devices that come with a request, and where in the home the asker is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, TypeAlias

from edged.specialists.compact.named import MAX_SAID_CHARACTERS, InputsError, listed
from edged.specialists.devices.kinds import DOORS, kinds_of, nouns_of, possible_kinds, words_for
from edged.specialists.devices.words import Speller, is_plural, singles, stem, stems, words_of

# No part of what a place is called.
LEVELS = frozenset(("floor", "level", "storey", "story"))
DEVICES, AREA = "devices", "area"
# What may stand behind a name to tell it from another.
SIDES = frozenset(
    (
        *("left", "right", "upper", "lower", "front", "back", "rear", "inner", "outer", "middle"),
        *("north", "south", "east", "west", "new", "old", "test", "spare"),
    )
)


@dataclass(frozen=True)
class Device:
    """One device."""

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
        return singles(self.name.replace("_", " "))

    @cached_property
    def is_plural(self) -> bool:
        """Whether its name is one for several."""
        words = words_of(self.name)
        return bool(words) and is_plural(words[-1])

    @cached_property
    def area_words(self) -> tuple[str, ...]:
        """Of its area, without plurals."""
        return singles(self.area)

    @cached_property
    def name_stems(self) -> tuple[str, ...]:
        """Of its name."""
        return stems(self.name.replace("_", " "))

    @cached_property
    def area_stems(self) -> tuple[str, ...]:
        """Of its area."""
        return stems(self.area)

    @cached_property
    def nouns(self) -> frozenset[str]:
        """What one of its kinds is called."""
        return nouns_of(self.kinds)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """All words by which it may be called."""
        return frozenset((*self.name_stems, *self.area_stems)) | words_for(self.kinds)

    @cached_property
    def possible_vocabulary(self) -> frozenset[str]:
        """The same, and those of all that it may be by its name."""
        return self.vocabulary | words_for(possible_kinds(self.domain, self.name))

    def is_called(self, noun: str) -> bool:
        """Tell whether it is what a stem says: by its kind, or the last word of its name."""
        name = [
            word
            for word in words_of(self.name)
            if word not in SIDES and len(word) > 1 and not word.isdigit()
        ]
        return noun in self.nouns or (bool(name) and noun == stem(name[-1]))


class Nothing(Enum):
    """Why there is nothing to be done."""

    NONE = "none"
    AMBIGUOUS = "ambiguous"


Devices: TypeAlias = tuple[Device, ...]
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

    @cached_property
    def known(self) -> frozenset[str]:
        """Every word by which something here may be called, without plurals."""
        texts = (*self.areas, *self.floors, *(device.name for device in self.devices))
        said = (word for text in texts for word in singles(text.replace("_", " ")))
        kinds = frozenset(kind for device in self.devices for kind in device.kinds)
        return frozenset(said) | words_for(kinds)

    @cached_property
    def speller(self) -> Speller:
        """Undoes slips in words for devices."""
        return Speller(self.known)

    @cached_property
    def places(self) -> dict[str, tuple[str, ...]]:
        """The stems of each area's and each floor's name, without "floor"."""
        names = dict.fromkeys((*self.areas, *self.floors))
        return {
            name: tuple(word for word in stems(name) if word not in LEVELS) or stems(name)
            for name in names
        }

    @cached_property
    def beginnings(self) -> dict[tuple[str, ...], list[str]]:
        """Floors and areas by the words with which something there may be named."""
        found: dict[tuple[str, ...], list[str]] = {}
        for name in (*self.floors, *self.areas):
            words = singles(name)
            for said in {words, tuple(word for word in words if word not in LEVELS)}:
                found.setdefault(said, []).append(name)
        return found

    @cached_property
    def place_speller(self) -> Speller:
        """Undoes slips in words for places."""
        return Speller({word for name in self.places for word in singles(name)} | LEVELS)

    def near(self, devices: list[Device]) -> list[Device]:
        """Return those in the asker's area, or all where none of them is there."""
        here = [device for device in devices if self.asker and device.area == self.asker]
        return here or devices

    def floor_of(self, area: str) -> str:
        """Return the floor of an area; empty where it has none."""
        return next((d.floor for d in self.devices if area and d.area == area), "")


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
