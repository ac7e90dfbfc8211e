"""What a prompt says once more, where a model wrote less, or something else."""

from typing import Any

import pytest

from edged.specialists.devices import words
from edged.specialists.devices.command import Command, Mention
from edged.specialists.devices.prompt.durations import with_durations
from edged.specialists.devices.prompt.not_done import is_not_for_now
from edged.specialists.devices.words import words_of as words_of_text
from tests.unit.test_home_commands import HOME, Actions, asked, targets

STOREYS = """
light.hob | Hob | Kitchen | Ground Floor
light.bed | Bed | Bedroom | First Floor
light.den | Den | Den | Second Floor
light.shelf | Shelf | Store | Cellar
"""
PLACES = {
    "upstairs": ({"what": "lights", "in": "upstairs"}, "", ["light.bed", "light.den"]),
    "it is said first": ({"what": "upstairs lights"}, "", ["light.bed", "light.den"]),
    "downstairs": ({"what": "lights", "in": "downstairs"}, "", ["light.hob"]),
    "this floor": (
        {"what": "lights", "where": "here", "all": True},
        "all the lights on this floor",
        ["light.hob"],
    ),
    "everywhere": (
        {"kind": "light", "where": "here"},
        "lights out everywhere",
        ["light.hob", "light.bed", "light.den", "light.shelf"],
    ),
    "everywhere, with no word for here": (
        {"kind": "light"},
        "i want light in the whole house",
        ["light.hob", "light.bed", "light.den", "light.shelf"],
    ),
    "in this house": (
        {"what": "light", "where": "here", "all": True},
        "every single light in this house",
        ["light.hob", "light.bed", "light.den", "light.shelf"],
    ),
    "in the apartment": (
        {"what": "light", "where": "here", "all": True},
        "each light in the apartment",
        ["light.hob", "light.bed", "light.den", "light.shelf"],
    ),
    "not in here": (
        {"kind": "light", "where": "here"},
        "everywhere is dark, lights on in here",
        ["light.hob"],
    ),
    "which no command has": (
        {"what": "lights", "all": True},
        "all the lights on the first floor off",
        ["light.bed"],
    ),
    "in a place that is not here": (
        {"what": "lights", "in": "kitchen diner", "all": True},
        "all the lights in the kitchen diner",
        "none",
    ),
    "an exception's that is mistyped": (
        {"what": "lights", "all": True, "except": "bed"},
        "all lights exept the bed in the bedroom",
        ["light.hob", "light.den", "light.shelf"],
    ),
    "on the boat": (
        {"what": "light", "in": "boat", "all": True},
        "every light on the boat",
        ["light.hob", "light.bed", "light.den", "light.shelf"],
    ),
    "in a place that is none": (
        {"kind": "everything", "in": "turned", "all": True},
        "have everything in the bedroom turned off",
        ["light.bed"],
    ),
    "an exception's": (
        {"what": "lights", "in": "bedroom", "all": True, "except": "lights"},
        "all lights except in the bedroom",
        ["light.hob", "light.den", "light.shelf"],
    ),
    "no exception's": (
        {"what": "lights", "in": "ground floor", "all": True, "except": "bed light"},
        "all lights on the ground floor but not bed",
        ["light.hob"],
    ),
}


@pytest.mark.parametrize(("said", "prompt", "expected"), PLACES.values(), ids=PLACES)
def test_where_it_is_meant(said: dict[str, Any], prompt: str, expected: list[str]) -> None:
    assert targets("Kitchen", prompt, home=STOREYS, **said) == expected


@pytest.mark.parametrize(
    ("floors", "up", "down"),
    [
        (("Main floor", "Basement"), ["light.0"], ["light.1"]),
        (("First floor", "Second floor", "Third floor"), ["light.1", "light.2"], ["light.0"]),
        (("Upper level", "Lower level"), ["light.0"], ["light.1"]),
        (("Blue", "Red"), "none", "none"),
        (("Upstairs", "First floor"), ["light.0"], ["light.1"]),
    ],
)
def test_upstairs_is_above_the_lowest_floor(
    floors: tuple[str, ...], up: list[str] | str, down: list[str] | str
) -> None:
    home = "\n".join(f"light.{n} | Lamp {n} | Room {n} | {floor}" for n, floor in enumerate(floors))
    assert targets(home=home, what="lamps", **{"in": "upstairs"}) == up
    assert targets(home=home, what="lamps", **{"in": "downstairs"}) == down


