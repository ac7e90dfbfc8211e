"""Several devices that are meant together: of a floor, of the asker's area, two, all that heats."""

from typing import Any

import pytest

from tests.unit.test_home_commands import asked, targets

HOUSE = """
light.spots | Loft spots | Loft | Level 1
light.bar_spots | Bar spots | Bar | Level 0
light.bar_shelf | Shelf | Bar | Level 0
switch.mixer | Mixer | Bar | Level 0
switch.oven | Oven | Pantry | Level 0
switch.iron | Iron | Pantry | Level 0
cover.bar_shade | Bar shade | Bar | Level 0
cover.store | Stores | Loft | Level 1
climate.loft | Loft TRV | Loft | Level 1
climate.nook | Nook TRV | Nook | Level 1
climate.bar | Bar thermostat | Bar | Level 0
lock.loft | Loft door | Loft | Level 1
lock.nook | Nook door | Nook | Level 1
lock.bar | Bar door | Bar | Level 0
valve.back | Zone 1 (back lawn) | Garden
valve.front | Zone 2 (front lawn) | Garden
valve.drip | Drip | Polytunnel
"""
TO_20: dict[str, Any] = {"do": "set_temperature", "temperature": 20}
WATER = {"do": "open_valve", "kind": "sprinkler"}
GROUPS: dict[str, tuple[str, str, dict[str, Any], list[str] | str]] = {
    "a floor that is set to degrees": (
        "",
        "set level one to 20",
        {**TO_20, "what": "level one"},
        ["climate.loft", "climate.nook"],
    ),
    "no floor of the kind": ("", "set level 7 to 20", {**TO_20, "what": "level 7"}, "none"),
    "no floor, but all that heats": ("", "heat to 20", {**TO_20, "kind": "boiler"}, "none"),
    "the heating of a floor": (
        "",
        "level 1 heating to 20",
        {**TO_20, "what": "level 1 heating"},
        ["climate.loft", "climate.nook"],
    ),
    "their own noun, in the asker's area": (
        "Bar",
        "spots on",
        {"what": "spots"},
        ["light.bar_spots"],
    ),
    "their own noun, anywhere": (
        "",
        "spots on",
        {"what": "spots"},
        ["light.spots", "light.bar_spots"],
    ),
    "what covers the asker's windows": (
        "Loft",
        "close the shades",
        {"do": "close_cover", "what": "shades"},
        ["cover.store"],
    ),
    "all shades": (
        "Loft",
        "close all shades",
        {"do": "close_cover", "what": "shades", "all": True},
        ["cover.bar_shade"],
    ),
    "two in the asker's area": (
        "Pantry",
        "turn both machines on",
        {"kind": "everything", "all": True},
        ["switch.oven", "switch.iron"],
    ),
    "two of many": ("", "turn both on", {"kind": "everything", "all": True}, "ambiguous"),
    "the lawn by its name": (
        "",
        "water the back lawn",
        {**WATER, "what": "back lawn"},
        ["valve.back"],
    ),
    "what is watered there": (
        "",
        "give the peppers in the polytunnel a drink",
        {**WATER, "what": "peppers", "in": "polytunnel"},
        ["valve.drip"],
    ),
    "nobody knows which lawn": ("", "water the lawn", {**WATER, "what": "lawn"}, "ambiguous"),
}


@pytest.mark.parametrize(("area", "prompt", "said", "expected"), GROUPS.values(), ids=GROUPS)
def test_several_are_meant(
    area: str, prompt: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets(area, prompt, home=HOUSE, **said) == expected


HEATING = {**TO_20, "what": "level 1 heating"}
LOCKS = {"do": "lock", "kind": "lock", "all": True}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("level 1 heating to 20 and lock both rooms up there", ["lock.loft", "lock.nook"]),
        ("level 1 heating to 20 and lock all", ["lock.loft", "lock.nook", "lock.bar"]),
    ],
)
def test_there_is_the_place_before(prompt: str, expected: list[str]) -> None:
    found = asked(HEATING, LOCKS, prompt=prompt, home=HOUSE)
    assert found[1:] == [("lock.lock", expected, {})]


def test_nothing_is_there_where_no_place_was_said() -> None:
    mixer = {"do": "turn_on", "what": "mixer"}
    found = asked(mixer, LOCKS, prompt="mixer on and lock up over there", home=HOUSE)
    assert found[1:] == [("lock.lock", ["lock.loft", "lock.nook", "lock.bar"], {})]
