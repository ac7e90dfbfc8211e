"""Commands for a home: from what a model says to the devices that are meant, by rules."""

import json
from typing import Any

import pytest

from edged.specialists.compact.named import InputsError
from edged.specialists.compact.shapes import AnswerError, ShapeError
from edged.specialists.devices import words
from edged.specialists.devices.command import form_of
from edged.specialists.devices.household import Household
from edged.specialists.devices.kinds import kinds_of
from edged.specialists.devices.meaning import HomeMeaning, home_services
from edged.specialists.devices.prompt import named
from edged.specialists.devices.words import Speller, stems
from edged.specialists.hearing import MAX_CHARACTERS
from edged.specialists.wording import Wording, wording_of_schema
from models.specialists.home.generator.effects import same_actions
from models.specialists.home.generator.examples import make_many
from models.specialists.home.generator.shape import schema, services

Actions = list[tuple[str, list[str], dict[str, Any]]]
MEANING = HomeMeaning(services())
HOME = """
light.desk | Desk lamp | Office | Upstairs
light.ceiling | Ceiling light | Office | Upstairs
light.hob | Hob light | Kitchen | Ground Floor
light.island | Island | Kitchen | Ground Floor
light.path_1 | Path lights | Garden
fan.office | Fan | Office | Upstairs
fan.desk | Desk fan | Office | Upstairs
cover.office | Blind | Office | Upstairs
cover.kitchen_left | Kitchen blind left | Kitchen | Ground Floor
cover.kitchen_right | Kitchen blind right | Kitchen | Ground Floor
cover.markise | Markise | Terrace
cover.garage | Garage door | Garage | Ground Floor
cover.gate | Yard gate | Garden
lock.front | Front door | Hall | Ground Floor
lock.back | Back door | Kitchen | Ground Floor
media_player.oled | LG OLED | Lounge | Ground Floor
media_player.sonos | Sonos | Lounge | Ground Floor
climate.lounge | Radiator | Lounge | Ground Floor
climate.office | Hive | Office | Upstairs
valve.beds | Raised beds | Garden
valve.lawn | Lawn sprinkler | Garden
vacuum.up | Dusty | Office | Upstairs
vacuum.down | Rosie | Hall | Ground Floor
switch.kettle | Kettle | Kitchen | Ground Floor
humidifier.levoit | Levoit | Office | Upstairs
todo.food | Groceries
todo.chores | Chores
scene.film | Film night
script.leave | Leave the house
button.hub | Reboot hub
sensor.hall | Hall motion | Hall | Ground Floor
water_heater.boiler | Boiler | Cellar
alarm_control_panel.home | Alarmo
"""


def inputs(area: str = "", home: str = HOME) -> dict[str, Any]:
    names = ("id", "name", "area", "floor")
    devices = [
        dict(zip(names, (part.strip() for part in line.split("|")), strict=False))
        for line in home.strip().splitlines()
    ]
    return {"devices": devices} | ({"area": area} if area else {})


def asked(
    *commands: dict[str, Any], area: str = "", prompt: str = "", home: str = HOME
) -> Actions | str:
    """Return the actions as tuples, or why there are none."""
    answer = MEANING.actions({"commands": [*commands]}, inputs(area, home), prompt)
    if not answer["actions"]:
        return str(answer["reason"])
    return [(one["service"], one["target"], one["data"]) for one in answer["actions"]]


def targets(
    area: str = "",
    prompt: str = "",
    home: str = HOME,
    **said: Any,  # noqa: ANN401 - of JSON
) -> list[str] | str:
    """Return the devices of one command, which turns on where nothing else is said."""
    found = asked({"do": "turn_on", **said}, area=area, prompt=prompt, home=home)
    return found if isinstance(found, str) else [one for _, some, _ in found for one in some]


