"""What a prompt says of the devices that commands name, before these are looked for.

A model that writes commands knows no names: it may write a part of one, or a verb with it, and for
two or for none what the prompt says of several.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Device, Household
from edged.specialists.devices.words import places_in, single, singles

# No part of a name, unless something here is called so.
_NO_NAMES = frozenset(
    (
        *("turn", "switch", "put", "set", "make", "get", "have", "dim", "open", "close", "shut"),
        *("lock", "unlock", "start", "stop", "pause", "play", "mute", "oscillate", "please", "now"),
        *("on", "off", "to", "too", "two", "poor", "old", "dear"),
    )
)
# Commands of which one undoes the other.
_OPPOSITES = (("turn_on", "turn_off"), ("open_cover", "close_cover"), ("lock", "unlock"))
_OTHERWISE = {("turn_on", "off"): "turn_off", ("turn_off", "on"): "turn_on"}
_KEEP = frozenset(("keep", "keeping", "leave", "leaving"))
_DETERMINERS = frozenset(("my", "our", "a", "of", "just", "only", "that", "this", "these", "all"))
_PAIR = frozenset(("both", "2"))
_CORRECTING = frozenset(("no", "wait", "sorry", "mean", "actually"))
# Said before what is there: "upstairs, lights off".
_FIRST = re.compile(r"(?:(?:in|on|at) )?(?:the |my )?([^,:]{2,40}?) ?[,:]", re.IGNORECASE)


def as_said(commands: Sequence[Command], prompt: str, home: Household) -> list[Command]:
    """Return commands for the devices that a prompt names.

    Args:
        commands: As a model wrote them, in the order in which they were said.
        prompt: All that was said.
        home: Its devices, and how they are called.
    """
    said = singles(prompt)
    trimmed = [_trimmed(one, home.known) for one in commands]
    whole = _with_whole_names(trimmed, said, home.devices)
    placed = _with_the_first_place([_for_a_pair(one, said) for one in whole], prompt, home)
    return _without_kept(placed, said)


def _trimmed(command: Command, known: Collection[str]) -> Command:
    """Return a command without verbs at the ends of a name, if more is left: "dim bed left"."""
    words, verb = [*command.mention.words], command.verb
    while words and words[-1] in _NO_NAMES and single(words[-1]) not in known:
        verb = _OTHERWISE.get((verb, words.pop()), verb)
    while words and words[0] in _NO_NAMES and words[0] not in known:
        words.pop(0)
    if not words:
        return command
    return replace(command, verb=verb, mention=replace(command.mention, words=tuple(words)))


def _with_the_first_place(
    commands: Sequence[Command], prompt: str, home: Household
) -> list[Command]:
    """Return commands for the place with which a prompt begins, where they say none themselves."""
    found = _FIRST.match(prompt)
    place = singles(found[1]) if found else ()
    if not place or place not in {singles(name) for name in (*home.areas, *home.floors)}:
        return [*commands]
    return [_in_place(command, place) for command in commands]


def _in_place(command: Command, place: tuple[str, ...]) -> Command:
    mention = command.mention
    if mention.place or mention.where:
        return command
    words, count = tuple(map(single, mention.words)), len(place)
    if words[:count] == place and words[count:]:
        mention = replace(mention, words=mention.words[count:])
    return replace(command, mention=replace(mention, place=place))


def _with_whole_names(
    commands: Sequence[Command], said: tuple[str, ...], devices: Sequence[Device]
) -> Iterator[Command]:
    """Yield commands with the whole names of which a part was written: "rise and shine"."""
    start = 0
    for command in commands:
        mention = command.mention
        if len(commands) == 1 and _CORRECTING & {*said}:  # the last counts
            start = max(places_in(said, tuple(map(single, mention.words))), default=0)
        mention, start = _with_whole_name(mention, said, start, devices)
        left_out = command.left_out
        if left_out is not None:
            left_out, start = _with_whole_name(left_out, said, start, devices)
        yield replace(command, mention=mention, left_out=left_out)


def _with_whole_name(
    mention: Mention, said: tuple[str, ...], start: int, devices: Sequence[Device]
) -> tuple[Mention, int]:
    """Return a mention, and where in the prompt it ends, looked for behind ``start`` first."""
    words, place = tuple(map(single, mention.words)), {*map(single, mention.place)}
    at = _place_in(words, said, start)
    if at is None:
        return mention, start
    end, longest, ends = at + len(words), words, at + len(words)
    for device in devices:
        name = device.name_words
        is_other = mention.is_all or mention.is_plural > device.is_plural
        if len(name) <= len(longest) or is_other or place & {*name}:
            continue
        starts = range(max(end - len(name), 0), at + 1)
        if found := [one for one in starts if said[one : one + len(name)] == name]:
            longest, ends = name, found[0] + len(name)
    return (mention if longest is words else replace(mention, words=longest)), ends


def _place_in(words: tuple[str, ...], said: tuple[str, ...], start: int) -> int | None:
    """Return where some words stand, rather behind ``start``; None where they do not."""
    places = places_in(said, words)
    return next((at for at in places if at >= start), places[0] if places else None)


def _for_a_pair(command: Command, said: tuple[str, ...]) -> Command:
    """Return a command; one for "both lights" or "the two lights" is for a pair."""
    mention = command.mention
    if mention.is_plural and _before(mention, said) in _PAIR:
        mention = replace(mention, is_all=True, is_pair=True)
    return replace(command, mention=mention)


def _before(mention: Mention, said: tuple[str, ...]) -> str:
    """Return the word of a prompt that stands before a mention and its determiners."""
    at = _place_in(tuple(map(single, mention.words)), said, 0)
    while at and said[at - 1] in _DETERMINERS:
        at -= 1
    return said[at - 1] if at else ""


def _without_kept(commands: Sequence[Command], said: tuple[str, ...]) -> list[Command]:
    """Return "turn off the lights and keep the lamp on" as one command: all lights but the lamp."""
    kept: list[Command] = []
    for command in commands:
        if kept and _is_kept(kept[-1], command, said):
            kept[-1] = replace(kept[-1], left_out=command.mention)
        else:
            kept.append(command)
    return kept


def _is_kept(before: Command, command: Command, said: tuple[str, ...]) -> bool:
    """Tell whether a command says what another one is not to change."""
    is_undone = any({before.verb, command.verb} == {*pair} for pair in _OPPOSITES)
    group = before.mention
    is_of_several = group.is_all or group.is_plural or group.kind
    if not (is_undone and is_of_several) or command.data or before.left_out is not None:
        return False
    return _before(command.mention, said) in _KEEP
