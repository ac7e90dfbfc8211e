"""How devices are called: which of them some words may be said for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edged.specialists.devices.command import Mention
from edged.specialists.devices.household import Device, Household
from edged.specialists.devices.kinds import (
    KINDS,
    PROPER,
    heads_of,
    is_usual,
    kinds_called,
    names_for,
    words_for,
)
from edged.specialists.devices.words import single, stem, synonyms

_OF_PROPER_NAMES = frozenset(("scene", "script", "mode", "the", "a", "my", "button", "routine"))


@dataclass(frozen=True, slots=True)
class Words:
    """What was said of devices, as it was probably meant."""

    said: tuple[str, ...]
    """Without plurals."""
    is_plural: bool

    @property
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


def called(words: Sequence[str], devices: Sequence[Device]) -> list[Device]:
    """Return the devices that may be called by some stems.

    Where none is, those of which the name does not say what they are; then synonyms are tried.
    """
    if not words:
        return []
    if found := [device for device in devices if _may_be_called(device, words)]:
        return found
    others = [device for device in devices if device.domain not in PROPER]
    others = [device for device in others if not _is_half_a_noun(device, words)]
    if found := [device for device in others if {*words} <= device.possible_vocabulary]:
        return found
    return [
        device
        for device in others
        if all(word in device.vocabulary or synonyms(word) & device.vocabulary for word in words)
    ]


def _may_be_called(device: Device, words: Sequence[str]) -> bool:
    if device.domain not in PROPER:
        return {*words} <= device.vocabulary and not _is_half_a_noun(device, words)
    called, name = (
        [word for word in some if word not in _OF_PROPER_NAMES]
        for some in (words, device.name_stems)
    )
    return called == name


def _is_half_a_noun(device: Device, words: Sequence[str]) -> bool:
    """Tell whether "garage" was said for what may be a garage door, and has no such name."""
    said, heads = {*words} - {*device.name_stems, *device.area_stems}, heads_of(device.kinds)
    return bool(said) and said <= words_for(device.kinds) and not heads & {*words}


def of_the_noun(devices: list[Device], words: Words) -> list[Device]:
    """Keep what the last word says: "the fan" is rather a fan than the light of one."""
    said = words.stems
    if kinds := kinds_called(said):
        sure = [one for one in devices if one.kinds <= kinds]
        devices = sure or [one for one in devices if one.kinds & kinds] or devices
    if not said or said[-1] not in words_for(frozenset(KINDS)):
        return devices  # a brand, or a name, says nothing of what it is
    return [device for device in devices if device.is_called(said[-1])] or devices


def with_the_word(devices: list[Device], mention: Mention) -> list[Device]:
    """Of "lamps", keep those with that word in their names, if there are any; not of "lights"."""
    said = single(mention.words[-1]) if mention.words else ""
    if not said or is_usual(said):
        return devices
    return [device for device in devices if said in device.name_words] or devices


def with_the_name(devices: Iterable[Device], words: Words) -> list[Device]:
    """Return those of which the very name was said, with or without its area."""
    return [d for d in devices if _is_name(d, words) and d.is_plural == words.is_plural]


def exactly_called(devices: Sequence[Device], words: Words) -> list[Device]:
    """Return those of which the whole name was said: as it is, without its area, or nearly.

    "The desk lamps" are those that are called so, but not "Desk lamp" alone.
    """
    for test in (_is_name, _is_name_but_area, _is_nearly_name):
        if exact := [device for device in devices if test(device, words)]:
            alike = [one for one in exact if one.is_plural == words.is_plural]
            return alike or ([] if words.is_plural else exact)
    return []


def _is_name(device: Device, words: Words) -> bool:
    name, area = device.name_words, device.area_words
    return words.said in (name, (*area, *name), (*name, *area))


def _is_name_but_area(device: Device, words: Words) -> bool:
    name, area = device.name_words, device.area_words
    return bool(area) and name[: len(area)] == area and name[len(area) :] == words.said


def _is_nearly_name(device: Device, words: Words) -> bool:
    name, said = {*device.name_stems} - device.nouns, {*words.stems} - device.nouns
    return bool(name) and said in (name, name | {*device.area_stems})


def is_noun_only(words: Words, devices: Iterable[Device]) -> bool:
    """Tell whether nothing was said but what the devices are."""
    return all({*words.said} <= names_for(device.kinds) for device in devices)
