"""What a prompt says of a command that the model left out of it, or wrote otherwise."""

from typing import Any

import pytest

from tests.unit.test_home_commands import Actions, asked, targets

HOUSE = """
light.stairs | Stair lights | Stairs | Basement
light.bar | Bar strip | Bar | Basement
light.sauna | Sauna lamp | Sauna | Basement
light.den_1 | Den lamp 1 | Den | Upper floor
light.den_2 | Den lamp 2 | Den | Upper floor
light.porch | Porch light | Porch
light.yard | Yard light | Yard
light.tom | Comet lamp | Tom's room | Upper floor
light.ida | Moon lamp | Ida's room | Upper floor
fan.tom | Tom fan | Tom's room | Upper floor
fan.bar | Bar fan | Bar | Basement
cover.den_old | Den blind old | Den | Upper floor
cover.den_new | Den blind new | Den | Upper floor
media_player.beam | Sonos Beam | Den | Upper floor
media_player.waves | Sea waves | Tom's room | Upper floor
media_player.tv | Telly | Bar | Basement
cover.gate | Barn gate | Yard
lock.cellar | Cellar door | Stairs | Basement
valve.one | Zone one | Yard
valve.two | Zone two | Yard
"""
BASEMENT = {"do": "turn_off", "what": "basement lights"}
EXCEPTIONS: dict[str, tuple[str, dict[str, Any], list[str] | str]] = {
    "except": ("basement lights off except the bar", BASEMENT, ["light.stairs", "light.sauna"]),
    "apart from": (
        "basement lights off apart from the stairs please",
        BASEMENT,
        ["light.bar", "light.sauna"],
    ),
    "not": ("basement lights off, not the sauna", BASEMENT, ["light.stairs", "light.bar"]),
    "but not in": (
        "turn the basement lights off but not in the sauna.",
        BASEMENT,
        ["light.stairs", "light.bar"],
    ),
    "leave it on": (
        "basement lights off but leave the sauna lamp on",
        BASEMENT,
        ["light.stairs", "light.bar"],
    ),
    "leave it on for somebody": (
        "basement lights off, just leave the sauna lamp burnin' for Hank.",
        BASEMENT,
        ["light.stairs", "light.bar"],
    ),
    "whose it is": (
        "upper floor lights off but not Tom's, he's asleep",
        {"do": "turn_off", "what": "upper floor lights"},
        ["light.den_1", "light.den_2", "light.ida"],
    ),
    "the ones there": (
        "basement lights off except the bar ones",
        BASEMENT,
        ["light.stairs", "light.sauna"],
    ),
    "leave it": (
        "basement lights off but leave the sauna lamp",
        BASEMENT,
        ["light.stairs", "light.bar"],
    ),
    "leave a place": (
        "basement lights off and leave the sauna",
        BASEMENT,
        ["light.stairs", "light.bar", "light.sauna"],
    ),
    "no exception of a home": (
        "basement lights off but not too fast",
        BASEMENT,
        ["light.stairs", "light.bar", "light.sauna"],
    ),
    "no exception at the end": (
        "basement lights, except that I forgot the sauna, all of them off",
        BASEMENT,
        ["light.stairs", "light.bar", "light.sauna"],
    ),
    "no exception of one": (
        "the sauna lamp off, not the porch light",
        {"do": "turn_off", "what": "sauna lamp"},
        ["light.sauna"],
    ),
    "written with its preposition": (
        "",
        {**BASEMENT, "all": True, "except": "in the bar"},
        ["light.stairs", "light.sauna"],
    ),
    "the landing one": (
        "yard light on, no wait, the porch one",
        {"what": "porch one"},
        ["light.porch"],
    ),
    "zone one": ("zone one on", {"what": "zone one"}, ["valve.one"]),
    "a part of a name": (
        "unmute the beam",
        {"do": "volume_mute", "kind": "media", "is_volume_muted": False},
        ["media_player.beam"],
    ),
    "no part of a name": (
        "unmute the sound",
        {"do": "volume_mute", "kind": "media", "is_volume_muted": False},
        "ambiguous",
    ),
    "misheard": ("lights on in hear", {"kind": "light", "in": "hear"}, "ambiguous"),
}


