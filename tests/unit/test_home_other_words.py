"""Words for devices that are no whole names: synonyms, halves of words, and whole groups."""

from typing import Any

import pytest

from tests.unit.test_home_commands import asked, targets

HOUSE = """
valve.orchard | Orchard drip | Garden
valve.zone_a | Zone A | Garden
valve.main | Water main | Cellar
lock.shed | Shed door | Garden
lock.porch | Porch door lock | Porch
lock.safe | Gun safe | Cellar
cover.dining | Dining blind | Dining room | Ground floor
cover.study | Study blackouts | Study | Ground floor
cover.patio | Sunny (awning) | Patio | Ground floor
cover.garage_l | Garage door L | Garage | Ground floor
cover.garage_r | Garage door R | Garage | Ground floor
light.shed | Shed floodlight | Garden
light.dining | Dining bulb | Dining room | Ground floor
light.window | Window candle | Study | Ground floor
light.bed | Nightstand lamp | Attic room
climate.dining | Dining TRV | Dining room | Ground floor
climate.study | Electric heating | Study | Ground floor
climate.attic | Daikin AC | Attic room
switch.vat | Vat rinse | Kitchen
switch.floods | Floods | Porch
switch.espresso | My espresso | Kitchen
switch.computer | Computer plug | Study | Ground floor
fan.breeze | BreezeFan | Attic room
media_player.old | Bakelite radio | Kitchen
light.espresso | Espresso corner | Kitchen
"""
WORDS: dict[str, tuple[str, dict[str, Any], list[str] | str]] = {
    "valves are all of them": (
        "",
        {"do": "close_valve", "what": "valves", "all": True, "except": "water main"},
        ["valve.orchard", "valve.zone_a"],
    ),
    "the valve is rather called so": ("", {"do": "close_valve", "what": "valve"}, ["valve.main"]),
    "a lock's door": ("", {"do": "unlock", "what": "door"}, "ambiguous"),
    "a safe has no door": ("", {"do": "lock", "what": "doors"}, ["lock.shed", "lock.porch"]),
    "the door's name ends so": ("", {"do": "lock", "what": "door"}, ["lock.shed"]),
    "one door": ("Porch", {"do": "lock", "what": "door"}, ["lock.porch"]),
    "covers are no doors": (
        "",
        {"do": "close_cover", "what": "covers", "all": True},
        ["cover.dining", "cover.study", "cover.patio"],
    ),
    "but the awning, which others might be": (
        "",
        {"do": "close_cover", "what": "covers", "all": True, "except": "awning"},
        ["cover.dining", "cover.study"],
    ),
    "at windows": (
        "",
        {"do": "close_cover", "what": "window coverings", "all": True},
        ["cover.dining", "cover.study"],
    ),
    "treatments": (
        "",
        {"do": "open_cover", "what": "window treatments", "in": "study"},
        ["cover.study"],
    ),
    "a window is no covering": ("", {"do": "open_cover", "what": "study window"}, "none"),
    "the left one": ("", {"do": "open_cover", "what": "left garage door"}, ["cover.garage_l"]),
    "as it is written": ("", {"do": "open_cover", "what": "garage door r"}, ["cover.garage_r"]),
    "a half of a word": ("", {"what": "shed flood"}, ["light.shed"]),
    "a brand in one word with a noun": ("", {"what": "breeze"}, ["fan.breeze"]),
    "the whole word": ("", {"what": "breezefan"}, ["fan.breeze"]),
    "the other synonym": ("", {"what": "bedside lamp"}, ["light.bed"]),
    "by the bed": ("", {"what": "lamp by the bed"}, ["light.bed"]),
    "by my bed": ("", {"what": "the attic room lamp by my bed"}, ["light.bed"]),
    "a radio": ("", {"what": "wireless"}, ["media_player.old"]),
    "a computer": ("", {"what": "pc"}, ["switch.computer"]),
    "a machine's plug": ("", {"what": "espresso machine"}, ["switch.espresso"]),
    "no machine of a lamp": ("", {"what": "nightstand machine"}, "none"),
    "no machine alone": ("", {"what": "machine"}, "none"),
    "heating by radiators": (
        "Dining room",
        {"do": "set_temperature", "what": "heating", "temperature": 20},
        ["climate.dining"],
    ),
    "heating that is called so": (
        "",
        {"do": "set_temperature", "what": "heating", "temperature": 20},
        ["climate.study"],
    ),
    "no heating by an air conditioner": (
        "",
        {"do": "set_temperature", "what": "heating", "in": "attic room", "temperature": 20},
        "none",
    ),
    "an air conditioner": ("", {"do": "turn_off", "what": "air con"}, ["climate.attic"]),
    "an air conditioner by two letters": ("", {"what": "the A/C"}, ["climate.attic"]),
    "what is done with it": ("", {"what": "rinsing the vat"}, ["switch.vat"]),
    "all that waters": (
        "",
        {"do": "close_valve", "kind": "sprinkler", "in": "garden", "all": True},
        ["valve.orchard", "valve.zone_a"],
    ),
    "tomatoes are plants": (
        "",
        {"do": "open_valve", "kind": "sprinkler", "what": "tomatoes", "in": "garden"},
        "ambiguous",
    ),
}


@pytest.mark.parametrize(("area", "said", "expected"), WORDS.values(), ids=WORDS)
def test_other_words_mean_devices(
    area: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets(area, home=HOUSE, **said) == expected


def test_a_plug_heats_where_nothing_else_does() -> None:
    home = "switch.heater | Den space heater | Den\nswitch.block | Block heater | Garage"
    warm = {"kind": "heating"}
    assert targets(home=home, **warm) == ["switch.heater"]
    assert targets(home=home + "\nswitch.bath | Bath heater | Bath", **warm) == "ambiguous"
    assert targets(home=home + "\nclimate.bath | Nest | Bath", **warm) == ["climate.bath"]
    assert targets(home="switch.block | Block heater | Garage", **warm) == "none"


def test_the_end_of_a_word_names_what_nothing_else_is_called() -> None:
    home = """
    media_player.radio | Küchenradio | Kitchen
    fan.bath | Bath Badlüfter | Bath
    light.house | Greenhouse | Garden
    lock.front | Frontschloss | Hall
    """
    assert targets(home=home, what="radio") == ["media_player.radio"]
    assert targets(home=home, what="bath lüfter") == ["fan.bath"]
    assert targets(home=home, what="hall lüfter") == "none"
    assert targets(home=home, what="house") == "none"
    assert targets(home=home, do="unlock", what="schloss") == "none"
    home += "media_player.old | Radio | Hall"
    assert targets(home=home, what="radio") == ["media_player.old"]


def test_what_stands_behind_the_name_switches_it() -> None:
    said = ({"do": "open_valve", "what": "floods"}, {"do": "turn_off", "what": "shed floodlight"})
    assert asked(*said, prompt="floods on, shed floodlight off", home=HOUSE) == [
        ("switch.turn_on", ["switch.floods"], {}),
        ("light.turn_off", ["light.shed"], {}),
    ]
