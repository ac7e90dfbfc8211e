"""How devices are called: which of them some words may be said for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from edged.specialists.devices.command import Mention
from edged.specialists.devices.household import Device, Household, Test
from edged.specialists.devices.kinds import (
    AT_WINDOWS,
    KINDS,
    PROPER,
    heads_of,
    is_brand,
    is_usual,
    kinds_called,
    names_for,
    words_for,
)
from edged.specialists.devices.words import single, stem, synonyms

_OF_PROPER_NAMES = frozenset(("scene", "script", "mode", "the", "a", "my", "button", "routine"))

_FEWEST_LETTERS = 4
# A "Greenhouse" is no house.
_OF_PLACES = frozenset(("house", "room", "home", "place", "side", "yard", "door"))
_APPLIANCES = frozenset(("machine", "maker", "appliance"))


@dataclass(frozen=True)
class Words:
    """What was said of devices, as it was probably meant."""

    said: tuple[str, ...]
    """Without plurals."""
    is_plural: bool

    @cached_property
    def stems(self) -> tuple[str, ...]:
        """Of all words."""
        return tuple(map(stem, self.said))


def words_of_mention(home: Household, mention: Mention) -> Words:
    """Return the words of a mention, with slips undone where they are like a word of the home."""
    said = mention.singles
    if not {*said} <= home.known:
        # "The lamp of Annika".
        said = home.speller.repaired([word for word in said if word != "of"] or said)
    return Words(said, mention.is_plural)


def called(home: Household, words: Sequence[str], devices: Sequence[Device]) -> list[Device]:
    """Return those of a home's devices that may be called by some stems.

    Where none is, those of which the name does not say what they are; then synonyms are tried.
    """
    ways = (_may_be_called, _may_be, _may_be_called_otherwise, _may_be_for, _may_end_so)
    for way in ways if words else ():
        those = home.those(way, tuple(words))
        if found := [device for device in devices if device in those]:
            return found
    return []


def _may_be_called(words: tuple[str, ...]) -> Test:
    wanted, proper = frozenset(words), _proper(words)
    return lambda device: (
        device.named_stems.issuperset(proper) and proper == _proper(device.name_stems)
        if device.domain in PROPER
        else wanted <= device.vocabulary and not _is_half_a_noun(device, wanted)
    )


def _may_be(words: tuple[str, ...]) -> Test:
    wanted = frozenset(words)
    return lambda device: (
        wanted <= device.possible_vocabulary
        and device.domain not in PROPER
        and not _is_half_a_noun(device, wanted)
    )


def _may_be_called_otherwise(words: tuple[str, ...]) -> Test:
    wanted = frozenset(words)
    either = [{word} | synonyms(word) for word in wanted]
    return lambda device: (
        not any(map(device.vocabulary.isdisjoint, either))
        and device.domain not in PROPER
        and not _is_half_a_noun(device, wanted)
    )


def _may_be_for(words: tuple[str, ...]) -> Test:
    """Of "the coffee maker", what the plug of it is called."""
    wanted = frozenset(words) - _APPLIANCES
    is_one = len(words) > len(wanted) > 0
    return lambda device: is_one and device.domain == "switch" and wanted <= device.named_stems


def _may_end_so(words: tuple[str, ...]) -> Test:
    """Of "the radio", what is called "Kitchenradio"; no door is opened by a part of a word."""
    *others, noun = words
    is_part = len(noun) >= _FEWEST_LETTERS and noun not in _OF_PLACES
    return lambda device: (
        is_part
        and device.noun.endswith(noun)
        and device.domain not in PROPER
        and not device.is_door
        and device.vocabulary.issuperset(others)
    )


def _proper(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in _OF_PROPER_NAMES]


def _is_half_a_noun(device: Device, words: frozenset[str]) -> bool:
    """Tell whether "garage" was said for what may be a garage door, and has no such name."""
    said = words - device.named_stems - device.area_stems
    return bool(said) and said <= words_for(device.kinds) and not words & heads_of(device.kinds)


def of_the_noun(devices: list[Device], words: Words, here: str = "") -> list[Device]:
    """Keep what the last word says: "the fan" is rather a fan than the light of one.

    Args:
        devices: Which may be called by the words.
        words: As they were said.
        here: The asker's area, if that decides; what covers its windows has many names.
    """
    said = words.stems
    if kinds := kinds_called(said):
        maybe = [one for one in devices if one.kinds & kinds]
        sure = [one for one in maybe if one.kinds <= kinds]
        if len(kinds) > 1 and words.is_plural:  # "the covers"
            return maybe or devices
        near = [one for one in maybe if here and one.area == here and kinds <= AT_WINDOWS]
        near = [] if {*near} & {*sure} else near
        return near or sure or maybe or devices
    if not said or said[-1] not in words_for(frozenset(KINDS)):
        return devices  # a brand, or a name, says nothing of what it is
    return [device for device in devices if device.is_called(said[-1])] or devices


def with_the_words(home: Household, devices: list[Device], words: Iterable[str]) -> list[Device]:
    """Of "lamps", keep those with that word in their names, if there are any; not of "lights"."""
    for said in map(single, words):
        is_noun = all(stem(said) in device.nouns for device in devices)
        if not (is_noun and is_usual(said)):
            those = home.those(_has_word, said)
            devices = [device for device in devices if device in those] or devices
    return devices


def _has_word(said: str) -> Test:
    return lambda device: said in device.name_words


def with_the_name(home: Household, devices: Iterable[Device], words: Words) -> list[Device]:
    """Return those of which the very name was said, with or without its area."""
    those = home.those(_is_name, words)
    return [one for one in devices if one in those and one.is_plural == words.is_plural]


def exactly_called(home: Household, devices: Sequence[Device], words: Words) -> list[Device]:
    """Return those of which the whole name was said: as it is, without its area, or nearly.

    "The desk lamps" are those that are called so, but not "Desk lamp" alone.
    """
    # "The Sonos" may as well be a "Sonos Beam" as the "Kitchen Sonos".
    ways = (_is_name,) if is_brand(words.stems) else (_is_name, _is_name_but_area, _is_nearly_name)
    for way in ways:
        those = home.those(way, words)
        if exact := [device for device in devices if device in those]:
            alike = [one for one in exact if one.is_plural == words.is_plural]
            return alike or ([] if words.is_plural else exact)
    return []


def _is_name(words: Words) -> Test:
    def is_name(device: Device) -> bool:
        name, area = device.name_words, device.area_words
        return words.said in (name, (*area, *name), (*name, *area))

    return is_name


def _is_name_but_area(words: Words) -> Test:
    def is_name_but_area(device: Device) -> bool:
        name, area = device.name_words, device.area_words
        return bool(area) and name[: len(area)] == area and name[len(area) :] == words.said

    return is_name_but_area


def _is_nearly_name(words: Words) -> Test:
    stems = frozenset(words.stems)

    def is_nearly_name(device: Device) -> bool:
        name, said = device.named_stems - device.nouns, stems - device.nouns
        return bool(name) and said in (name, name | device.area_stems)

    return is_nearly_name


def is_noun_only(words: Words, devices: Iterable[Device]) -> bool:
    """Tell whether nothing was said but what the devices are."""
    said = frozenset(words.said)
    return all(said <= names_for(device.kinds) for device in devices)
