"""What actions do to a home, so that two answers can be compared by that.

Rule: neither the order of actions and targets counts, nor which of two services does the same.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_DIGITS = 3
# What one service does with some data, another does as well.
_OPEN, _CLOSED = 100, 0
_POSITIONS = {
    "cover.open_cover": _OPEN,
    "cover.close_cover": _CLOSED,
    "valve.open_valve": _OPEN,
    "valve.close_valve": _CLOSED,
    "cover.open_cover_tilt": _OPEN,
    "cover.close_cover_tilt": _CLOSED,
}
# A service of these has an effect each time that it is called.
_EVENTS = frozenset(
    (
        "toggle",
        "press",
        "volume_up",
        "volume_down",
        "media_next_track",
        "media_previous_track",
        "increase_speed",
        "decrease_speed",
        "add_item",
        "update_item",
        "remove_item",
        "clean_spot",
        "locate",
    )
)

Effect = tuple[str, str, object]
"""Device, what of it changes, and what that becomes."""


def same_actions(answer: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    """Tell whether two answers, as in ``data.json``, do the same.

    Args:
        answer: The one that was given. What is no answer is the same as none.
        expected: The right one.
    """
    wanted = expected["actions"]
    if not wanted:
        return answer.get("actions") == [] and answer.get("reason") == expected["reason"]
    try:
        return effects(answer["actions"]) == effects(wanted)
    except (AttributeError, LookupError, TypeError):
        return False


def effects(actions: Sequence[Mapping[str, Any]]) -> Counter[Effect]:
    """Return what actions do; of what is set twice, only the last counts."""
    states: dict[tuple[str, str], object] = {}
    events: Counter[Effect] = Counter()
    for action in actions:
        service, data = str(action["service"]), action.get("data") or {}
        for target in action["target"]:
            if service.split(".")[1] in _EVENTS:
                events[target, service, _comparable(data)] += 1
                continue
            for name, value in _changes(service, data):
                if name == "brightness_step_pct":
                    events[target, name, value] += 1
                else:
                    states[target, name] = value
    return events + Counter((target, name, value) for (target, name), value in states.items())


def _changes(service: str, data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what of a device a service changes, and to what."""
    domain, verb = service.split(".")
    if service in _POSITIONS:
        yield "tilt" if service.endswith("tilt") else "position", _POSITIONS[service]
    elif verb == "turn_off" or (service, data.get("percentage")) == ("fan.set_percentage", 0):
        yield "on", False
    elif verb in ("turn_on", "set_percentage") or service in (
        "climate.set_hvac_mode",
        "humidifier.turn_on",
    ):
        # A light that gets dimmer by a step is not turned on by that.
        if "brightness_step_pct" not in data:
            yield "on", data.get("hvac_mode") != "off"
        yield from _fields(data)
    elif not data:
        yield "state" if domain != "media_player" else "playback", verb
    else:
        yield from _fields(data)


def _fields(data: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield each field of the data."""
    names = {"tilt_position": "tilt"}
    yield from ((names.get(name, name), _comparable(value)) for name, value in data.items())


def _comparable(value: object) -> object:
    """Return a value so that equal ones are equal: text without case, numbers rounded."""
    if isinstance(value, Mapping):
        return tuple(sorted((name, _comparable(part)) for name, part in value.items()))
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return round(float(value), _DIGITS)
    return " ".join(str(value).casefold().split())