SERVICES: dict[str, tuple[str, dict[str, Any], Actions | str]] = {
    "a colour is a light's": (
        "the island red and the blind closed",
        {"do": "close_cover", "what": "island", "color_name": "red"},
        [("light.turn_on", ["light.island"], {"color_name": "red"})],
    ),
    "a colour is no place": (
        "i'd love the kitchen lights in magenta",
        {"do": "turn_on", "what": "kitchen lights", "in": "magenta"},
        [("light.turn_on", ["light.hob", "light.island"], {"color_name": "magenta"})],
    ),
    "a colour with a slip is no name": (
        "make the desk lamp ornage",
        {"do": "turn_on", "what": "desk lamp ornage"},
        [("light.turn_on", ["light.desk"], {"color_name": "orange"})],
    ),
    "it oscillates": (
        "make the desk fan oscillate",
        {"do": "oscillate", "what": "desk fan oscillate"},
        [("fan.oscillate", ["fan.desk"], {"oscillating": True})],
    ),
    "from one side to the other": (
        "swing the desk fan side to side",
        {"do": "oscillate", "what": "desk fan side", "oscillating": True},
        [("fan.oscillate", ["fan.desk"], {"oscillating": True})],
    ),
    "at full speed": (
        "crank that desk fan all the way!",
        {"do": "turn_on", "what": "desk fan"},
        [("fan.set_percentage", ["fan.desk"], {"percentage": 100})],
    ),
    "all the way to it": (
        "i walked all the way to the office, desk fan on",
        {"do": "turn_on", "what": "desk fan"},
        [("fan.turn_on", ["fan.desk"], {})],
    ),
    "a switch at full speed": (
        "kettle at full power",
        {"do": "turn_on", "what": "kettle"},
        [("switch.turn_on", ["switch.kettle"], {})],
    ),
    "it stops": (
        "quit the swinging of the desk fan",
        {"do": "oscillate", "what": "desk fan", "oscillating": True},
        [("fan.oscillate", ["fan.desk"], {"oscillating": False})],
    ),
    "something else stops": (
        "stop the lamp and start the desk fan swinging",
        {"do": "oscillate", "what": "desk fan", "oscillating": True},
        [("fan.oscillate", ["fan.desk"], {"oscillating": True})],
    ),
    "it is muted": (
        "mute the sonos",
        {"do": "volume_mute", "what": "sonos"},
        [("media_player.volume_mute", ["media_player.sonos"], {"is_volume_muted": True})],
    ),
    "a mode of the fan": (
        "hive fan mode low",
        {"do": "set_percentage", "what": "hive fan", "percentage": 33},
        [("climate.set_fan_mode", ["climate.office"], {"fan_mode": "low"})],
    ),
    "a mode of a device without its fan": (
        "have the fan of the hive on medium",
        {"do": "set_percentage", "what": "hive", "percentage": 66},
        [("climate.set_fan_mode", ["climate.office"], {"fan_mode": "medium"})],
    ),
    "a level of what is no fan": (
        "have the levoit at 50%, and the other humidifier, too",
        {"do": "set_percentage", "what": "levoit", "percentage": 50},
        [("humidifier.set_humidity", ["humidifier.levoit"], {"humidity": 50})],
    ),
    "a mode that was left out": (
        "set the hive's fan mode to auto",
        {"do": "set_fan_mode", "what": "hive's fan mode"},
        [("climate.set_fan_mode", ["climate.office"], {"fan_mode": "auto"})],
    ),
    "a mode that nobody said": (
        "hive fan to 33",
        {"do": "set_percentage", "what": "hive fan", "percentage": 33},
        "none",
    ),
    "power it down": (
        "power the desk fan down",
        {"do": "decrease_speed", "what": "desk fan"},
        [("fan.turn_off", ["fan.desk"], {})],
    ),
    "power up": (
        "power up all my fans but the desk fan",
        {"do": "increase_speed", "what": "fans", "all": True, "except": "desk fan"},
        [("fan.turn_on", ["fan.office"], {})],
    ),
    "kill it": (
        "calls over kill the desk fan please",
        {"do": "turn_on", "what": "desk fan"},
        [("fan.turn_off", ["fan.desk"], {})],
    ),
    "cut it by some": (
        "cut the desk lamp by twenty percent",
        {"do": "turn_on", "what": "desk lamp", "brightness_step_pct": -20},
        [("light.turn_on", ["light.desk"], {"brightness_step_pct": -20})],
    ),
    "not so bright": (
        "not so bright, the desk lamp",
        {"do": "turn_on", "what": "desk lamp", "brightness_step_pct": 20},
        [("light.turn_on", ["light.desk"], {"brightness_step_pct": -20})],
    ),
    "less dim": (
        "make the desk lamp less dim",
        {"do": "turn_on", "what": "desk lamp", "brightness_step_pct": -20},
        [("light.turn_on", ["light.desk"], {"brightness_step_pct": 20})],
    ),
    "up, but not too bright": (
        "turn the desk lamp up, but not too bright",
        {"do": "turn_on", "what": "desk lamp", "brightness_step_pct": 20},
        [("light.turn_on", ["light.desk"], {"brightness_step_pct": 20})],
    ),
    "flip it on": (
        "flip the desk lamp on",
        {"do": "toggle", "what": "desk lamp"},
        [("light.turn_on", ["light.desk"], {})],
    ),
    "toggle it": (
        "toggle the desk lamp on the left",
        {"do": "toggle", "what": "desk lamp"},
        [("light.toggle", ["light.desk"], {})],
    ),
    "up a notch": (
        "turn the sonos up a notch",
        {"do": "turn_on", "what": "sonos", "brightness_step_pct": 20},
        [("media_player.volume_up", ["media_player.sonos"], {})],
    ),
    "down a notch": (
        "take the desk fan down a notch",
        {"do": "volume_down", "what": "desk fan"},
        [("fan.decrease_speed", ["fan.desk"], {})],
    ),
    "what is started": (
        "start the kettle",
        {"do": "start", "what": "kettle"},
        [("switch.turn_on", ["switch.kettle"], {})],
    ),
    "what runs, and is no valve": (
        "let the kettle run",
        {"do": "open_valve", "what": "kettle"},
        [("switch.turn_on", ["switch.kettle"], {})],
    ),
    "what runs no more": (
        "shut the kettle",
        {"do": "close_valve", "what": "kettle"},
        [("switch.turn_off", ["switch.kettle"], {})],
    ),
    "away": (
        "put the hive in away mode",
        {"do": "alarm_arm_away", "what": "hive"},
        [("climate.set_preset_mode", ["climate.office"], {"preset_mode": "away"})],
    ),
    "the fan's mode that was written": (
        "switch the hive fan mode from low to high",
        {"do": "set_fan_mode", "what": "hive fan", "fan_mode": "high"},
        "none",
    ),
    "a white": (
        "island cool white",
        {"do": "turn_on", "what": "island", "color_name": "white"},
        [("light.turn_on", ["light.island"], {"color_temp_kelvin": 4000})],
    ),
    "a white in numbers": (
        "island to 3000 kelvin, no daylight",
        {"do": "turn_on", "what": "island", "color_temp_kelvin": 3000},
        [("light.turn_on", ["light.island"], {"color_temp_kelvin": 3000})],
    ),
    "what stands before the name": (
        "stop rosie and shut the gate",
        {"do": "close_cover", "what": "rosie"},
        [("vacuum.stop", ["vacuum.down"], {})],
    ),
    "heating and cooling": (
        "put the hive in heat cool mode",
        {"do": "set_hvac_mode", "what": "hive", "hvac_mode": "cool"},
        [("climate.set_hvac_mode", ["climate.office"], {"hvac_mode": "heat_cool"})],
    ),
    "half a degree": (
        "hive to twenty and a half",
        {"do": "set_temperature", "what": "hive", "temperature": 20},
        [("climate.set_temperature", ["climate.office"], {"temperature": 20.5})],
    ),
    "half of something else": (
        "hive to 20, the five of us are cold",
        {"do": "set_temperature", "what": "hive", "temperature": 20},
        [("climate.set_temperature", ["climate.office"], {"temperature": 20})],
    ),
}