NAMES = {
    "a whole name": ({"what": "desk lamp"}, ["light.desk"]),
    "with an article and capitals": ({"what": "The DESK LAMP"}, ["light.desk"]),
    "half of a name": ({"what": "hob"}, ["light.hob"]),
    "a name and what it is": ({"what": "island light"}, ["light.island"]),
    "its area and its name": ({"what": "kitchen island"}, ["light.island"]),
    "another word for what it is": ({"what": "desk light"}, ["light.desk"]),
    "a slip": ({"what": "dsek lamp"}, ["light.desk"]),
    "a letter too few": ({"what": "islnd"}, ["light.island"]),
    "two slips in a long word": ({"what": "ceilinngg light"}, ["light.ceiling"]),
    "misheard": ({"what": "desk van"}, ["fan.desk"]),
    "two words as one": ({"what": "desklamp"}, ["light.desk"]),
    "one word as two": ({"what": "ket tle"}, ["switch.kettle"]),
    "the fan, not the lamp beside": ({"what": "desk fan"}, ["fan.desk"]),
    "its very name goes before a longer one": ({"what": "fan"}, ["fan.office"]),
    "a plural name": ({"what": "path lights"}, ["light.path_1"]),
    "what stands there": ({"what": "fans", "in": "office"}, ["fan.office", "fan.desk"]),
    "lighting is several": ({"what": "kitchen lighting"}, ["light.hob", "light.island"]),
    "an area before the noun": ({"what": "kitchen lights"}, ["light.hob", "light.island"]),
    "a floor before the noun": (
        {"what": "ground floor lights"},
        ["light.hob", "light.island"],
    ),
    "a floor without its word": ({"what": "upstairs lights"}, ["light.desk", "light.ceiling"]),
    "a floor behind": ({"what": "lights", "in": "the ground floor"}, ["light.hob", "light.island"]),
    "a slip in a place": ({"what": "lights", "in": "kichen"}, ["light.hob", "light.island"]),
    "another word for a place": ({"what": "tv", "in": "living room"}, ["media_player.oled"]),
    "another word for a thing": ({"what": "stereo"}, ["media_player.sonos"]),
    "a brand": ({"what": "sonos"}, ["media_player.sonos"]),
    "what a brand makes": ({"what": "tv"}, ["media_player.oled"]),
    "a name without a hint": ({"what": "humidifier"}, ["humidifier.levoit"]),
    "no such place, but a name": ({"what": "fan", "in": "desk"}, ["fan.desk"]),
    "a place that was taken for a name": ({"kind": "light", "in": "island"}, ["light.island"]),
    "several names that were taken for a place": (
        {"kind": "everything", "in": "desks", "all": True},
        ["light.desk", "fan.desk"],
    ),
    "a short word for a thing": ({"what": "rads"}, ["climate.lounge"]),
    "an article with a slip": ({"what": "teh desk lamp"}, ["light.desk"]),
    "a scene": ({"what": "the film night scene"}, ["scene.film"]),
    "not here": ({"what": "jacuzzi"}, "none"),
    "not there": ({"what": "desk lamp", "in": "kitchen"}, "none"),
    "there is no such room": ({"what": "lights", "in": "sauna"}, "none"),
    "half of a scene's name": ({"what": "film"}, "none"),
    "what cannot be turned on": ({"what": "hall motion"}, "none"),
    "several, and nothing says which": ({"what": "light"}, "ambiguous"),
    "nothing was said": ({}, "none"),
    "everything in a room": (
        {"kind": "everything", "in": "kitchen"},
        ["light.hob", "light.island", "switch.kettle"],
    ),
    "the whole house": (
        {"what": "lights", "in": "house", "all": True},
        ["light.desk", "light.ceiling", "light.hob", "light.island", "light.path_1"],
    ),
    "all of them": ({"what": "all the fans"}, ["fan.office", "fan.desk"]),
    "the lamps are not the lights": ({"what": "lamps", "in": "office"}, ["light.desk"]),
    "all but one": (
        {"what": "lights", "in": "office", "all": True, "except": "desk lamp"},
        ["light.ceiling"],
    ),
    "all but the one of a place": (
        {"do": "close_cover", "what": "blinds", "all": True}
        | {"except": "the one", "except_in": "office"},
        ["cover.kitchen_left", "cover.kitchen_right"],
    ),
    "all but those of a place": (
        {"what": "lights", "all": True, "except": "lights", "except_in": "office"},
        ["light.hob", "light.island", "light.path_1"],
    ),
    "all but a place": (
        {"what": "lights", "all": True, "except": "kitchen"},
        ["light.desk", "light.ceiling", "light.path_1"],
    ),
    "but for what is nowhere": (
        {"what": "lights", "in": "kitchen", "except": "floor"},
        ["light.hob", "light.island"],
    ),
    "but for nothing that is left": ({"what": "fan", "in": "desk", "except": "fan"}, "ambiguous"),
    "but for one of several": (
        {"what": "lights", "all": True, "except": "light"},
        "ambiguous",
    ),
    "lights, where none is named": (
        {"kind": "light", "in": "kitchen"},
        ["light.hob", "light.island"],
    ),
    "lights that are not there": ({"kind": "light", "in": "lounge"}, "none"),
    "lights nowhere": ({"kind": "light", "in": "sauna"}, "none"),
    "here, which nobody knows": ({"kind": "light", "where": "here"}, "ambiguous"),
    "one that is here, wherever that is": ({"kind": "tv", "where": "here"}, ["media_player.oled"]),
    "a name here": ({"what": "kettle", "where": "here"}, ["switch.kettle"]),
    "no name here": ({"what": "jacuzzi", "where": "here"}, "none"),
}


@pytest.mark.parametrize(("said", "expected"), NAMES.values(), ids=NAMES)
def test_words_mean_devices(said: dict[str, Any], expected: list[str] | str) -> None:
    assert targets(**said) == expected


ASKERS = {
    "the fan of the room": ("Office", {"what": "blind"}, ["cover.office"]),
    "the lights of the room": ("Office", {"what": "lights"}, ["light.desk", "light.ceiling"]),
    "dark in here": ("Kitchen", {"kind": "light", "where": "here"}, ["light.hob", "light.island"]),
    "lights, where the room has some": (
        "Kitchen",
        {"kind": "light"},
        ["light.hob", "light.island"],
    ),
    "a room in other letters": (" office ", {"what": "lights"}, ["light.desk", "light.ceiling"]),
    "one that is named elsewhere": ("Hall", {"what": "desk lamp"}, ["light.desk"]),
    "this floor": (
        "Hall",
        {"what": "lights", "where": "floor"},
        ["light.hob", "light.island"],
    ),
    "all are those of the home": (
        "Office",
        {"what": "fans", "all": True},
        ["fan.office", "fan.desk"],
    ),
    "two in the room": ("Office", {"what": "light"}, "ambiguous"),
    "one of a kind in the room": ("Lounge", {"kind": "climate"}, ["climate.lounge"]),
    "all but the one here": (
        "Office",
        {"what": "lights", "all": True, "except": "lamp"},
        ["light.ceiling", "light.hob", "light.island", "light.path_1"],
    ),
}