@pytest.mark.parametrize(("prompt", "said", "expected"), EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_the_prompt_says_which(
    prompt: str, said: dict[str, Any], expected: list[str] | str
) -> None:
    assert targets(prompt=prompt, home=HOUSE, **said) == expected


def test_here_is_no_other_place() -> None:
    said = {"kind": "light", "in": "inside", "where": "here"}
    assert targets("Bar", "dark as inside a cow in here", home=HOUSE, **said) == ["light.bar"]


HERE: dict[str, tuple[str, list[str]]] = {
    "a place at the end": ("lights off in the sauna", ["light.sauna"]),
    "another place, and here": ("here, as in the sauna", ["light.den_1", "light.den_2"]),
    "no place of it": ("lights off, off to the sauna", ["light.den_1", "light.den_2"]),
}


@pytest.mark.parametrize(("prompt", "expected"), HERE.values(), ids=HERE)
def test_a_place_goes_before_here(prompt: str, expected: list[str]) -> None:
    said = {"do": "turn_off", "what": "lights", "where": "here"}
    assert targets("Den", prompt, home=HOUSE, **said) == expected


LAMPS = [{"do": "turn_on", "what": "den lamp 1"}, {"do": "turn_on", "what": "lamp 2"}]
BLIND = {"do": "close_cover", "what": "blind"}
SEVERAL: dict[str, tuple[str, list[dict[str, Any]], Actions | str]] = {
    "the last counts": (
        "turn on den lamp 1, actually make that lamp 2",
        LAMPS,
        [("light.turn_on", ["light.den_2"], {})],
    ),
    "both count": (
        "turn on den lamp 1, oh wait, and lamp 2",
        LAMPS,
        [("light.turn_on", ["light.den_1", "light.den_2"], {})],
    ),
    "no one is no correction": (
        "turn on den lamp 1, no one is here, turn on lamp 2",
        LAMPS,
        [("light.turn_on", ["light.den_1", "light.den_2"], {})],
    ),
    "meant, and no correction": (
        "turn on den lamp 1, I mean it, turn on lamp 2",
        LAMPS,
        [("light.turn_on", ["light.den_1", "light.den_2"], {})],
    ),
    "nobody corrected it": (
        "turn on den lamp 1, lamp 2",
        LAMPS,
        [("light.turn_on", ["light.den_1", "light.den_2"], {})],
    ),
    "which blind, of two commands": (
        "new blind down and sauna lamp off",
        [BLIND, {"do": "turn_off", "what": "sauna lamp"}],
        [("cover.close_cover", ["cover.den_new"], {}), ("light.turn_off", ["light.sauna"], {})],
    ),
    "nothing says which blind": (
        "the blind down and sauna lamp off",
        [BLIND, {"do": "turn_off", "what": "sauna lamp"}],
        "ambiguous",
    ),
    "with a pronoun": (
        "ida is cold, her lamp off",
        [{"do": "turn_off", "what": "her lamp"}],
        [("light.turn_off", ["light.ida"], {})],
    ),
    "his": (
        "Toms asleep turn his fan down to 20 and his lamp off",
        [
            {"do": "set_percentage", "what": "fan", "percentage": 20},
            {"do": "turn_off", "what": "lamp"},
        ],
        [
            ("fan.set_percentage", ["fan.tom"], {"percentage": 20}),
            ("light.turn_off", ["light.tom"], {}),
        ],
    ),
    "nobody knows whose": (
        "Tom and Ida sleep, their lamp off",
        [{"do": "turn_off", "what": "lamp"}],
        "ambiguous",
    ),
    "by a number alone": (
        "den twenty percent brighter",
        [{"do": "turn_on", "what": "twenty", "in": "bar", "brightness_step_pct": 20}],
        [("light.turn_on", ["light.bar"], {"brightness_step_pct": 20})],
    ),
    "to a level": (
        "dim the sauna lamp and the porch light to ten percent",
        [
            {"do": "turn_on", "what": "sauna lamp", "brightness_step_pct": -10},
            {"do": "turn_on", "what": "porch light", "brightness_step_pct": -10},
        ],
        [("light.turn_on", ["light.sauna", "light.porch"], {"brightness_pct": 10})],
    ),
    "by a step": (
        "sauna lamp down by 10 and the bar fan to 10",
        [
            {"do": "turn_on", "what": "sauna lamp", "brightness_step_pct": -10},
            {"do": "set_percentage", "what": "bar fan", "percentage": 10},
        ],
        [
            ("light.turn_on", ["light.sauna"], {"brightness_step_pct": -10}),
            ("fan.set_percentage", ["fan.bar"], {"percentage": 10}),
        ],
    ),
    "two exceptions in two commands": (
        "all the basement lights on except the bar and the sauna",
        [
            {"do": "turn_on", "what": "lights", "in": "basement", "all": True, "except": but}
            for but in ("bar", "sauna")
        ],
        [("light.turn_on", ["light.stairs"], {})],
    ),
    "exceptions that are written as commands": (
        "all the lights off except the yard, my den and the porch",
        [
            {"do": "turn_off", "what": "lights", "all": True, "except": "yard"},
            *({"do": "turn_off", "what": what} for what in ("den", "porch")),
        ],
        [
            (
                "light.turn_off",
                ["light.stairs", "light.bar", "light.sauna", "light.tom", "light.ida"],
                {},
            )
        ],
    ),
    "an exception, and then no more": (
        "basement lights off except the bar, and then turn the bar strip off",
        [
            {"do": "turn_off", "what": "basement lights", "all": True, "except": "bar"},
            {"do": "turn_off", "what": "bar strip"},
        ],
        [("light.turn_off", ["light.stairs", "light.bar", "light.sauna"], {})],
    ),
    "what is left running": (
        "sauna lamp off and leave the bar fan running",
        [{"do": "turn_off", "what": "sauna lamp"}, {"do": "turn_on", "what": "bar fan"}],
        [("light.turn_off", ["light.sauna"], {})],
    ),
    "alone, it is to run": (
        "leave the bar fan running",
        [{"do": "turn_on", "what": "bar fan"}],
        [("fan.turn_on", ["fan.bar"], {})],
    ),
    "closed, though it stands open": (
        "close the barn gate you lot left it open",
        [{"do": "open_cover", "what": "barn gate"}],
        [("cover.close_cover", ["cover.gate"], {})],
    ),
    "locked": (
        "please lock our cellar door",
        [{"do": "unlock", "what": "cellar door"}],
        [("lock.lock", ["lock.cellar"], {})],
    ),
    "a lock is not closed": (
        "shut the cellar door",
        [{"do": "unlock", "what": "cellar door"}],
        "none",
    ),
    "a valve is closed": (
        "shut zone one",
        [{"do": "open_valve", "what": "zone one"}],
        [("valve.close_valve", ["valve.one"], {})],
    ),
    "one is closed, the other one is opened": (
        "close the den blind old and open the barn gate",
        [{"do": "close_cover", "what": "den blind old"}, {"do": "open_cover", "what": "barn gate"}],
        [
            ("cover.close_cover", ["cover.den_old"], {}),
            ("cover.open_cover", ["cover.gate"], {}),
        ],
    ),
    "the lock is no verb": (
        "release the lock on the cellar door",
        [{"do": "unlock", "what": "cellar door"}],
        [("lock.unlock", ["lock.cellar"], {})],
    ),
    "the last gate, after all": (
        "open the shed door no hang on the barn gate I mean",
        [{"do": "open_cover", "what": "barn gate"}],
        [("cover.open_cover", ["cover.gate"], {})],
    ),
    "the lock is undone": (
        "undo the lock of the cellar door",
        [{"do": "unlock", "what": "cellar door"}],
        [("lock.unlock", ["lock.cellar"], {})],
    ),
    "a fan of that floor": (
        "basement lights and fan off",
        [{"do": "turn_off", "what": "basement lights"}, {"do": "turn_off", "what": "fan"}],
        [
            ("light.turn_off", ["light.stairs", "light.bar", "light.sauna"], {}),
            ("fan.turn_off", ["fan.bar"], {}),
        ],
    ),
    "no brightness of a white": (
        "sauna lamp yellowish 2700k",
        [
            {
                "do": "turn_on",
                "what": "sauna lamp",
                "brightness_pct": 27,
                "color_temp_kelvin": 2700,
            }
        ],
        [("light.turn_on", ["light.sauna"], {"color_temp_kelvin": 2700})],
    ),
    "a brightness and a white": (
        "sauna lamp 27 2700k",
        [
            {
                "do": "turn_on",
                "what": "sauna lamp",
                "brightness_pct": 27,
                "color_temp_kelvin": 2700,
            }
        ],
        [("light.turn_on", ["light.sauna"], {"brightness_pct": 27, "color_temp_kelvin": 2700})],
    ),
    "what is said of any": (
        "the bloody sauna lamp off",
        [{"do": "turn_off", "what": "bloody sauna lamp"}],
        [("light.turn_off", ["light.sauna"], {})],
    ),
    "no gate on a guess": (
        "open the electric barn gate",
        [{"do": "open_cover", "what": "electric barn gate"}],
        "none",
    ),
    "outside, by a thing": (
        "lights on outside by the bar",
        [{"do": "turn_on", "what": "lights", "in": "outside"}],
        [("light.turn_on", ["light.bar"], {})],
    ),
    "outside, by no thing of the home": (
        "lights on outside by the river",
        [{"do": "turn_on", "what": "lights", "in": "outside"}],
        "none",
    ),
    "taken back": (
        "open the cellar door, no hang on, don't",
        [{"do": "unlock", "what": "cellar door"}],
        "none",
    ),
    "no door by what is beside it": (
        "unlock the door outside at the cellar",
        [{"do": "unlock", "what": "door", "in": "outside"}],
        "none",
    ),
    "a whole name elsewhere": (
        "bar and den lamp 1 on",
        [
            {"do": "turn_on", "what": "lamp", "in": "bar"},
            {"do": "turn_on", "what": "lamp 1", "in": "den"},
        ],
        [("light.turn_on", ["light.bar", "light.den_1"], {})],
    ),
    "two places before a noun": (
        "sauna and tom's room lamps off",
        [{"do": "turn_off", "what": "sauna and tom's room lamps"}],
        [("light.turn_off", ["light.sauna", "light.tom"], {})],
    ),
    "one elsewhere": (
        "stair lights off and the one in the sauna as well",
        [
            {"do": "turn_off", "what": "stair lights"},
            {"do": "turn_off", "what": "one", "in": "sauna"},
        ],
        [("light.turn_off", ["light.stairs", "light.sauna"], {})],
    ),
    "those elsewhere": (
        "den lamps off and the ones in the basement on",
        [
            {"do": "turn_off", "what": "den lamps"},
            {"do": "turn_on", "what": "ones", "in": "basement"},
        ],
        [
            ("light.turn_off", ["light.den_1", "light.den_2"], {}),
            ("light.turn_on", ["light.sauna"], {}),
        ],
    ),
    "what is loud": (
        "the beam's too loud, down to 20%",
        [{"do": "turn_on", "what": "beam's", "brightness_pct": 20}],
        [("media_player.volume_set", ["media_player.beam"], {"volume_level": 0.2})],
    ),
    "what plays is started": (
        "start the sea waves",
        [{"do": "turn_on", "what": "sea waves"}],
        [("media_player.media_play", ["media_player.waves"], {})],
    ),
    "a television is turned on": (
        "start the telly",
        [{"do": "turn_on", "what": "telly"}],
        [("media_player.turn_on", ["media_player.tv"], {})],
    ),
}


SOURCES: dict[str, tuple[str, list[dict[str, Any]], str]] = {
    "behind the player": (
        "turn the telly on and bring up HDMI 1",
        [{"do": "turn_on", "what": "telly"}, {"do": "turn_on", "what": "HDMI 1"}],
        "HDMI 1",
    ),
    "on the player": (
        "bring up Netflix on the telly",
        [{"do": "turn_on", "what": "Netflix", "in": "telly"}],
        "Netflix",
    ),
    "taken for a place": (
        "chuck the telly on Triple J",
        [{"do": "turn_on", "what": "telly", "in": "Triple J"}],
        "Triple J",
    ),
    "with the broadcaster": (
        "BBC Four on the telly",
        [{"do": "select_source", "what": "telly", "source": "Four"}],
        "BBC Four",
    ),
    "with nothing else": (
        "TV Four please",
        [{"do": "select_source", "what": "telly", "source": "Four"}],
        "Four",
    ),
    "in capitals": (
        "CHANGE THE TELLY TO FOUR",
        [{"do": "select_source", "what": "telly", "source": "FOUR"}],
        "FOUR",
    ),
}


@pytest.mark.parametrize(("prompt", "commands", "source"), SOURCES.values(), ids=SOURCES)
def test_a_source_is_that_of_the_prompt(
    prompt: str, commands: list[dict[str, Any]], source: str
) -> None:
    found = asked(*commands, prompt=prompt, home=HOUSE)
    assert found[-1:] == [("media_player.select_source", ["media_player.tv"], {"source": source})]


@pytest.mark.parametrize("place", ["in the hall", "on the lawn", "on terrace", "on outside"])
def test_a_place_that_is_not_here_is_no_source(place: str) -> None:
    said = {"do": "turn_on", "what": "telly", "in": place.rsplit(maxsplit=1)[-1]}
    assert asked(said, prompt=f"turn the telly {place}", home=HOUSE) == "none"


def test_a_racket_is_of_what_plays() -> None:
    down = {"do": "volume_down", "what": "racket"}
    assert targets("Bar", "turn that racket down", home=HOUSE, **down) == ["media_player.tv"]
    home = HOUSE + "media_player.racket | Racket | Yard"
    assert targets("Bar", home=home, **down) == ["media_player.racket"]
    assert targets("Bar", home=HOUSE, do="turn_on", what="racket") == "none"


def test_what_plays_is_no_source_of_a_lamp() -> None:
    lamp = {"do": "turn_on", "what": "stairs lamp"}
    music = {"do": "turn_on", "what": "Spotify"}
    light: Actions = [("light.turn_on", ["light.stairs"], {})]
    assert asked(lamp, music, prompt="stairs lamp on, Spotify too", home=HOUSE) == light
    home = HOUSE + "scene.music | Spotify"
    tv = {"do": "turn_on", "what": "telly"}
    assert asked(tv, music, prompt="telly on and Spotify", home=home)[1:] == [
        ("scene.turn_on", ["scene.music"], {})
    ]


@pytest.mark.parametrize(
    ("prompt", "said", "left_out"),
    [
        ("every light bar the yard", {"in": "yard"}, ["light.yard"]),
        ("every light bar the yard one off", {}, ["light.yard"]),
        ("every light bar in the den", {}, ["light.den_1", "light.den_2"]),
    ],
)
def test_bar_excepts_where_nothing_is_called_so(
    prompt: str, said: dict[str, str], left_out: list[str]
) -> None:
    home = HOUSE.replace("Bar", "Pub")
    lights: dict[str, Any] = {"do": "turn_off", "what": "light bar", "all": True, **said}
    every = targets(home=home, do="turn_off", what="lights", all=True)
    found = targets(home=home, prompt=prompt, **lights)
    assert found == [one for one in every if one not in left_out]
    bars = targets(prompt=prompt, home=home + "light.tv | Light bar", **lights)
    assert bars == ("none" if said else ["light.tv"])


LEFT_OUT: dict[str, tuple[dict[str, str], str]] = {
    "of somebody": ({"except": "idas own"}, "light.ida"),
    "by a word of its name": ({"except": "one", "except_in": "moon"}, "light.ida"),
    "in a place that is not here": ({"except": "comet lamp", "except_in": "hall"}, "light.tom"),
}


@pytest.mark.parametrize(("said", "left_out"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_one_of_several_is_left_out(said: dict[str, str], left_out: str) -> None:
    lights: dict[str, Any] = {
        "do": "turn_off",
        "what": "lights",
        "in": "upper floor",
        "all": True,
        **said,
    }
    found = targets(home=HOUSE, **lights)
    assert [one for one in ("light.den_1", "light.tom", "light.ida") if one not in found] == [
        left_out
    ]


def test_there_is_not_here() -> None:
    fan = {"do": "turn_off", "what": "bar fan"}
    lights = {"do": "turn_off", "what": "lights", "where": "here"}
    prompt = "bar fan off and switch off the lights in there"
    assert asked(fan, lights, area="Den", prompt=prompt, home=HOUSE) == [
        ("fan.turn_off", ["fan.bar"], {}),
        ("light.turn_off", ["light.bar"], {}),
    ]


@pytest.mark.parametrize(("prompt", "commands", "expected"), SEVERAL.values(), ids=SEVERAL)
def test_the_prompt_says_more(
    prompt: str, commands: list[dict[str, Any]], expected: Actions | str
) -> None:
    assert asked(*commands, prompt=prompt, home=HOUSE) == expected