@pytest.mark.parametrize(("prompt", "said", "expected"), SERVICES.values(), ids=SERVICES)
def test_the_service_is_that_of_the_device(
    prompt: str, said: dict[str, Any], expected: Actions | str
) -> None:
    assert asked(said, prompt=prompt) == expected


def test_what_is_misheard_is_no_color() -> None:
    home = "light.left | Bed left\nlight.right | Bed right"
    assert targets(home=home, what="bed write") == ["light.right"]


MEANT = {
    "with a slip": (
        "path ligths on",
        {"what": "ligths"},
        ["light.path_1"],
    ),
    "behind another sentence": (
        "morning! kettle on",
        {"what": "morning! kettle"},
        ["switch.kettle"],
    ),
    "a script in a sentence": (
        "time to leave the house now",
        {"do": "close_cover", "what": "house"},
        ["script.leave"],
    ),
    "no button": ("wifi's rubbish, reboot the hub", {"what": "wifi's"}, "none"),
    "no script that is to end": (
        "no need to leave the house, stop that",
        {"do": "turn_off", "what": "house"},
        "none",
    ),
    "not what is excepted": ("jacuzzi on, not the kettle", {"what": "jacuzzi"}, "none"),
    "a name behind something else": (
        "so humid, levoit on",
        {"what": "humid"},
        ["humidifier.levoit"],
    ),
    "not what stands beside": (
        "turn on the jacuzzi next to the kettle",
        {"what": "jacuzzi"},
        "none",
    ),
    "not what says what it is": ("porch lamp on, kettle", {"what": "porch lamp"}, "none"),
    "not a part of another name": (
        "turn on the kettle jacuzzi",
        {"what": "kettle jacuzzi"},
        "none",
    ),
    "no door": (
        "unlock my phone and tell me when the front door opens",
        {"do": "unlock", "what": "phone"},
        "none",
    ),
    "not elsewhere": ("kettle in the pool", {"what": "jug", "in": "pool"}, "none"),
}


