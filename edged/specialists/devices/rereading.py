"""What a prompt itself says once more, where a command that was made of it fits nothing here.

A model that writes commands does not know the home: which word is a part of a name, or whether what
is set to 40 is a lamp or a fan.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Device, Household
from edged.specialists.devices.words import places_in, single, singles, words_of

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
_EXCEPTING = re.compile(r"\b(except|excepting|accept|but|bar|besides|apart|keep|leave|without)\b")
_OPENING = re.compile(r"\b(open|unlock|disarm)( up)? (everything|it all|all)\b")
_SWITCHED = re.compile(r"\b(turn|switch|put|power)(ed|ing)?\b.*\b(on|off)\b")


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
    said = words_of(prompt)
    places = places_in(said, mention.words)
    if not places:
        return mention
    start, end = places[0], places[0] + len(mention.words)
    before, behind = said[max(start - 1, 0) : start], said[end : end + 1]
    first, last = ([one for one in some if single(one) in known] for some in (before, behind))
    return replace(mention, words=(*first, *mention.words, *last))


def named_after_all(mention: Mention, prompt: str, devices: Sequence[Device]) -> Mention:
    """Return a mention of the device of which a prompt has the whole name, of two words at least.

    Args:
        mention: Which names none, and no place.
        prompt: All that was said.
        devices: Which can do what is asked.
    """
    said = singles(prompt)
    found = [device for device in devices if places_in(said, device.name_words)]
    longest = max((len(device.name_words) for device in found), default=0)
    found = [device for device in found if len(device.name_words) == longest]
    if len(found) != 1 or longest < _FEWEST_WORDS or mention.place or mention.where:
        return mention
    return replace(mention, kind="", words=words_of(found[0].name.replace("_", " ")))


def opens_everything(command: Command, prompt: str) -> bool:
    """Tell whether everything is to be opened, which no command turns on or off."""
    return command.mention.kind == "everything" and bool(_OPENING.search(prompt.lower()))


def is_exception(command: Command, before: Command, prompt: str) -> bool:
    """Tell whether a command for one of those before is an exception: "all but A and B"."""
    is_same = (command.verb, command.data) == (before.verb, before.data)
    is_of_all = before.mention.is_all or before.left_out is not None
    return is_same and is_of_all and bool(_EXCEPTING.search(prompt.lower()))


def switched(command: Command, prompt: str) -> Iterator[Command]:
    """Yield a command that turns on or off, if a prompt says just one of these words."""
    said = {"on", "off"} & {*words_of(prompt)}
    is_level = {*command.data} <= {*_LEVELS.values()} and _SWITCHED.search(prompt.lower())
    if len(said) == 1 and (not command.data or is_level):
        yield replace(command, verb=f"turn_{said.pop()}", data={})


def other_services(command: Command) -> Iterator[Command]:
    """Yield what is asked of other devices by the same words."""
    if command.verb.startswith("stop") and not command.data:
        yield replace(command, verb="turn_off")
    if {*command.data} == {"preset_mode"}:
        data = {"operation_mode": command.data["preset_mode"]}
        yield replace(command, verb="set_operation_mode", data=data)


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