@pytest.mark.parametrize(("area", "said", "expected"), ASKERS.values(), ids=ASKERS)
def test_where_the_asker_is_decides(
    area: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    verb = {"do": "open_cover"} if said.get("what") == "blind" else {}
    assert targets(area, **{**said, **verb}) == expected


DOORS = {
    "named": ({"do": "unlock", "what": "front door"}, ["lock.front"]),
    "in a place": ({"do": "unlock", "what": "lock", "in": "kitchen"}, ["lock.back"]),
    "the only one": ({"do": "open_cover", "what": "gate"}, ["cover.gate"]),
    "all": ({"do": "unlock", "what": "locks", "all": True}, "none"),
    "all of the gates": ({"do": "open_cover", "what": "gates", "all": True}, "none"),
    "half open is open": (
        {"do": "set_cover_position", "what": "gates", "all": True, "position": 50},
        "none",
    ),
    "several": ({"do": "unlock", "what": "doors"}, "ambiguous"),
    "where the asker is says nothing": ({"do": "unlock", "what": "lock"}, "ambiguous"),
    "implied": ({"do": "unlock", "kind": "lock"}, "none"),
    "locking is no danger": ({"do": "lock", "kind": "lock"}, ["lock.front", "lock.back"]),
    "the alarm": ({"do": "alarm_disarm", "what": "alarm"}, ["alarm_control_panel.home"]),
    "a door that is no valve": ({"do": "open_valve", "what": "gates", "all": True}, "none"),
    "nor one of which a part is open": (
        {"do": "set_valve_position", "what": "garage doors", "all": True, "position": 50},
        "none",
    ),
    "nothing is unlocked by opening": ({"do": "open_cover", "what": "front door"}, "none"),
}


@pytest.mark.parametrize(("said", "expected"), DOORS.values(), ids=DOORS)
def test_no_door_is_opened_that_was_not_named(
    said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets("Kitchen", **said) == expected


IMPLIED = {
    "the floors, from where somebody is": ("Office", {"kind": "vacuum"}, ["vacuum.up"]),
    "the floors of a room": ("", {"kind": "vacuum", "in": "hall"}, ["vacuum.down"]),
    "of a room without one, by its floor": (
        "",
        {"kind": "vacuum", "in": "kitchen"},
        ["vacuum.down"],
    ),
    "by the asker's floor": ("Kitchen", {"kind": "vacuum"}, ["vacuum.down"]),
    "nobody knows which": ("", {"kind": "vacuum"}, "ambiguous"),
    "the lawn": ("", {"do": "open_valve", "kind": "sprinkler", "what": "grass"}, ["valve.lawn"]),
    "the flowers": (
        "",
        {"do": "open_valve", "kind": "sprinkler", "what": "flowers"},
        ["valve.beds"],
    ),
    "the garden": (
        "",
        {"do": "open_valve", "kind": "sprinkler", "what": "garden"},
        "ambiguous",
    ),
    "what is bought": ("", {"do": "add_item", "kind": "shopping", "item": "oats"}, ["todo.food"]),
    "the blinds of a room": (
        "Kitchen",
        {"do": "close_cover", "kind": "blind"},
        ["cover.kitchen_left", "cover.kitchen_right"],
    ),
}


@pytest.mark.parametrize(("area", "said", "expected"), IMPLIED.values(), ids=IMPLIED)
def test_what_is_meant_where_nothing_is_named(
    area: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets(area, **{"do": "start", **said}) == expected


WHOLE = """
light.lamp | Reading lamp | Lounge
light.lamp_b | Reading lamp B | Lounge
light.tube | Light tube | Lounge
scene.rise | Rise and shine
cover.lounge | Blind | Lounge
"""
WHOLE_NAMES = {
    "a part was written": ("start rise and shine now", {"what": "rise"}, ["scene.rise"]),
    "without its side": ("reading lamp b on", {"what": "reading lamp"}, ["light.lamp_b"]),
    "the end of a name": ("the light tube please", {"what": "tube"}, ["light.tube"]),
    "the last one counts": (
        "put the reading lamp b on, no, the reading lamp",
        {"what": "reading lamp"},
        ["light.lamp"],
    ),
    "the last one has more words": (
        "reading lamp, i mean reading lamp b, on",
        {"what": "reading lamp"},
        ["light.lamp_b"],
    ),
    "where it was written whole": ("reading lamp on", {"what": "reading lamp"}, ["light.lamp"]),
    "all of them": (
        "every reading lamp b and others",
        {"what": "reading lamp", "all": True},
        ["light.lamp", "light.lamp_b"],
    ),
    "several of them": (
        "the reading lamps",
        {"what": "reading lamps"},
        ["light.lamp", "light.lamp_b"],
    ),
    "a place is no part of it": (
        "turn on the light tube in the lounge",
        {"what": "tube", "in": "lounge"},
        ["light.tube"],
    ),
}


@pytest.mark.parametrize(("prompt", "said", "expected"), WHOLE_NAMES.values(), ids=WHOLE_NAMES)
def test_the_whole_name_in_a_prompt_counts(
    prompt: str, said: dict[str, Any], expected: list[str]
) -> None:
    assert targets(home=WHOLE, prompt=prompt, **said) == expected


def test_each_command_has_the_name_that_was_said_for_it() -> None:
    prompt = "reading lamp on and reading lamp b off"
    commands = ({"do": verb, "what": "reading lamp"} for verb in ("turn_on", "turn_off"))
    assert asked(*commands, prompt=prompt, home=WHOLE) == [
        ("light.turn_on", ["light.lamp"], {}),
        ("light.turn_off", ["light.lamp_b"], {}),
    ]


KEPT: dict[str, tuple[str, list[dict[str, Any]], Actions]] = {
    "lights": (
        "turn off all the lights and keep the island on",
        [{"what": "lights", "all": True}, {"do": "turn_on", "what": "island"}],
        [("light.turn_off", ["light.desk", "light.ceiling", "light.hob", "light.path_1"], {})],
    ),
    "a door": (
        "lock the doors but leave the back door unlocked",
        [{"do": "lock", "what": "doors"}, {"do": "unlock", "what": "back door"}],
        [("lock.lock", ["lock.front"], {})],
    ),
    "not of one": (
        "turn off the hob light and leave the island on",
        [{"what": "hob light"}, {"do": "turn_on", "what": "island"}],
        [("light.turn_off", ["light.hob"], {}), ("light.turn_on", ["light.island"], {})],
    ),
    "not without the word": (
        "turn off the kitchen lights and turn the island on",
        [{"what": "kitchen lights"}, {"do": "turn_on", "what": "island"}],
        [
            ("light.turn_off", ["light.hob", "light.island"], {}),
            ("light.turn_on", ["light.island"], {}),
        ],
    ),
}


SWITCHED = {
    "on": ("yard lights on", {"do": "open_valve", "what": "path lights"}, "light.turn_on"),
    "off": ("kettle off please", {"do": "close_valve", "what": "kettle"}, "switch.turn_off"),
    "with a number of something else": (
        "it's minus thirty, turn the kettle on",
        {"do": "set_temperature", "what": "kettle", "temperature": 30},
        "switch.turn_on",
    ),
}


@pytest.mark.parametrize(("prompt", "said", "service"), SWITCHED.values(), ids=SWITCHED)
def test_on_and_off_are_read_where_a_service_fits_nothing(
    prompt: str, said: dict[str, Any], service: str
) -> None:
    found = asked(said, prompt=prompt)
    assert [(one[0], one[2]) for one in found] == [(service, {})]


EXCEPTIONS: dict[str, tuple[str, list[dict[str, Any]], Actions]] = {
    "one behind the other": (
        "all lights off except the island and the desk lamp",
        [{"what": "lights", "all": True, "except": "island"}, {"what": "desk lamp"}],
        [("light.turn_off", ["light.ceiling", "light.hob", "light.path_1"], {})],
    ),
    "misheard": (
        "all office lights off accept the desk lamp",
        [{"what": "office lights", "all": True}, {"what": "desk lamp"}],
        [("light.turn_off", ["light.ceiling"], {})],
    ),
    "of another kind": (
        "all office lights off except the ceiling light, and the fan off",
        [
            {"what": "lights", "in": "office", "all": True, "except": "ceiling light"},
            {"what": "fan", "in": "office"},
        ],
        [("light.turn_off", ["light.desk"], {}), ("fan.turn_off", ["fan.office"], {})],
    ),
    "not without a word for it": (
        "all office lights off and the desk lamp off",
        [{"what": "office lights", "all": True}, {"what": "desk lamp"}],
        [("light.turn_off", ["light.desk", "light.ceiling"], {})],
    ),
    "one that is told apart": (
        "all kitchen blinds closed but the left one",
        [{"do": "close_cover", "what": "kitchen blinds", "all": True, "except": "left one"}],
        [("cover.close_cover", ["cover.kitchen_right"], {})],
    ),
    "all the others": (
        "turn the hob light on and all the other lights off",
        [{"do": "turn_on", "what": "hob light"}, {"what": "lights", "all": True}],
        [
            ("light.turn_on", ["light.hob"], {}),
            ("light.turn_off", ["light.desk", "light.ceiling", "light.island", "light.path_1"], {}),
        ],
    ),
    "the others than what is kept": (
        "leave the hob light on and put off the rest of the lights",
        [{"what": "hob light"}, {"what": "lights", "all": True}],
        [("light.turn_off", ["light.desk", "light.ceiling", "light.island", "light.path_1"], {})],
    ),
}


ALL_BUT = {f"kept: {name}": one for name, one in KEPT.items()} | EXCEPTIONS


@pytest.mark.parametrize(("prompt", "commands", "expected"), ALL_BUT.values(), ids=ALL_BUT)
def test_what_is_to_be_kept_or_excepted_is_left_out(
    prompt: str, commands: list[dict[str, Any]], expected: Actions
) -> None:
    assert asked(*({"do": "turn_off", **one} for one in commands), prompt=prompt) == expected


PLACES = {
    "a floor": ("upstairs, lights off", {"what": "lights"}, ["light.desk", "light.ceiling"]),
    "with a preposition": (
        "On the ground floor: lights",
        {"what": "lights"},
        ["light.hob", "light.island"],
    ),
    "it was taken for a name": (
        "kitchen: light hob",
        {"what": "kitchen: lights"},
        ["light.hob", "light.island"],
    ),
    "another one behind": (
        "upstairs, kitchen lights",
        {"what": "lights", "in": "kitchen"},
        ["light.hob", "light.island"],
    ),
    "with a word before it": (
        "in the office turn off all the lights",
        {"what": "lights", "all": True},
        ["light.desk", "light.ceiling"],
    ),
    "two of them": (
        "in the office and the kitchen island off",
        {"what": "island"},
        ["light.island"],
    ),
    "it is switched": (
        "on the kitchen light and off the desk lamp",
        {"what": "desk lamp"},
        ["light.desk"],
    ),
    "of something elsewhere": (
        "kitchen: island on, and the office lights off",
        {"what": "office lights"},
        ["light.desk", "light.ceiling"],
    ),
    "here": ("upstairs, lights", {"what": "lights", "where": "here"}, "ambiguous"),
    "no place": (
        "jeez, lights",
        {"what": "lights", "all": True},
        ["light.desk", "light.ceiling", "light.hob", "light.island", "light.path_1"],
    ),
}


@pytest.mark.parametrize(("prompt", "said", "expected"), PLACES.values(), ids=PLACES)
def test_a_place_that_is_said_first_counts(
    prompt: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets(prompt=prompt, **said) == expected


@pytest.mark.parametrize("prompt", ["disarm everything", "open up everything", "unlock it all"])
def test_everything_is_not_switched_where_it_is_to_be_opened(prompt: str) -> None:
    said = {"do": "turn_off", "kind": "everything", "all": True}
    assert asked(said, prompt=prompt) == "none"
    assert asked(said, prompt="open the blind and turn everything off") != "none"


def test_another_service_of_the_same_words_is_taken() -> None:
    assert asked({"do": "stop_valve", "what": "kettle"}, prompt="stop the kettle") == [
        ("switch.turn_off", ["switch.kettle"], {})
    ]
    eco = {"do": "set_preset_mode", "what": "boiler", "preset_mode": "eco"}
    assert asked(eco) == [
        ("water_heater.set_operation_mode", ["water_heater.boiler"], {"operation_mode": "eco"})
    ]
    away = {"do": "set_preset_mode", "what": "boiler", "preset_mode": "away"}
    assert asked(away) == "none"


def test_off_that_was_taken_for_a_name_turns_off() -> None:
    assert asked({"do": "turn_on", "what": "kettle off"}) == [
        ("switch.turn_off", ["switch.kettle"], {})
    ]


def test_a_door_is_not_found_by_what_a_nameless_cover_may_be() -> None:
    home = "cover.velux | Velux | Attic\nlight.garage | Lamp | Garage"
    assert asked({"do": "open_cover", "what": "garage"}, home=home) == "none"
    assert targets(home=home, do="open_cover", what="shutter") == ["cover.velux"]
    home = "cover.door | Loading door | Barn"
    assert targets(home=home, do="open_cover", what="garage door") == ["cover.door"]


def test_a_brand_says_nothing_of_what_a_thing_is() -> None:
    home = "climate.a | Ecobee Main | Hall | Up\nclimate.b | Ecobee Upper | Den | Up"
    said = {"do": "set_temperature", "what": "ecobee", "temperature": 20}
    assert asked(said, home=home) == "ambiguous"


def test_what_says_neither_on_nor_off_is_not_switched() -> None:
    assert asked({"do": "unlock", "what": "kettle"}, prompt="unlock the kettle") == "none"
    both = "turn the kettle on and off"
    assert asked({"do": "close_valve", "what": "kettle"}, prompt=both) == "none"
    mute = {"do": "volume_mute", "what": "kettle", "is_volume_muted": True}
    assert asked(mute, prompt="turn the sound of the kettle off") == "none"
    level = "kettle to 40, on the double"
    assert asked({"do": "set_humidity", "what": "kettle", "humidity": 40}, prompt=level) == "none"


@pytest.mark.parametrize("what", ["dim desk lamp", "desk lamp plus", "turn desk lamp on"])
def test_verbs_are_no_part_of_a_name(what: str) -> None:
    assert targets(what=what) == ["light.desk"]
    assert targets(what="on", home="light.on | On\nlight.off | Off") == ["light.on"]


PAIRS = {
    "those of the room": ("Kitchen", "both lights on", ["light.hob", "light.island"]),
    "in words": ("Kitchen", "the two lights on", ["light.hob", "light.island"]),
    "more than two": ("Hall", "both lights on", "ambiguous"),
    "one here, two at home": ("Garden", "both of the fans on", ["fan.office", "fan.desk"]),
}


@pytest.mark.parametrize(("area", "prompt", "expected"), PAIRS.values(), ids=PAIRS)
def test_both_are_two(area: str, prompt: str, expected: list[str] | str) -> None:
    what = "fans" if "fans" in prompt else "lights"
    assert targets(area, prompt, what=what) == expected


@pytest.mark.parametrize(
    ("area", "expected"),
    [("", "ambiguous"), ("Den", ["media_player.beam"]), ("Bar", ["media_player.bar"])],
)
def test_a_brand_is_that_of_the_room(area: str, expected: list[str] | str) -> None:
    home = "media_player.beam | Sonos Beam | Den\nmedia_player.bar | Bar Sonos | Bar"
    assert targets(area, home=home, what="sonos") == expected


def test_both_of_one_thing_is_not_both_of_another_one() -> None:
    fans = {"do": "turn_off", "what": "fans", "all": True}
    kitchen = {"do": "turn_off", "kind": "everything", "in": "kitchen", "all": True}
    assert asked(fans, kitchen, prompt="both fans off, and everything in the kitchen off") == [
        ("fan.turn_off", ["fan.office", "fan.desk"], {}),
        ("light.turn_off", ["light.hob", "light.island"], {}),
        ("switch.turn_off", ["switch.kettle"], {}),
    ]


OTHERS = """
light.a | J\u00fcrgen's lamp | B\u00fcro | 2nd floor
light.b | Lampe \u0434\u0432\u0430 | Flur | Ground floor
climate.a | Eurotronic | Flur | Ground floor
valve.gas | Gas shutoff
valve.water | Water supply
"""
OTHER_WORDS = {
    "without its accent": ({"what": "jurgens lamp"}, ["light.a"]),
    "whose it is": ({"what": "lamp of J\u00fcrgen"}, ["light.a"]),
    "a place without its accent": ({"what": "lights", "in": "buro"}, ["light.a"]),
    "other letters": ({"what": "lampe \u0434\u0432\u0430"}, ["light.b"]),
    "a number in words": ({"what": "second floor lights"}, ["light.a"]),
    "what it may be": ({"what": "radiator"}, ["climate.a"]),
    "no gas for water": ({"do": "open_valve", "kind": "water_main"}, ["valve.water"]),
}


@pytest.mark.parametrize(("said", "expected"), OTHER_WORDS.values(), ids=OTHER_WORDS)
def test_names_are_found_as_people_write_them(said: dict[str, Any], expected: list[str]) -> None:
    assert targets(home=OTHERS, **said) == expected


def test_no_letter_of_a_name_becomes_many() -> None:
    """Else 256 names of 200 such letters would hold up everybody's answers."""
    assert len("".join(words.words_of("\ufdfa" * 200))) <= 200


def test_one_vacuum_cleans_everywhere() -> None:
    home = "vacuum.rosie | Rosie | Hall | Down\nlight.attic | Lamp | Attic | Up"
    assert targets(home=home, do="start", kind="vacuum", **{"in": "attic"}) == ["vacuum.rosie"]


def test_without_areas_a_name_says_where_a_thing_is() -> None:
    home = "light.k | Kitchen light\nlight.h | Hall light\nlight.o | Lamp | Kitchen"
    assert targets(home=home, what="light", **{"in": "hall"}) == ["light.h"]
    home = "light.k | Bedroom light\nlight.o | Lamp | Bedroom 2"
    assert targets("Bedroom", home=home, kind="light", where="here") == ["light.k"]


def test_a_thing_is_what_its_name_ends_with() -> None:
    assert kinds_of("cover", "Bedroom window blind") == {"blind"}
    assert kinds_of("cover", "Window covering") == {"blind"}
    assert kinds_of("cover", "Sunshade left") == {"shade"}
    assert kinds_of("cover", "Draperies") == {"curtain"}
    assert kinds_of("cover", "Garage door left") == {"garage_door"}
    assert kinds_of("cover", "Markise") >= {"blind", "awning"}
    assert kinds_of("media_player", "Kitchen radio") == {"speaker"}
    assert kinds_of("climate", "Kirigamine") == {"ac"}
    assert kinds_of("sensor", "Door") == frozenset()


def test_slips_are_undone_only_where_a_word_of_the_home_is_like_them() -> None:
    speller = Speller(("kitchen", "living", "room", "light", "bedroom", "fan"))
    assert speller.repaired(("kitchne", "ligth")) == ("kitchen", "light")
    assert speller.repaired(("livingroom",)) == ("living", "room")
    assert speller.repaired(("bed", "room")) == ("bedroom",)
    assert speller.repaired(("lite", "van", "xyz")) == ("light", "fan", "xyz")
    assert speller.repaired(("kkitchenn", "can")) == ("kitchen", "can")
    assert stems("The two Lamps") == ("2", "light")


def test_several_commands_are_all_carried_out() -> None:
    found = asked(
        {"do": "turn_on", "what": "desk lamp", "brightness_pct": 40},
        {"do": "turn_on", "what": "island", "brightness_pct": 40},
        {"do": "close_cover", "what": "office blind"},
    )
    assert found == [
        ("light.turn_on", ["light.desk", "light.island"], {"brightness_pct": 40}),
        ("cover.close_cover", ["cover.office"], {}),
    ]


def test_of_two_commands_one_that_fits_nothing_is_left_out() -> None:
    found = asked({"do": "turn_on", "what": "jacuzzi"}, {"do": "turn_on", "what": "island"})
    assert found == [("light.turn_on", ["light.island"], {})]


def test_one_that_is_ambiguous_stops_all() -> None:
    commands = ({"do": "turn_on", "what": "light"}, {"do": "turn_on", "what": "island"})
    assert asked(*commands) == "ambiguous"


def test_what_a_device_cannot_do_is_not_asked_of_it() -> None:
    assert targets(what="desk fan", brightness_pct=40, prompt="dim the desk fan to 40") == "none"
    assert targets(do="open_cover", what="desk lamp") == "none"
    assert targets(do="set_temperature", what="boiler", temperature=7) == "none"


SAME = {
    "a valve is opened": ({"do": "open_cover", "what": "raised beds"}, "valve.open_valve"),
    "or turned on": ({"do": "turn_on", "what": "raised beds"}, "valve.open_valve"),
    "a vacuum is started": ({"do": "turn_on", "what": "rosie"}, "vacuum.start"),
    "and sent home": ({"do": "dock", "what": "rosie"}, "vacuum.return_to_base"),
    "a button is pressed": ({"do": "turn_on", "what": "reboot hub"}, "button.press"),
}


@pytest.mark.parametrize(("said", "service"), SAME.values(), ids=SAME)
def test_a_verb_is_that_of_the_device(said: dict[str, Any], service: str) -> None:
    found = asked(said)
    assert not isinstance(found, str)
    assert [one for one, _, _ in found] == [service]


def test_nothing_is_opened_that_was_to_be_turned_on() -> None:
    assert targets(what="office blind") == "none"


@pytest.mark.parametrize(
    ("said", "prompt", "expected"),
    [
        (
            {"do": "set_temperature", "what": "island", "temperature": 40},
            "put the island at 40 percent",
            [("light.turn_on", ["light.island"], {"brightness_pct": 40})],
        ),
        (
            {"do": "turn_on", "what": "desk fan", "brightness_pct": 40},
            "desk fan to 40",
            [("fan.set_percentage", ["fan.desk"], {"percentage": 40})],
        ),
        (
            {"do": "set_percentage", "what": "sonos", "percentage": 35},
            "sonos at 35",
            [("media_player.volume_set", ["media_player.sonos"], {"volume_level": 0.35})],
        ),
        (
            {"do": "volume_set", "what": "island", "volume_level": 0.2},
            "island to 20",
            [("light.turn_on", ["light.island"], {"brightness_pct": 20})],
        ),
        (
            {"do": "volume_set", "what": "island", "volume_level": 0.2},
            "volume of island 20",
            "none",
        ),
        (
            {"do": "set_percentage", "what": "hive", "percentage": 21},
            "hive to 21 percent",
            "none",
        ),
        (
            {"do": "set_percentage", "what": "hive", "percentage": 21},
            "hive to 21",
            [("climate.set_temperature", ["climate.office"], {"temperature": 21})],
        ),
        ({"do": "set_percentage", "what": "jacuzzi", "percentage": 21}, "jacuzzi to 21", "none"),
    ],
)
def test_a_level_is_that_of_the_device(
    said: dict[str, Any], prompt: str, expected: Actions | str
) -> None:
    assert asked(said, prompt=prompt) == expected


def test_the_name_of_a_scene_alone_means_it() -> None:
    assert targets(kind="fan", prompt="Film night, please!") == ["scene.film"]
    assert asked(prompt="reboot hub now") == [("button.press", ["button.hub"], {})]
    assert asked(prompt="please") == "none"


def test_words_beside_a_mention_tell_which_one() -> None:
    said = {"do": "close_cover", "what": "kitchen blind"}
    assert asked(said, prompt="left kitchen blind down") == [
        ("cover.close_cover", ["cover.kitchen_left"], {})
    ]
    assert asked(said, prompt="kitchen blind right down") == [
        ("cover.close_cover", ["cover.kitchen_right"], {})
    ]
    assert asked(said, prompt="the kitchen blind down") == "ambiguous"
    assert asked(said, prompt="close it") == "ambiguous"
    lamp = {"do": "turn_on", "what": "light"}
    assert asked(lamp, prompt="kettle light on") == "ambiguous"


def test_a_whole_name_that_was_said_is_meant() -> None:
    said = {"kind": "light", "color_name": "red"}
    assert targets(prompt="desk lamp to red", **said) == ["light.desk"]
    assert targets("Kitchen", prompt="make the desk lamp red", **said) == ["light.desk"]
    assert len(targets(prompt="make it red", **said)) == 5
    kitchen = ["light.hob", "light.island"]
    assert targets(prompt="desk lamp red", **said, **{"in": "kitchen"}) == kitchen


@pytest.mark.parametrize("size", [5, 30])
def test_the_rules_agree_with_those_of_the_examples(size: int) -> None:
    examples = [one.as_json() for one in make_many(300, 41, "held-out", (size, size))]
    right = sum(
        same_actions(MEANING.actions(one["said"], one["inputs"]), one["answer"]) for one in examples
    )
    assert right >= 0.97 * len(examples)


def test_what_is_said_is_written_in_few_tokens_and_read_as_actions() -> None:
    wording, problem = wording_of_schema(schema())
    assert problem is None
    said = {"commands": [{"do": "turn_on", "what": "desk lamp", "brightness_pct": 40}]}
    text = wording.write(said)
    assert text == "turn_on what=desk lamp brightness_pct=40"
    assert wording.parsed(text) == said
    action = {"service": "light.turn_on", "target": ["light.desk"], "data": {"brightness_pct": 40}}
    assert wording.read(text, inputs()) == {"actions": [action]}
    none = wording.write({"commands": [], "reason": "none"})
    assert wording.read(none, inputs()) == {"actions": [], "reason": "none"}
    with pytest.raises(AnswerError, match="commands: is missing"):
        wording.write({"actions": []})


BAD_INPUTS = {
    "no devices": ({}, "inputs.devices"),
    "no list": ({"devices": {}}, "inputs.devices"),
    "too many": ({"devices": [{}] * 257}, "at most 256"),
    "a text": ({"devices": ["lamp"]}, r"inputs.devices\[0\]: must have an id"),
    "no name": ({"devices": [{"id": "light.a"}]}, r"inputs.devices\[0\]: must have an id"),
    "a long name": ({"devices": [{"id": "light.a", "name": "a" * 201}]}, "name: must be a text"),
    "an area that is none": (
        {"devices": [{"id": "light.a", "name": "a", "area": 1}]},
        r"inputs.devices\[0\].area",
    ),
    "an asker that is none": ({"devices": [], "area": []}, "inputs.area"),
}


@pytest.mark.parametrize(("given", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_are_no_home_are_refused_before_anything_is_decoded(
    given: dict[str, Any], message: str
) -> None:
    wording, _ = wording_of_schema(schema())
    with pytest.raises(InputsError, match=message):
        wording.grammar(given, "turn it on")


def test_a_null_is_nothing() -> None:
    home = Household({"devices": [{"id": "light.a", "name": "a", "area": None}], "area": None})
    assert (home.asker, home.areas) == ("", ())


def function(name: str = "light.turn_on", **fields: object) -> dict[str, Any]:
    parameters = {"type": "object", "properties": fields}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


BAD_SERVICES = {
    "no list": ({}, "must be a list"),
    "none": ([], "must be a list"),
    "no function": ([1], r"x-home\[0\].function.name"),
    "no service": ([function("turn_on")], r"x-home\[0\].function.name"),
    "no parameters": ([{"function": {"name": "light.turn_on"}}], r"\[0\].function.parameters"),
}


@pytest.mark.parametrize(("tools", "message"), BAD_SERVICES.values(), ids=BAD_SERVICES)
def test_services_that_are_none_are_named(tools: object, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        home_services(tools)


def test_nothing_stands_beside_the_services() -> None:
    with pytest.raises(ShapeError, match="x-home: nothing may stand beside it"):
        wording_of_schema({"x-home": [function()], "type": "object"})


def test_fields_of_one_name_are_of_one_type() -> None:
    number = {"type": "number", "minimum": 5, "maximum": 30}
    other = {"type": "number", "minimum": 30, "maximum": 90}
    form = form_of(home_services([function("a.b", t=number), function("c.d", t=other)]))
    commands = form["properties"]["commands"]["items"]["properties"]
    assert (commands["t"]["minimum"], commands["t"]["maximum"]) == (5, 90)
    bad = home_services([function("a.b", t=number), function("c.d", t={"type": "string"})])
    with pytest.raises(ValueError, match="t: two services"):
        form_of(bad)
    with pytest.raises(ValueError, match="what: no field"):
        form_of(home_services([function("a.b", what=number)]))


def test_of_a_long_prompt_the_last_words_count(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def singles(text: str) -> tuple[str, ...]:
        read.append(text)
        return words.singles(text)

    monkeypatch.setattr(named, "singles", singles)
    said = {"kind": "light", "color_name": "red"}
    prompt = "turn it on " * 50_000 + "make the desk lamp red"
    assert targets(prompt=prompt, **said) == ["light.desk"]
    assert read
    assert all(len(text) <= MAX_CHARACTERS for text in read)


def test_words_are_not_compared_with_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Homes and prompts are a stranger's: what is compared does not grow with their product."""
    compared = []

    def is_slip(wanted: str, word: str) -> bool:
        compared.append(wanted)
        return False

    monkeypatch.setattr(words, "is_slip", is_slip)
    known = [f"lamp{number:04}" for number in range(5000)]
    Speller(known).repaired([f"lamq{number:04}" for number in range(40)])
    assert len(compared) < 40 * 100


def test_a_schema_is_what_is_written_in_a_folder() -> None:
    wording = wording_of_schema(schema())[0]
    assert isinstance(wording, Wording)
    assert wording_of_schema(json.loads(json.dumps(wording.schema)))[0].shape == wording.shape