@pytest.mark.parametrize(("prompt", "said", "expected"), MEANT.values(), ids=MEANT)
def test_a_name_in_the_prompt_is_meant_where_nothing_else_fits(
    prompt: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets(prompt=prompt, **said) == expected


def test_one_word_names_what_is_meant_if_one_is() -> None:
    home = "media_player.a | Wireless | Kitchen\nmedia_player.b | TV | Den\n"
    home += "light.a | Bed | Den\nlight.b | Orb | Den"
    pause = {"do": "media_pause", "kind": "media"}
    assert targets(home=home, prompt="pause the wireless", **pause) == ["media_player.a"]
    lights = targets(home=home, prompt="off to bed, lights out", do="turn_off", kind="light")
    assert lights == ["light.a", "light.b"]


def test_one_valve_is_meant_if_its_name_says_what_it_is() -> None:
    home = "valve.a | Vegetable drip | Yard\nvalve.b | Trough | Yard"
    water = {"do": "open_valve", "kind": "sprinkler", "what": "tomatoes"}
    assert targets(home=home, prompt="give the tomatoes a drink", **water) == ["valve.a"]
    home += "\nvalve.c | Lawn zone | Yard"
    close = {"do": "close_valve", "kind": "sprinkler"}
    assert targets(home=home, prompt="shut the water off", **close) == "ambiguous"
    assert targets(home=home, prompt="shut that drip off", **close) == ["valve.a"]


ITEMS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "taken for a list": (
        "I got the Coffee filters, tick them off",
        {"do": "update_item", "what": "coffee filters", "status": "completed"},
        {"item": "Coffee filters", "status": "completed"},
    ),
    "with a verb instead": (
        "The blanks arrived, tick them off",
        {"do": "update_item", "what": "blanks", "item": "tick", "status": "completed"},
        {"item": "blanks", "status": "completed"},
    ),
    "a verb before it": (
        "take eggs off the groceries",
        {"do": "remove_item", "what": "groceries", "item": "take eggs"},
        {"item": "eggs"},
    ),
    "a verb that is a part of it": (
        "add cut flowers to the groceries",
        {"do": "add_item", "what": "groceries", "item": "cut flowers"},
        {"item": "cut flowers"},
    ),
    "something else for the list": (
        "we need bin bags, and put the kettle on",
        {"do": "add_item", "what": "kettle", "item": "bin bags"},
        {"item": "bin bags"},
    ),
    "cut short": (
        "Jot down order the Cake for Tom under groceries, and call her",
        {"do": "add_item", "what": "groceries", "item": "order the cake"},
        {"item": "order the cake for Tom"},
    ),
    "cut short, on a list of two words": (
        "put apples from Kent on the grocery list",
        {"do": "add_item", "what": "grocery list", "item": "apples"},
        {"item": "apples from Kent"},
    ),
    "an amount of it": (
        "add two kilos of flour to the groceries",
        {"do": "add_item", "what": "groceries", "item": "flour"},
        {"item": "two kilos of flour"},
    ),
    "whole": (
        "jot milk down on the groceries",
        {"do": "add_item", "what": "groceries", "item": "milk"},
        {"item": "milk"},
    ),
    "another word for the list": (
        "milk on the grocery list",
        {"do": "add_item", "what": "grocery list", "item": "milk"},
        {"item": "milk"},
    ),
}


def test_a_list_that_is_not_here_is_no_other_one() -> None:
    wine = {"do": "add_item", "what": "wine list", "item": "port"}
    costco = {"do": "add_item", "what": "costco", "item": "port"}
    assert asked(wine, prompt="port on the wine list") == "none"
    assert asked(costco, prompt="port on the costco") == "none"


def test_an_item_behind_a_list_is_for_that_one() -> None:
    said = {"do": "add_item", "what": "chores", "item": "rake"}
    other = {"do": "add_item", "what": "tom's bike", "item": "rake"}
    assert asked(said, other, prompt="rake on the chores, oh and Tom's Bike") == [
        ("todo.add_item", ["todo.chores"], {"item": "rake"}),
        ("todo.add_item", ["todo.chores"], {"item": "Tom's Bike"}),
    ]
    assert asked(said, other, prompt="rake on the chores and on Tom's Bike") == [
        ("todo.add_item", ["todo.chores"], {"item": "rake"})
    ]
    list_of_food = {**said, "what": "groceries"}
    assert asked(said, list_of_food) == [
        ("todo.add_item", ["todo.food", "todo.chores"], {"item": "rake"})
    ]


