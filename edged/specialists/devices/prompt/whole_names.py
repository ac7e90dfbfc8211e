"""Where the names of devices stand in a prompt, of which a model may have written a part."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Household
from edged.specialists.devices.places import place_called
from edged.specialists.devices.words import places_in, single

_OWNED_BY = frozenset(("his", "her", "their"))
_CORRECTING = frozenset(("no", "wait", "sorry", "mean", "actually"))
_DETERMINERS = frozenset(("my", "our", "a", "of", "just", "only", "that", "this", "these", "all"))


def with_whole_names(
    commands: Sequence[Command], said: tuple[str, ...], home: Household
) -> Iterator[Command]:
    """Yield commands with the whole names of which a part was written: "rise and shine"."""
    start = 0
    if not all({*one.mention.singles} <= home.known for one in commands):
        said = home.speller.repaired(said)  # "path ligths"
    for command in commands:
        mention = command.mention
        if len(commands) == 1 and _CORRECTING & {*said}:  # the last counts
            start = max(places_in(said, mention.singles), default=0)
        mention, start = _with_whole_name(mention, said, start, home)
        left_out = command.left_out
        if left_out is not None:
            left_out, start = _with_whole_name(left_out, said, start, home)
        yield replace(command, mention=mention, left_out=left_out)


def _with_whole_name(
    mention: Mention, said: tuple[str, ...], start: int, home: Household
) -> tuple[Mention, int]:
    """Return a mention, and where in the prompt it ends, looked for behind ``start`` first."""
    words, place = mention.singles, {*map(single, mention.place)}
    there = place_called(home, mention.place) if place else None
    words = words if {*words} <= home.known else home.speller.repaired(words)
    at = _place_in(words, said, start)
    if at is None:
        return mention, start
    end, longest, ends = at + len(words), words, at + len(words)
    for device in home.devices:
        name = device.name_words
        is_other = mention.is_all or mention.is_plural > device.is_plural
        is_other |= bool(there and device.area and not there.has(device))
        if len(name) <= len(longest) or is_other or not place.isdisjoint(name):
            continue
        first = max(end - len(name), 0)
        if found := places_in(said[first : at + len(name)], name):
            longest, ends = name, first + found[0] + len(name)
    return (mention if longest is words else replace(mention, words=longest)), ends


def _place_in(words: tuple[str, ...], said: tuple[str, ...], start: int) -> int | None:
    """Return where some words stand, rather behind ``start``; None where they do not."""
    places = places_in(said, words)
    return next((at for at in places if at >= start), places[0] if places else None)


def word_before(mention: Mention, said: tuple[str, ...]) -> str:
    """Return the word of a prompt that stands before a mention and its determiners."""
    at = place_before(mention, said, _DETERMINERS)
    return "" if at is None else said[at]


def place_before(
    mention: Mention, said: tuple[str, ...], passed_over: Collection[str]
) -> int | None:
    """Return where the word stands that is before a mention and certain others, if one is."""
    at = _place_in(mention.singles, said, 0) or 0
    return next((i for i in range(at)[::-1] if said[i] not in passed_over), None)


def with_owner(command: Command, said: tuple[str, ...], home: Household) -> Command:
    """Return a command for what is of the one person whom a prompt names.

    Args:
        command: For "the lamp".
        said: All that was said, without plurals: "Toms asleep, his lamp off".
        home: In which an area or a device has the name of the person: "Tom's room".
    """
    mention = command.mention
    if mention.words[1:] and mention.words[0] in _OWNED_BY - home.known:
        mention = replace(mention, words=mention.words[1:])
        command = replace(command, mention=mention)
    if not mention.words or word_before(mention, said) not in _OWNED_BY:
        return command
    named = home.owners & {*said}
    wanted = {*mention.stems, *named}
    if len(named) != 1 or not any(wanted <= one.vocabulary for one in home.devices):
        return command
    return replace(command, mention=replace(mention, words=(*named, *mention.words)))
