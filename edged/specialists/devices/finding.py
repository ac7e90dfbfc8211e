"""Which devices are meant: rules, so that the same words always mean the same.

In this order: a device must be able to do it; every word that was said must be one by which it may
be called; a place that was said holds; a whole name goes before a part of one; then the asker's
area decides. Several left where one was asked for are ambiguous. Doors are not opened on "all", nor
because of where somebody is.
"""

from collections.abc import Collection, Sequence

from edged.specialists.devices.calling import (
    Words,
    called,
    exactly_called,
    is_noun_only,
    of_the_noun,
    with_the_name,
    with_the_words,
    words_of_mention,
)
from edged.specialists.devices.command import OPENING, Command, Mention
from edged.specialists.devices.household import (
    Device,
    Devices,
    Found,
    Household,
    Nothing,
    Place,
    only,
)
from edged.specialists.devices.implied import implied
from edged.specialists.devices.places import (
    is_elsewhere,
    place_called,
    place_of,
    split_place,
    there,
)
from edged.specialists.devices.words import stem

_MASS = ("heating",)
# Services that thermostats and their like alone have.
_OF_CLIMATE = frozenset(("set_temperature", "set_hvac_mode", "set_fan_mode"))


def find(home: Household, command: Command, domains: Collection[str]) -> Found:
    """Return the devices that a command means among those that can do it.

    Args:
        home: All devices, and where the asker is.
        command: What was said.
        domains: Of the devices that can do it.
    """
    able = [device for device in home.devices if device.domain in domains]
    mention, is_opening = command.mention, command.verb in OPENING
    if is_opening and mention.is_all:
        able = [device for device in able if not device.is_door]
    found = implied(home, mention, able) if mention.kind else _named(home, mention, able)
    if found is Nothing.NONE and command.verb in _OF_CLIMATE and not mention.place:
        found = _of_a_floor(home, mention, able)
    if is_opening and isinstance(found, tuple):
        found = _guarded(home, mention, able, found)
    if command.left_out is not None and isinstance(found, tuple):
        found = _without(home, command.left_out, found)
    return found


def _named(home: Household, mention: Mention, able: Sequence[Device]) -> Found:
    """Return those that are meant by words."""
    words, place = words_of_mention(home, mention), place_of(home, mention)
    found = called(home, words.stems, able)
    if mention.where == "here" and place is None:  # nobody knows where that is
        return only(found)
    if place is None and not mention.is_all and len(words.said) > 1:
        named = with_the_name(home, found, words)
        if len(named) == 1:
            return tuple(named)
    if place is None:
        words, place = split_place(home, mention, words)
        found = called(home, words.stems, able)
    if place is not None:
        found = there(home, mention, place, found)
    elif is_elsewhere(home, mention):  # or it is a part of a name
        found = called(home, (*words.stems, *map(stem, mention.place)), able)
    here = "" if mention.is_all or place is not None else home.asker
    return _chosen(home, mention, words, of_the_noun(found, words, here), place)


def _of_a_floor(home: Household, mention: Mention, able: Sequence[Device]) -> Found:
    """Return the thermostats of a floor: "level 2 to 20 degrees"."""
    floors = Place() if mention.kind else place_called(home, mention.words) or Place()
    found = (one for one in able if one.domain == "climate" and one.floor in floors.floors)
    return tuple(found) or Nothing.NONE


def _chosen(
    home: Household, mention: Mention, words: Words, found: list[Device], place: Place | None
) -> Found:
    """Return those that are meant of the devices that are called so, and are there."""
    if not found:
        return Nothing.NONE
    if mention.is_all:
        found = with_the_words(home, found, mention.words[-1:])
        return home.pair(found) if mention.is_pair else tuple(found)
    is_noun, exact = is_noun_only(words, found), exactly_called(home, found, words)
    # "The heating upstairs" is all that heats there.
    is_several = words.is_plural or (place is not None and words.said == _MASS)
    if len(exact) != 1 and not is_noun and _is_own_noun(words, found):
        return tuple(found if place is not None else home.near(found))
    if place is None and (is_noun or not words.is_plural):
        found = home.near(found) if is_noun else home.near(exact or found)
    elif not is_noun:
        found = exact or found
    if is_noun and is_several:
        found = with_the_words(home, found, reversed(words.said))
    elif is_noun:
        found = _of_the_name(home, words, found)
    return tuple(found) if is_several and (is_noun or not exact) else only(found)


def _is_own_noun(words: Words, found: Sequence[Device]) -> bool:
    """Tell whether "the pendants" was said for what is called so, each with more words."""
    is_one_word = words.is_plural and len(words.said) == 1
    return is_one_word and all(one.is_called(words.stems[0]) for one in found)


def _of_the_name(home: Household, words: Words, found: list[Device]) -> list[Device]:
    """Keep the one of which the name is a noun that was said: "Fan", not "Desk fan"."""
    found = with_the_words(home, found, reversed(words.said))
    # "The door" is rather a "Front door" than a "Door lock".
    found = [one for one in found if one.is_called(words.stems[-1])] or found
    return with_the_name(home, found, words) or found


def _guarded(home: Household, mention: Mention, able: Sequence[Device], found: Devices) -> Found:
    """Open no door that was not named."""
    if not any(device.is_door for device in found):
        return found
    if mention.kind:
        return Nothing.NONE
    words = words_of_mention(home, mention)
    is_named = bool(mention.place or mention.where or exactly_called(home, found, words))
    others = of_the_noun(called(home, words.stems, able), words)
    if is_noun_only(words, others):  # "the door", where one alone is called so
        others = with_the_words(home, others, words.said[-1:])
    return found if len(found) == 1 and (is_named or len(others) == 1) else Nothing.AMBIGUOUS


def _without(home: Household, left_out: Mention, found: Devices) -> Found:
    """Leave out what was excepted."""
    words, place = words_of_mention(home, left_out), place_of(home, left_out)
    among = called(home, words.stems, found)
    if place is not None:
        among = [device for device in among if place.has(device)]
    elif is_elsewhere(home, left_out):  # "the one over the sink"
        among = called(home, (*words.stems, *map(stem, left_out.place)), found) or among
    elif (room := place_called(home, left_out.words)) and all(map(room.has, among)):
        among = [device for device in found if room.has(device)]  # "but not the kitchen"
        return _rest(found, among)
    among = with_the_name(home, among, words) or of_the_noun(among, words)
    among = with_the_words(home, among, left_out.words[-1:])
    if left_out.is_plural or len(among) == 1:
        return _rest(found, among)
    among = exactly_called(home, among, words) or among
    among = among if place is not None else home.near(among)
    return Nothing.AMBIGUOUS if len(among) > 1 else _rest(found, among)


def _rest(found: Devices, left_out: Sequence[Device]) -> Found:
    but = frozenset(left_out)
    return tuple(device for device in found if device not in but) or Nothing.AMBIGUOUS