@pytest.mark.parametrize(
    ("prompt", "verb"),
    [
        ("get rid of the milk on the groceries", "remove_item"),
        ("Delete milk from the groceries, I have some", "remove_item"),
        ("milk on the groceries so that I get rid of this cough", "add_item"),
    ],
)
def test_an_item_is_removed_where_that_was_said(prompt: str, verb: str) -> None:
    said = {"do": "add_item", "what": "groceries", "item": "milk"}
    assert asked(said, prompt=prompt) == [(f"todo.{verb}", ["todo.food"], {"item": "milk"})]


def test_each_of_several_items_is_as_it_was_written() -> None:
    items = [{"do": "add_item", "what": "groceries", "item": item} for item in ("milk", "eggs")]
    assert asked(*items, prompt="milk eggs on the groceries") == [
        ("todo.add_item", ["todo.food"], {"item": "milk"}),
        ("todo.add_item", ["todo.food"], {"item": "eggs"}),
    ]


@pytest.mark.parametrize(("prompt", "said", "data"), ITEMS.values(), ids=ITEMS)
def test_what_is_put_on_a_list(prompt: str, said: dict[str, Any], data: dict[str, Any]) -> None:
    assert asked(said, prompt=prompt) == [(f"todo.{said['do']}", ["todo.food"], data)]


@pytest.mark.parametrize(
    ("prompt", "duration"),
    [
        ("90 seconds on the timer", "00:01:30"),
        ("put an hour on the timer", "01:00:00"),
        ("an hour and a half on the timer", "01:30:00"),
        ("one and a half hours please", "01:30:00"),
        ("half an hour", "00:30:00"),
        ("timer on 15 mins", "00:15:00"),
        ("a half-hour timer", "00:30:00"),
        ("three quarters of an hour", "00:45:00"),
        ("twenty five minutes", "00:25:00"),
        ("a twenty-five-minute timer", "00:25:00"),
        ("1.5 hours", "01:30:00"),
        ("two hours, ten minutes and five seconds", "02:10:05"),
        ("hang on a minute, ninety seconds on the timer", "00:01:30"),
        ("wait a minute, timer for ten", "00:09:00"),
        ("a hundred and twenty seconds", "00:09:00"),
        ("it had ten minutes, now two minutes more", "00:09:00"),
        ("0 minutes", "00:09:00"),
    ],
)
def test_a_timer_runs_as_long_as_is_said(prompt: str, duration: str) -> None:
    home = "timer.egg | Egg timer\nlight.a | Lamp"
    start = {"do": "start", "what": "timer", "duration": "00:09:00"}
    lamp = {"do": "turn_on", "what": "lamp"}
    assert asked(start, lamp, home=home, prompt=prompt) == [
        ("timer.start", ["timer.egg"], {"duration": duration}),
        ("light.turn_on", ["light.a"], {}),
    ]


def test_a_duration_of_another_form_stays() -> None:
    siren = Command("turn_on", Mention(("siren",)), None, {"duration": 90})
    assert with_durations([siren], "siren on for two minutes") == [siren]


def test_of_two_timers_each_runs_as_was_written() -> None:
    home = "timer.egg | Egg timer\ntimer.tea | Tea timer"
    egg = {"do": "start", "what": "egg timer", "duration": "00:09:00"}
    tea = {"do": "start", "what": "tea timer", "duration": "00:03:00"}
    assert asked(egg, tea, home=home, prompt="5 minutes for egg and tea timer") == [
        ("timer.start", ["timer.egg"], {"duration": "00:09:00"}),
        ("timer.start", ["timer.tea"], {"duration": "00:03:00"}),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "don't start the vacuum yet",
        "Please dont turn the kettle off i still need it",
        "if amma calls, switch off the tv",
        "should it start to snow have the awning stop",
        "unless it rains, open the blind",
        "once they have gone turn the kettle on",
    ],
)
def test_what_is_not_for_now_is_not_done(prompt: str) -> None:
    assert is_not_for_now(prompt)
    assert asked({"do": "turn_on", "what": "kettle"}, prompt=prompt) == "none"


@pytest.mark.parametrize(
    "prompt",
    [
        "don't forget to turn on the kettle",
        "dont fogret the kettle, on please",
        "don't turn off the lamp, turn on the kettle",
        "don't open the blind but turn the kettle on",
        "if you can, turn on the kettle",
        "when it's convenient put the kettle on",
        "if it isn't too much trouble, put the kettle on",
        "if nobody minds put the kettle on",
        "do not disturb, kettle on",
        "don't you think it is time for the kettle",
        "once again, the kettle on",
        "turn on the kettle",
    ],
)
def test_what_is_asked_for_is_done(prompt: str) -> None:
    assert targets(prompt=prompt, what="kettle") == ["switch.kettle"]


