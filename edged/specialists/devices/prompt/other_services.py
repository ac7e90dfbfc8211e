"""What is asked by a prompt's words, where a command that was made of it fits nothing here.

A model that writes commands does not know the home: whether what is set to 40 is a lamp or a fan.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.household import Found
from edged.specialists.devices.prompt.whole_names import place_before, word_before
from edged.specialists.devices.words import places_in, singles, words_of

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
# Said of lights alone.
_OF_LIGHTS = frozenset(
    ("brightness_pct", "brightness_step_pct", "color_name", "color_temp_kelvin", "rgb_color")
)
# What a service needs, where it is not said.
_USUAL = {"oscillate": {"oscillating": True}, "volume_mute": {"is_volume_muted": True}}
# What a name says that may be a television's or a loudspeaker's.
_PLAYERS = frozenset(("tv", "speaker"))
_FAN_MODES = {33: "low", 66: "medium", 100: "high"}
_OF_FANS = frozenset(("fan", "mode", "speed", "blower"))
_SWITCHES = {"stop": "turn_off", "start": "turn_on"}
# "Let the fountain run", which is a pump's plug.
_OF_VALVES = {"open_valve": "turn_on", "close_valve": "turn_off"}
# Said before a name where another service was written, and the service that it means.
_SAID_BEFORE = {
    "stop": "stop",
    "pause": "pause",
    "start": "start",
    "run": "start",
    "close": "close_cover",
    "shut": "close_cover",
    "lock": "lock",
}
# Said alike of lamps, of loudspeakers and of fans: "up a notch".
_STEPS = (
    {"turn_on": {"brightness_step_pct": 20}, "volume_up": {}, "increase_speed": {}},
    {"turn_on": {"brightness_step_pct": -20}, "volume_down": {}, "decrease_speed": {}},
)
# Of a thermostat, what is said of an alarm.
_PRESETS = {"alarm_arm_away": "away", "alarm_arm_home": "home", "alarm_arm_night": "sleep"}
_SHARE_OF_ONE = "volume_level"
# A prompt that has one of these says which level it means; of "loud", which one that is.
_SAID_LEVELS = re.compile(
    r"bright|dim|speed|volume|open|clos|position|degree|°|temperatur|humidity"
)
_LOUD = re.compile(r"\b(?:loud|louder|quiet|quieter|volume)\b")
_PERCENT = re.compile(r"%|per ?cent")
_SWITCHING = re.compile(r"\b(?:turn|switch|put|power)(?:ed|ing)?\b")
_ON_OR_OFF = re.compile(r"\b(?:on|off)\b")
_FULL = re.compile(
    r"\b(?:all the way(?: up)?[.!]*$|full (?:blast|speed|power|tilt)|flat out|top speed"
    r"|(?:to|at|on) (?:the )?max(?:imum)?\b)"
)
_FLIPPED = {"on": "turn_on", "off": "turn_off"}
_POWERED = {"up": "turn_on", "down": "turn_off", **_FLIPPED}
# What a model writes for "power the fan up"; "toggle" for "flip the fan on".
_TAKEN_FOR_SWITCHES = frozenset(
    (
        *("turn_on", "turn_off", "toggle", "increase_speed", "decrease_speed"),
        *("volume_up", "volume_down"),
    )
)
_KILL = frozenset(("kill", "cut", "douse"))
_BEFORE_NAMES = frozenset(("up", "down", "all", "my", "our", "every", "each", "both", "of"))


def powered(command: Command, said: tuple[str, ...]) -> Command:
    """Return a command; "power the lamp down", "kill it" and "flip it off" turn off.

    Args:
        command: Of any kind.
        said: All that was said, without plurals.
    """
    is_plain = {*command.data} <= {"brightness_step_pct"}
    places = places_in(said, command.mention.singles)
    if command.verb not in _TAKEN_FOR_SWITCHES or not is_plain or not places:
        return command
    before = place_before(command.mention, said, _BEFORE_NAMES)
    if before is not None and said[before] == "power":
        ends, words = _POWERED, said[before:]
    elif before is not None and said[before] in _KILL:
        is_on = command.verb == "turn_on" and not command.data
        return replace(command, verb="turn_off") if is_on else command
    elif command.verb == "toggle" and "toggle" not in said:
        ends, words = _FLIPPED, said[places[0] :]
    else:
        return command
    verb = next((ends[word] for word in words if word in ends), None)
    return command if verb is None else replace(command, verb=verb, data={})


def switched(command: Command, prompt: str) -> Iterator[Command]:
    """Yield a command that turns on or off, if a prompt says just one of these words."""
    said = {"on", "off"} & {_word_behind(command.mention, singles(prompt))}
    said = said or {"on", "off"} & {*words_of(prompt)}
    verb = _SWITCHING.search(prompt.lower())
    is_switched = verb and _ON_OR_OFF.search(prompt.lower(), verb.end())
    is_level = {*command.data} <= {*_LEVELS.values()} and is_switched
    if len(said) == 1 and (not command.data or is_level):
        yield replace(command, verb=f"turn_{said.pop()}", data={})


def _word_behind(mention: Mention, said: tuple[str, ...]) -> str:
    """Return what stands behind a mention: "on" of "barn floods on, porch light off"."""
    words = mention.singles
    behind = [said[at + len(words) : at + len(words) + 3] for at in places_in(said, words)]
    # Not of "the kettle on and off".
    return next((one[0] for one in behind if one and not {"on", "off"} <= {*one}), "")


def other_services(command: Command, prompt: str) -> Iterator[Command]:
    """Yield what is asked of other devices by the same words."""
    for verb, data in _otherwise(command.verb, command.data):
        yield replace(command, verb=verb, data=data)
    if command.verb in _OF_VALVES and {"on", "off"}.isdisjoint(words_of(prompt)):
        yield replace(command, verb=_OF_VALVES[command.verb])
    if verb := _SAID_BEFORE.get(word_before(command.mention, singles(prompt)), ""):
        yield replace(command, verb=verb, data={})


def started(command: Command, found: Found, prompt: str) -> Command:
    """Return a command; "start the white noise" plays it, where something else was written."""
    is_player = isinstance(found, tuple) and all(one.kinds >= _PLAYERS for one in found)
    said = singles(prompt)
    is_start = word_before(command.mention, said) == "start" and "up" not in said
    is_plain = command.verb == "turn_on" and not command.data
    return replace(command, verb="media_play") if is_player and is_start and is_plain else command


def at_full(command: Command, found: Found, prompt: str) -> Command:
    """Return the only command; "crank the fan all the way" is for 100 %, not only for on."""
    is_fan = isinstance(found, tuple) and all(one.domain == "fan" for one in found)
    is_plain = command.verb == "turn_on" and not command.data
    if not (is_fan and is_plain and _FULL.search(prompt.lower())):
        return command
    return replace(command, verb="set_percentage", data={"percentage": 100})


def _otherwise(verb: str, data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not data:
        yield from ((other, {}) for said, other in _SWITCHES.items() if verb.startswith(said))
        if verb in _USUAL:
            yield verb, _USUAL[verb]
    elif {*data} <= _OF_LIGHTS and verb != "turn_on":
        yield "turn_on", data
    elif {*data} == {"preset_mode"}:
        yield "set_operation_mode", {"operation_mode": data["preset_mode"]}
    if verb in _PRESETS:
        yield "set_preset_mode", {"preset_mode": _PRESETS[verb]}
    for steps in _STEPS:
        if steps.get(verb) == data:
            yield from steps.items()


def fan_modes(command: Command, prompt: str) -> Iterator[Command]:
    """Yield a command for the fan of an air conditioner, which has modes and no percentage."""
    if command.verb not in ("set_percentage", "set_fan_mode") or "fan_mode" in command.data:
        return
    said = {*words_of(prompt)}
    named = _FAN_MODES.get(command.data.get("percentage", 0))
    words = tuple(word for word in command.mention.words if word not in _OF_FANS)
    for mode in (named,) if named else (*_FAN_MODES.values(), "auto"):
        if mode in said and words:
            mention = replace(command.mention, words=words)
            yield replace(command, verb="set_fan_mode", mention=mention, data={"fan_mode": mode})


def other_levels(command: Command, prompt: str) -> Iterator[Command]:
    """Yield a command to set a level for devices that have another one, if nothing says which."""
    field = _LEVELS.get(command.verb)
    if field is None or {*command.data} != {field} or _SAID_LEVELS.search(prompt.lower()):
        return
    value = command.data[field]
    percent = round(100 * value) if field == _SHARE_OF_ONE else value
    is_loud = _LOUD.search(prompt.lower())
    for verb, name in _LEVELS.items():
        if is_loud and name != _SHARE_OF_ONE:
            continue
        is_share = verb == "set_temperature" and _PERCENT.search(prompt.lower())
        if verb == command.verb or is_share:
            continue
        level = round(percent / 100, 2) if name == _SHARE_OF_ONE else percent
        yield replace(command, verb=verb, data={name: level})
