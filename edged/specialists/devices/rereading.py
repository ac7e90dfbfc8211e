"""What a prompt itself says once more, where a command that was made of it fits nothing here.

A model that writes commands does not know the home: which word is a part of a name, or whether what
is set to 40 is a lamp or a fan.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Device, Household
from edged.specialists.devices.words import single, singles, words_of

# Services that set a device to a level, and the field that has it.
_LEVELS = {
    "turn_on": "brightness_pct",
    "set_percentage": "percentage",
    "set_cover_position": "position",
    "set_valve_position": "position",
    "volume_set": "volume_level",
    "set_humidity": "humidity",
    "set_temperature": "temperature",
}
_FEWEST_WORDS = 2
_SHARE_OF_ONE = "volume_level"
# A prompt that has one of these says which level it means.
_SAID_LEVELS = re.compile(
    r"bright|dim|speed|volume|loud|open|clos|position|degree|°|temperatur|humid"
)
_PERCENT = re.compile(r"%|per ?cent")
_POLITE = frozenset(
    (
        *("please", "now", "thanks", "thank", "you", "the", "scene", "mode", "routine", "script"),
        *("ok", "hey", "time", "for", "it", "is", "its"),
    )
)
_NAMED_ALONE = ("scene", "script", "button", "input_button")
# No part of a name, unless something here is called so.
_NO_NAMES = frozenset(
    (
        *("turn", "switch", "put", "set", "make", "get", "have", "dim", "open", "close", "shut"),
        *("lock", "unlock", "start", "stop", "pause", "play", "please", "now", "on", "off"),
    )
)
_SWITCHED = re.compile(r"\b(turn|switch|put|power)(ed|ing)?\b.*\b(on|off)\b")
# Commands of which one undoes the other.
_OPPOSITES = (("turn_on", "turn_off"), ("open_cover", "close_cover"), ("lock", "unlock"))
_KEEP = frozenset(("keep", "keeping", "leave", "leaving"))
_DETERMINERS = frozenset(("my", "our", "a", "of", "just", "only", "that", "this", "these", "all"))
_PAIR = frozenset(("both", "2"))


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


def widened(mention: Mention, prompt: str, known: Collection[str]) -> Mention:
    """Return a mention with the words beside it that are words of the home.

    Args:
        mention: Which fits several devices.
        prompt: All that was said.
        known: Words of the home without plurals.
    """
    said, count = words_of(prompt), len(mention.words)
    for start in range(len(said) - count + 1) if count else ():
        if said[start : start + count] == mention.words:
            before, behind = said[max(start - 1, 0) : start], said[start + count :][:1]
            added = ([one for one in some if single(one) in known] for some in (before, behind))
            first, last = added
            return replace(mention, words=(*first, *mention.words, *last))
    return mention


def trimmed(mention: Mention, known: Collection[str]) -> Mention:
    """Return a mention without verbs at its ends: "dim bed left", "bed left please".

    Args:
        mention: Of which something is left, else it stays as it is.
        known: Words of the home without plurals.
    """
    words = [*mention.words]
    while words and words[-1] in _NO_NAMES and words[-1] not in known:
        words.pop()
    while words and words[0] in _NO_NAMES and words[0] not in known:
        words.pop(0)
    return replace(mention, words=tuple(words)) if words else mention


def with_whole_names(
    commands: Sequence[Command], prompt: str, devices: Sequence[Device]
) -> Iterator[Command]:
    """Yield commands with the whole names of which a part was written: "rise" of "Rise and Shine".

    Args:
        commands: In the order in which they were said.
        prompt: All that was said.
        devices: Of the home.
    """
    said, start = singles(prompt), 0
    for command in commands:
        mention = command.mention
        # Of "the lamp left, no, the lamp" the last counts.
        is_corrected = len(commands) == 1 and _stands_alone(mention, said, devices)
        if not is_corrected:
            mention, start = _with_whole_name(mention, said, start, devices)
        left_out = command.left_out
        if left_out is not None:
            left_out, start = _with_whole_name(left_out, said, start, devices)
        yield replace(command, mention=mention, left_out=left_out)


def _stands_alone(mention: Mention, said: tuple[str, ...], devices: Sequence[Device]) -> bool:
    """Tell whether a mention is the whole name of a device, and stands so at the end."""
    words = tuple(map(single, mention.words))
    is_name = any(device.name_words == words for device in devices)
    return is_name and bool(words) and said[-len(words) :] == words


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
    places = [at for at in range(len(said)) if words and said[at : at + len(words)] == words]
    return next((at for at in places if at >= start), places[0] if places else None)


def with_pairs(commands: Sequence[Command], prompt: str) -> Iterator[Command]:
    """Yield commands; those for "both lights" or "the two lights" are for a pair."""
    said = singles(prompt)
    for command in commands:
        mention = command.mention
        is_pair = mention.is_plural and _before(mention, said) in _PAIR
        if is_pair:
            mention = replace(mention, is_all=True, is_pair=True)
        yield replace(command, mention=mention)


def _before(mention: Mention, said: tuple[str, ...]) -> str:
    """Return the word of a prompt that stands before a mention and its determiners."""
    at = _place_in(tuple(map(single, mention.words)), said, 0)
    while at and said[at - 1] in _DETERMINERS:
        at -= 1
    return said[at - 1] if at else ""


def without_kept(commands: Sequence[Command], prompt: str) -> Iterator[Command]:
    """Yield commands, of "turn off the lights and keep the lamp on" one: all lights but the lamp.

    Args:
        commands: In the order in which they were said.
        prompt: All that was said.
    """
    said = singles(prompt)
    before: Command | None = None
    for command in commands:
        if before is not None and _is_kept(before, command, said):
            before = replace(before, left_out=command.mention)
            continue
        if before is not None:
            yield before
        before = command
    if before is not None:
        yield before


def _is_kept(before: Command, command: Command, said: tuple[str, ...]) -> bool:
    """Tell whether a command says what another one is not to change."""
    is_undone = any({before.verb, command.verb} == {*pair} for pair in _OPPOSITES)
    group = before.mention
    is_of_several = group.is_all or group.is_plural or group.kind
    if not (is_undone and is_of_several) or command.data or before.left_out is not None:
        return False
    return _before(command.mention, said) in _KEEP


def named_after_all(mention: Mention, prompt: str, devices: Sequence[Device]) -> Mention:
    """Return a mention of the device of which a prompt has the whole name, of two words at least.

    Args:
        mention: Which names none, and no place.
        prompt: All that was said.
        devices: Which can do what is asked.
    """
    said = singles(prompt)
    found = [device for device in devices if _stands_in(device.name_words, said)]
    longest = max((len(device.name_words) for device in found), default=0)
    found = [device for device in found if len(device.name_words) == longest]
    if len(found) != 1 or longest < _FEWEST_WORDS or mention.place or mention.where:
        return mention
    return replace(mention, kind="", words=words_of(found[0].name.replace("_", " ")))


def _stands_in(words: tuple[str, ...], said: tuple[str, ...]) -> bool:
    return any(said[at : at + len(words)] == words for at in range(len(said) - len(words) + 1))


def switched(command: Command, prompt: str) -> Iterator[Command]:
    """Yield a command that turns on or off, if a prompt says just one of these words."""
    said = {"on", "off"} & {*words_of(prompt)}
    if len(said) == 1 and (not command.data or _SWITCHED.search(prompt.lower())):
        yield replace(command, verb=f"turn_{said.pop()}", data={})


def other_levels(command: Command, prompt: str) -> Iterator[Command]:
    """Yield a command to set a level for devices that have another one, if nothing says which."""
    field = _LEVELS.get(command.verb)
    if field is None or {*command.data} != {field} or _SAID_LEVELS.search(prompt.lower()):
        return
    value = command.data[field]
    percent = round(100 * value) if field == _SHARE_OF_ONE else value
    for verb, name in _LEVELS.items():
        is_share = verb == "set_temperature" and _PERCENT.search(prompt.lower())
        if verb == command.verb or is_share:
            continue
        level = round(percent / 100, 2) if name == _SHARE_OF_ONE else percent
        yield replace(command, verb=verb, data={name: level})