@pytest.mark.parametrize(
    "time",
    [
        "at six",
        "at 7 pm",
        "at 6:30",
        "tonight",
        "tomorrow morning please",
        "on sunday morning",
        "in ten minutes",
        "in half an hour",
        "at noon",
        "first thing in the mornin'.",
        "in the evening",
    ],
)
def test_what_is_for_later_is_not_done(time: str) -> None:
    off = {"do": "turn_off", "what": "kettle"}
    lamp = {"do": "turn_on", "what": "desk lamp"}
    assert asked(off, prompt=f"turn the kettle off {time}") == "none"
    assert asked(lamp, off, prompt=f"lamp on and turn off the kettle {time}") == [
        ("light.turn_on", ["light.desk"], {})
    ]


def test_a_level_and_a_remark_are_not_for_later() -> None:
    heat = {"do": "set_temperature", "what": "hive", "temperature": 12}
    assert asked(heat, prompt="set the hive at twelve") == [
        ("climate.set_temperature", ["climate.office"], {"temperature": 12})
    ]
    prompt = "turn on the kettle, we have guests at six"
    assert targets(prompt=prompt, what="kettle") == ["switch.kettle"]


DOUBTS = [
    "don't open the garage door, it's raining",
    "whatever you do, do not open the garage door",
    "hey if anna rings open the garage door",
    "open the garage door when i get home",
    "if you hear the bell open the garage door",
    "tomorrow morning open the garage door",
    "the garage door can stay open",
    "leave it, and keep the garage door open",
    "don't, please, open the garage door",
    "no leave the garage door",
    "open the garage door and after that",
]


@pytest.mark.parametrize("prompt", DOUBTS)
def test_no_door_is_opened_on_a_condition_or_against_a_word(prompt: str) -> None:
    said = {"do": "open_cover", "what": "garage door"}
    assert asked(said, prompt=prompt) == "none"


@pytest.mark.parametrize(
    "prompt",
    [
        "open the garage door",
        "could you open the garage door if you don't mind",
        "open the garage door, not the gate",
        "when you get a chance open the garage door please",
        "open the blinds, wait, no, the garage door",
        "open the blinds wait no the garage door",
        "lamp off and after that open the garage door",
        "blinds shut, swing the garage door wide open",
        "tom has no key and is here without his phone, open the garage door",
    ],
)
def test_a_door_is_opened_when_it_is_asked_for(prompt: str) -> None:
    said = {"do": "open_cover", "what": "garage door"}
    assert asked(said, prompt=prompt) == [("cover.open_cover", ["cover.garage"], {})]


def test_a_level_of_something_else_opens_no_door() -> None:
    warm = {"do": "set_temperature", "what": "garage", "temperature": 20}
    assert asked(warm, prompt="set the garage to 20") == "none"
    leave = {"do": "unlock", "what": "back door"}
    prompt = "lock the front door but leave the back door unlocked"
    lock = {"do": "lock", "what": "front door"}
    assert asked(lock, leave, prompt=prompt) == [("lock.lock", ["lock.front"], {})]
    place = "kitchen: lights off, and unlock the door"
    off = {"do": "turn_off", "kind": "light", "in": "kitchen"}
    found = asked(off, {"do": "unlock", "what": "door"}, prompt=place)
    assert found == "ambiguous"


def test_what_opens_a_door_on_no_doubt_still_closes_and_locks_it() -> None:
    lock = {"do": "turn_off", "what": "front door"}
    prompt = "lock front door and the kettle off"
    off = {"do": "turn_off", "what": "kettle"}
    assert asked(lock, off, prompt=prompt) == [
        ("lock.lock", ["lock.front"], {}),
        ("switch.turn_off", ["switch.kettle"], {}),
    ]


def test_but_make_sure_is_no_exception() -> None:
    every = {"do": "lock", "what": "doors", "all": True}
    back = {"do": "lock", "what": "back door"}
    both: Actions = [("lock.lock", ["lock.front", "lock.back"], {})]
    assert (
        asked(every, back, prompt="lock all doors, but make sure the back door is locked") == both
    )
    only: Actions = [("lock.lock", ["lock.front"], {})]
    assert asked(every, back, prompt="lock all the doors but the back door") == only
    assert asked(every, back, prompt="lock all the doors excluding the back door") == only


def test_of_several_doors_fewer_are_opened_where_a_place_is_said_first() -> None:
    home = "cover.a | Roof window A | Loft\ncover.b | Roof window B | Bath\ncover.c | Blind | Loft"
    windows = {"do": "open_cover", "what": "windows"}
    prompt = "loft: blind closed and open the windows"
    close = {"do": "close_cover", "what": "blind"}
    assert asked(close, windows, home=home, prompt=prompt) == [
        ("cover.close_cover", ["cover.c"], {}),
        ("cover.open_cover", ["cover.a"], {}),
    ]


