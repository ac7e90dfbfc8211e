"""Devices of which a prompt has the name, where a command that was made of it names none."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Device, Household
from edged.specialists.devices.kinds import IMPLIED_ALL, KINDS, words_for
from edged.specialists.devices.prompt.not_done import EXCEPTING
from edged.specialists.devices.words import places_in, single, singles, words_of

_FEWEST_WORDS = 2
_POLITE = frozenset(
    (
        *("please", "now", "thanks", "thank", "you", "the", "scene", "mode", "routine", "script"),
        *("ok", "hey", "time", "for", "it", "is", "its"),
    )
)
# "The jacuzzi next to the cove".
_BESIDE = frozenset(("in", "on", "at", "by", "to", "of", "near", "beside", "from", "my"))
_NOT_MEANT = EXCEPTING | {"not", "dont", "never"}
_DEFINITE = frozenset(("the", "my", "our", "that"))
# No names of what plays them.
_PLAYED = frozenset(("music", "sound", "volume", "song", "film", "movie", "video", "show", "audio"))
_RUN = ("scene", "script")
_ENDING = frozenset(("turn_off", "stop", "pause", "cancel", "media_stop", "media_pause"))
_NAMED_ALONE = ("scene", "script", "button", "input_button")


def named_alone(home: Household, prompt: str) -> Device | None:
    """Return the scene, script or button of which a prompt says the name and nothing else."""
    words = [word for word in singles(prompt) if word not in _POLITE]
    found = [
        device
        for device in home.devices
        if device.domain in _NAMED_ALONE
        and words
        and words == [word for word in device.name_words if word not in _POLITE]
    ]
    return found[0] if len(found) == 1 else None


def named_within(home: Household, command: Command, prompt: str) -> Device | None:
    """Return the scene or script of whose whole name, of several words, a command has a part."""
    said, words = singles(prompt), {*command.mention.singles}
    if not words or command.verb in _ENDING:
        return None
    able = [
        device
        for device in home.devices
        if device.domain in _RUN
        and len(device.name_words) >= _FEWEST_WORDS
        and words <= {*device.name_words}
    ]
    found = [*_meant(able, said)]
    return found[0] if len(found) == 1 else None


def widened(mention: Mention, prompt: str, known: Collection[str], *, is_alone: bool) -> Mention:
    """Return a mention with the words beside it that are words of the home.

    Args:
        mention: Which fits several devices.
        prompt: All that was said.
        known: Words of the home without plurals.
        is_alone: Whether nothing else was asked, and so the word behind it is about it, too.
    """
    said = words_of(prompt)
    places = places_in(said, mention.words)
    if not places or (len(places) > 1 and not is_alone):
        return mention
    start, end = places[0], places[0] + len(mention.words)
    before, behind = said[max(start - 1, 0) : start], said[end : end + is_alone]
    first, last = ([one for one in some if single(one) in known] for some in (before, behind))
    return replace(mention, words=(*first, *mention.words, *last))


def named_after_all(mention: Mention, prompt: str, devices: Sequence[Device]) -> Mention:
    """Return a mention of the device of which a prompt has the whole name.

    A name of one word may be a word like another one where several devices may be meant.

    Args:
        mention: Which names none, and no place.
        prompt: All that was said.
        devices: Which can do what is asked.
    """
    found = [*_meant(devices, singles(prompt))]
    longest = max((len(device.name_words) for device in found), default=0)
    found = [device for device in found if len(device.name_words) == longest]
    fewest = _FEWEST_WORDS if mention.kind in IMPLIED_ALL else 1
    if len(found) != 1 or longest < fewest or mention.place or mention.where:
        return mention
    return replace(mention, kind="", words=words_of(found[0].name.replace("_", " ")))


def named_in_part(mention: Mention, prompt: str, devices: Sequence[Device]) -> Mention:
    """Return a mention of the one device of which a word stands behind "the": "mute the bar".

    Args:
        mention: Which names none, and fits several.
        prompt: All that was said.
        devices: Which can do what is asked.
    """
    words = tuple(map(single, words_of(prompt)))
    behind = {word for before, word in pairwise(words) if before in _DEFINITE} - _PLAYED
    found = [one for one in devices if behind & ({*one.name_words} - {*one.area_words})]
    said = behind.intersection(*(one.name_words for one in found[:1]))
    if len(found) != 1 or said <= words_for(frozenset(KINDS)):
        return mention
    return replace(mention, kind="", words=tuple(said))


def _meant(devices: Sequence[Device], said: tuple[str, ...]) -> Mapping[Device, Sequence[int]]:
    """Return the devices of which the names stand there, and not as exceptions, with where."""
    # Each name once: a stranger's prompt and names may be one word again and again.
    places = {name: places_in(said, name) for name in {one.name_words for one in devices}}
    meant = {
        name
        for name, found in places.items()
        if any(_NOT_MEANT.isdisjoint(said[max(at - 2, 0) : at]) for at in found)
    }
    return {one: places[one.name_words] for one in devices if one.name_words in meant}


def named_instead(mention: Mention, prompt: str, devices: Sequence[Device]) -> Mention:
    """Return a mention of the one device of which a prompt has the whole name.

    Args:
        mention: Which fits none, and says nothing of what it is.
        prompt: All that was said.
        devices: Which can do what is asked.
    """
    said, words = singles(prompt), {*mention.singles}
    able = [
        device
        for device in devices
        if not device.named_stems <= device.nouns
        # "The kitchen jacuzzi" is not the light that is called "Kitchen".
        and words.isdisjoint(device.name_words)
    ]
    found = [
        device
        for device, places in _meant(able, said).items()
        if _BESIDE.isdisjoint(word for at in places for word in said[at - 1 : at])
    ]
    is_elsewhere = mention.words and (mention.place or mention.where)
    if len(found) != 1 or is_elsewhere or {*mention.stems} & words_for(frozenset(KINDS)):
        return mention
    return Mention(words_of(found[0].name.replace("_", " ")))