def test_the_second_thing_is_in_the_place_of_the_first() -> None:
    home = """
    light.a | Lamp | Bedroom
    fan.a | Fan | Bedroom
    fan.b | Fan | Den
    lock.a | Door | Bedroom
    lock.b | Door | Den
    """
    lights = {"do": "turn_off", "what": "bedroom lights"}
    fan, door = {"do": "turn_off", "what": "fan"}, {"do": "unlock", "what": "door"}
    off: Actions = [("light.turn_off", ["light.a"], {})]
    assert asked(lights, fan, home=home) == [*off, ("fan.turn_off", ["fan.a"], {})]
    assert asked(lights, fan, area="Den", home=home) == [*off, ("fan.turn_off", ["fan.b"], {})]
    assert asked(lights, door, home=home) == "ambiguous"
    assert asked({"do": "turn_off", "what": "lights"}, fan, home=home) == "ambiguous"


def test_a_thing_and_its_possessive_are_one() -> None:
    mode = {"do": "set_fan_mode", "what": "aircon's", "fan_mode": "low"}
    home = "climate.a | North aircon | Den\nclimate.b | South aircon | Attic"
    assert targets("Attic", "the aircon's fan mode", home=home, **mode) == ["climate.b"]
    assert targets("Attic", "all aircons", home=home, **{**mode, "all": True}) == [
        "climate.a",
        "climate.b",
    ]


def test_each_valve_is_a_valve() -> None:
    close = {"do": "close_valve", "what": "valve"}
    assert asked(close, prompt="close the valve") == "ambiguous"
    home = HOME + "valve.main | Main valve | Cellar"
    assert targets(home=home, **close) == ["valve.main"]


def test_names_of_places_are_not_read_for_each_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's home may have 256 floors, and what a model made of a prompt 16 commands."""
    read: list[str] = []

    def words_of(text: str) -> tuple[str, ...]:
        read.append(text)
        return words_of_text(text)

    monkeypatch.setattr(words, "words_of", words_of)
    home = "\n".join(f"light.{n} | Lamp {n} | Area {n} of {n} | Floor {n}" for n in range(256))
    counts = []
    for count in (1, 16):
        read.clear()
        commands = [{"do": "turn_on", "what": f"jacuzzi {n} of the pool"} for n in range(count)]
        assert asked(*commands, prompt="jacuzzi", home=home) == "none"
        counts.append(sum(text.startswith(("Floor", "Area")) for text in read))
    assert counts[1] <= counts[0]


SEVERAL: dict[str, tuple[str, list[dict[str, Any]], Actions | str]] = {
    "the same again": (
        "sonos to a quarter and hit play",
        [
            {"do": "volume_set", "what": "sonos", "volume_level": 0.25},
            {"do": "media_play", "kind": "media"},
        ],
        [
            ("media_player.volume_set", ["media_player.sonos"], {"volume_level": 0.25}),
            ("media_player.media_play", ["media_player.sonos"], {}),
        ],
    ),
    "its level": (
        "turn the island orange and bring it down to a quarter",
        [
            {"do": "turn_on", "what": "island", "color_name": "orange"},
            {"do": "turn_on", "what": "quarter", "brightness_pct": 25},
        ],
        [
            ("light.turn_on", ["light.island"], {"color_name": "orange"}),
            ("light.turn_on", ["light.island"], {"brightness_pct": 25}),
        ],
    ),
    "its mode": (
        "hive on fan only",
        [
            {"do": "turn_on", "what": "hive"},
            {"do": "set_hvac_mode", "what": "fan", "hvac_mode": "fan_only"},
        ],
        [
            ("climate.turn_on", ["climate.office"], {}),
            ("climate.set_hvac_mode", ["climate.office"], {"hvac_mode": "fan_only"}),
        ],
    ),
    "no mode of a lamp": (
        "island on, fan only",
        [
            {"do": "turn_on", "what": "island"},
            {"do": "set_hvac_mode", "what": "fan", "hvac_mode": "fan_only"},
        ],
        [("light.turn_on", ["light.island"], {})],
    ),
    "not of another kind": (
        "kettle on and hit play",
        [{"do": "turn_on", "what": "kettle"}, {"do": "media_play", "kind": "media"}],
        "ambiguous",
    ),
    "the right one": (
        "left kitchen blind down and the right one up",
        [
            {"do": "close_cover", "what": "left kitchen blind"},
            {"do": "open_cover", "what": "right one"},
        ],
        [
            ("cover.close_cover", ["cover.kitchen_left"], {}),
            ("cover.open_cover", ["cover.kitchen_right"], {}),
        ],
    ),
    "left alone": (
        "turn the kettle on but leave the island alone",
        [{"do": "turn_on", "what": "kettle"}, {"do": "turn_off", "what": "island"}],
        [("switch.turn_on", ["switch.kettle"], {})],
    ),
    "left on": (
        "turn the kettle off and leave the island on",
        [{"do": "turn_off", "what": "kettle"}, {"do": "turn_on", "what": "island"}],
        [("switch.turn_off", ["switch.kettle"], {}), ("light.turn_on", ["light.island"], {})],
    ),
}


@pytest.mark.parametrize(("prompt", "commands", "expected"), SEVERAL.values(), ids=SEVERAL)
def test_a_command_goes_with_the_one_before(
    prompt: str, commands: list[dict[str, Any]], expected: Actions | str
) -> None:
    assert asked(*commands, prompt=prompt) == expected


def test_the_light_is_one() -> None:
    off = {"do": "turn_off", "kind": "light"}
    assert targets("Kitchen", "light off, thanks", **off) == "ambiguous"
    assert targets("Kitchen", "lights off, thanks", **off) == ["light.hob", "light.island"]
    assert targets("Garden", "turn off the light", **off) == ["light.path_1"]


def test_slips_are_looked_for_among_few_names_that_are_alike() -> None:
    """A stranger's names may all be a letter from one another."""
    names = [f"ab{chr(0x4E00 + number)}cde" for number in range(2000)]
    speller = words.Speller(names)
    assert max(map(len, speller._near.values())) <= 16
    assert speller.repaired(["abxcde"])[0] in names


@pytest.mark.parametrize(
    ("word", "what", "service"),
    [
        ("pause", "rosie", "vacuum.pause"),
        ("start", "rosie", "vacuum.start"),
        ("run", "rosie", "vacuum.start"),
        ("close", "blind", "cover.close_cover"),
        ("shut", "blind", "cover.close_cover"),
    ],
)
def test_the_verb_before_a_name_is_that_of_the_device(word: str, what: str, service: str) -> None:
    said = {"do": "oscillate", "what": what, "oscillating": True}
    found = asked(said, area="Office", prompt=f"{word} the {what} and the hob off")
    assert [(one[0], one[2]) for one in found] == [(service, {})]


@pytest.mark.parametrize(("armed", "preset"), [("home", "home"), ("night", "sleep")])
def test_a_thermostat_is_not_armed(armed: str, preset: str) -> None:
    said = {"do": f"alarm_arm_{armed}", "what": "hive"}
    service = "climate.set_preset_mode"
    assert asked(said) == [(service, ["climate.office"], {"preset_mode": preset})]


def test_what_somebody_does_is_not_done() -> None:
    lock = {"do": "lock", "what": "front door"}
    prompt = "I'll lock the front door myself on the way out, don't bother"
    assert asked(lock, prompt=prompt) == "none"
    locked: Actions = [("lock.lock", ["lock.front"], {})]
    assert asked(lock, prompt="I'll do the dishes myself, lock the front door") == locked
    assert asked(lock, prompt="I can't lock the front door myself") == locked
    assert asked(lock, prompt="I'll be late. lock the front door") == locked


def test_what_can_stay_is_left_out() -> None:
    island = {"do": "turn_off", "what": "island"}
    pause = {"do": "pause", "what": "desk lamp"}
    prompt = "island off, the desk lamp can stay"
    assert asked(island, pause, prompt=prompt) == [("light.turn_off", ["light.island"], {})]


@pytest.mark.parametrize("behind", ["alone", "be", "as it is"])
def test_what_is_left_as_it_is_is_left_out(behind: str) -> None:
    said = {"do": "turn_off", "what": "kettle"}
    assert asked(said, prompt=f"leave the kettle {behind}") == "none"


@pytest.mark.parametrize(
    "condition",
    ["whenever it rains", "as soon as it rains", "the moment it rains", "in case it rains"],
)
def test_nothing_is_done_on_a_condition(condition: str) -> None:
    assert asked({"do": "turn_on", "what": "kettle"}, prompt=f"{condition}, kettle on") == "none"


@pytest.mark.parametrize("word", ["and", "just", "instead", "only", "rather", "then"])
def test_a_word_for_another_thing_lets_it_be_done(word: str) -> None:
    prompt = f"don't turn off the lamp {word} turn on the kettle"
    assert targets(prompt=prompt, what="kettle") == ["switch.kettle"]


def test_of_several_commands_one_that_fits_nothing_takes_no_other_name() -> None:
    humid = {"do": "turn_on", "what": "humid"}
    fan = {"do": "turn_on", "what": "desk fan"}
    assert targets(prompt="so humid, levoit on", what="humid") == ["humidifier.levoit"]
    expected: Actions = [("fan.turn_on", ["fan.desk"], {})]
    assert asked(humid, fan, prompt="so humid, levoit on and the desk fan") == expected
