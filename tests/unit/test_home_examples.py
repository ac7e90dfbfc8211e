"""The generator of the home specialist's examples: labels, splits, and how answers are compared."""

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from edged.specialists.devices.command import form_of
from edged.specialists.devices.meaning import home_services
from models.specialists.home.generator import by_hand, tables
from models.specialists.home.generator.clauses import Speaker
from models.specialists.home.generator.drafts import command
from models.specialists.home.generator.effects import same_actions
from models.specialists.home.generator.examples import Example, make, make_many
from models.specialists.home.generator.homes import KINDS, Device, Home, make_home
from models.specialists.home.generator.judge import judge, report
from models.specialists.home.generator.mentions import without_place
from models.specialists.home.generator.readings import kinds_of
from models.specialists.home.generator.resolve import Mention, Place, Verdict, resolve
from models.specialists.home.generator.shape import faults, schema, services
from models.specialists.home.generator.tables import SPLITS
from models.specialists.home.generator.values import Context
from models.specialists.home.generator.words import spoken_number, stem, tokens
from tests.paths import ROOT
from tests.schemas import problems

Answer = dict[str, Any]
Actions = list[dict[str, Any]]
# What a thing is called is no name: both splits may have it.
KIND_NAMES = {stem(word) for kind in KINDS.values() for word in kind.said.split()} | {
    stem(word)
    for word in [
        "heating",
        "shopping",
        "list",
        "to",
        "do",
        "blinds",
        "lights",
        "curtains",
        "shades",
        "door",
        "lock",
        "garage",
        "hot",
        "robot",
        "lawn",
        "boiler",
        "led",
        "fan",
        "of",
        "the",
    ]
}


@cache
def examples(split: str, sizes: tuple[int, int] = (1, 12), count: int = 1000) -> list[Example]:
    return list(make_many(count, 3, split, sizes))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (5, 5), (30, 30)])
def test_every_answer_has_the_shape(split: str, sizes: tuple[int, int]) -> None:
    for example in make_many(25, 5, split, sizes):
        line = example.as_json()
        assert not [*faults(line["answer"], line["inputs"])], line
        assert sizes[0] <= len(example.home.devices) <= sizes[1]
        assert "{" not in example.prompt
        assert example.prompt.strip() == example.prompt


def test_the_same_seed_makes_the_same_examples() -> None:
    several = [example.as_json() for example in make_many(20, 9, "train", (1, 9))]
    assert several[13] == make(9, 13, "train", (1, 9)).as_json()
    command = [sys.executable, "-m", "models.specialists.home.generator"]
    command += ["--count", "20", "--seed", "9", "--devices", "1-9"]
    runs = [subprocess.run(command, cwd=ROOT, check=True, capture_output=True) for _ in "12"]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.count(b"\n") == 20
    assert make(8, 13, "train", (1, 9)).as_json() != several[13]


def forms(split: str) -> set[str]:
    said = {form.text for section in tables.commands() for form in section.forms[split]}
    titles = (
        "wrapper",
        "but not",
        "about device",
        "about cover",
        "about lock",
        "later",
        "not",
        "talk",
    )
    return said | {phrase for title in titles for phrase in tables.phrases(title, split)}


def test_no_form_is_in_both_splits() -> None:
    assert not forms("train") & forms("held-out")
    for split, other in (SPLITS, SPLITS[::-1]):
        of_the_other = forms(other)
        for example in examples(split):
            assert not {*example.forms} & of_the_other


def test_no_sentence_is_in_both_splits() -> None:
    train, held_out = ({e.prompt.lower() for e in examples(split)} for split in SPLITS)
    assert not train & held_out


def test_no_name_is_in_both_splits() -> None:
    for title in tables.name_titles():
        train, held_out = (
            {name.lower() for name in tables.names(title, split)} for split in SPLITS
        )
        common = {name for name in train & held_out if not {*map(stem, tokens(name))} <= KIND_NAMES}
        assert not common, title


def test_no_device_area_or_floor_of_one_split_is_in_the_other() -> None:
    def named(split: str) -> set[str]:
        devices = [d for e in examples(split) for d in e.home.devices]
        places = {p.lower() for d in devices for p in (d.area, d.floor) if p}
        return places | {
            d.name.lower()
            for d in devices
            if not {stem(word) for word in tokens(d.name) if not word.isdigit()} <= KIND_NAMES
        }

    assert not named("train") & named("held-out")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("section", tables.commands(), ids=lambda section: section.name)
def test_each_command_is_said(section: tables.Section, split: str) -> None:
    wanted = [(section, min(kinds_of(section)))]
    for seed in range(300):
        home = make_home(Random(seed), split, 6, [wanted[0][1]] * (1 + seed % 2))
        asker = next((device.area for device in home.devices if device.area), None)
        context = Context(Random(seed), split, is_fahrenheit=False, is_spoken=False)
        speaker = Speaker(context.rng, replace(home, asker=asker), context)
        if draft := command(speaker, wanted):
            services_said = {a["service"] for clause in draft.clauses for a in clause.actions}
            assert services_said <= {*services()}
            return
    pytest.fail("was never said")


def test_answers_fit_the_schema() -> None:
    form = form_of(home_services(schema()["x-home"]))
    for example in examples("train")[:200]:
        said = example.as_json()["said"]
        assert problems(said, form) == []
        assert bool(said["commands"]) != ("reason" in said)
    assert problems({"commands": [{"do": "explode"}]}, form)
    assert problems({"commands": [], "reason": "perhaps"}, form)


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_copied_stands_in_the_sentence(split: str) -> None:
    for example in examples(split):
        for said in example.commands:
            for name in ("what", "in", "except", "except_in", "item", "source"):
                if name in said:
                    assert str(said[name]) in example.prompt


def test_what_is_put_on_a_list_stands_in_the_sentence() -> None:
    said = [(e.prompt.lower(), a) for e in examples("train") for a in e.actions]
    items = [(prompt, a["data"]["item"]) for prompt, a in said if "item" in a["data"]]
    assert len(items) > 10
    for prompt, item in items:
        assert str(item) in prompt


def test_each_service_has_a_command() -> None:
    said = {service for section in tables.commands() for service in section.services}
    assert said - {"everything.turn_off"} == {*services()}


@pytest.mark.parametrize("split", SPLITS)
def test_no_answer_is_rare_and_none_is_all(split: str) -> None:
    made = examples(split)
    said = Counter(action["service"] for example in made for action in example.actions)
    assert len(said) > 0.6 * len(services())
    assert max(said.values()) < 0.25 * said.total()
    reasons = Counter(example.reason for example in made)
    assert 0.08 < reasons["none"] / len(made) < 0.22
    assert 0.04 < reasons["ambiguous"] / len(made) < 0.16
    several = sum(len({a["service"] for a in example.actions}) > 1 for example in made)
    assert 0.15 < several / len(made) < 0.35
    asked_from = sum(example.home.asker is not None for example in made)
    assert 0.3 < asked_from / len(made) < 0.7


KITCHEN = Place("area", "Kitchen")
FRONTED = {
    "behind": ("turn off the lights in the kitchen", KITCHEN, "turn off the lights"),
    "within": ("put the lights in the Kitchen on", KITCHEN, "put the lights on"),
    "a floor": ("close it upstairs", Place("floor", "Upstairs"), "close it"),
    "here": ("dim the lights in here a bit", Place("here"), "dim the lights a bit"),
    "this floor": ("all off on this floor", Place("floor", "Attic", is_here=True), "all off"),
    "twice": ("the kitchen light in the kitchen", KITCHEN, None),
    "a part of a word": ("the kitchenette light", KITCHEN, None),
    "somebody's": ("the light in tom's room", Place("area", "Tom"), None),
    "nothing else": ("in the kitchen", KITCHEN, None),
}


@pytest.mark.parametrize(("text", "place", "expected"), FRONTED.values(), ids=FRONTED)
def test_a_place_is_taken_out_where_it_is_said_once(
    text: str, place: Place, expected: str | None
) -> None:
    assert without_place(text, place) == expected


@pytest.mark.parametrize("split", SPLITS)
def test_a_place_said_first_is_that_of_each_command(split: str) -> None:
    made = [e for e in examples(split) if e.group.startswith("place_first")]
    assert len({len(example.commands) for example in made}) == 2
    for example in made:
        is_first = re.match(r"(in|on|at|here|[\w ]*(stairs|side))\b", example.prompt.lower())
        assert is_first or any("{c}" in form for form in example.forms)
        for said in example.commands:
            assert ("in" in said) != ("where" in said)


def test_commands_without_verbs_are_said_side_by_side() -> None:
    said = [e.prompt.lower() for e in examples("train") if "+" in e.group]
    pattern = re.compile(r"\b(off|on|up|down) and [^,]*\b(off|on|up|down)[.!]?$")
    assert any(map(pattern.search, said))


def test_nothing_is_unlocked_on_all() -> None:
    for example in examples("train"):
        for action in example.actions:
            if action["service"] == "lock.unlock" and len(action["target"]) > 1:
                assert re.search(r" and |,", example.prompt.lower())
                assert not re.search(r"\b(all|every|each)\b", example.prompt.lower())


DEVICES = (
    Device("light.a", "Desk Lamp", "light", "Office", "Upstairs"),
    Device("light.b", "Ceiling", "light", "Office", "Upstairs"),
    Device("light.c", "Ceiling", "light", "Kitchen", "Downstairs"),
    Device("light.d", "Ceiling Fan Light", "light", "Hall", "Downstairs"),
    Device("fan.a", "Ceiling Fan", "fan", "Hall", "Downstairs"),
    Device("cover.a", "Patio Shade", "shade", "Patio"),
    Device("cover.b", "Patio Shade South", "shade", "Patio"),
    Device("lock.a", "Front Door", "lock", "Hall", "Downstairs"),
    Device("lock.b", "Cellar", "lock", "Garage", "Downstairs"),
)
LIGHT, SHADE = frozenset(("light",)), frozenset(("shade",))


@pytest.mark.parametrize(
    ("asker", "mention", "expected"),
    [
        (None, Mention("", ("desk", "lamp")), ["light.a"]),
        (None, Mention("", ("desk", "light")), ["light.a"]),
        (None, Mention("", ("office", "ceiling")), ["light.b"]),
        (None, Mention("", ("ceiling",)), Verdict.AMBIGUOUS),
        ("Kitchen", Mention("", ("ceiling",)), ["light.c"]),
        ("Kitchen", Mention("", ("light",)), ["light.c"]),
        ("Office", Mention("", ("light",)), Verdict.AMBIGUOUS),
        (None, Mention("", ("light",)), Verdict.AMBIGUOUS),
        ("Kitchen", Mention("", ("desk", "lamp")), ["light.a"]),
        (None, Mention("", ("ceiling",), place=Place("area", "Kitchen")), ["light.c"]),
        ("Patio", Mention("", ("ceiling", "fan")), ["fan.a"]),
        (None, Mention("", ("patio", "shade")), ["cover.a"]),
        (None, Mention("", ("shades",), "all", kinds=SHADE), ["cover.a", "cover.b"]),
        ("Office", Mention("", ("lights",), "many", kinds=LIGHT), ["light.a", "light.b"]),
        (
            None,
            Mention("", ("lights",), "all", Place("floor", "Downstairs"), LIGHT),
            ["light.c", "light.d"],
        ),
        (
            None,
            Mention(
                "", ("lights",), "all", Place("floor", "Upstairs"), LIGHT, Mention("", ("ceiling",))
            ),
            ["light.a"],
        ),
        (None, Mention("", ("lights",), "many", Place("here"), LIGHT), Verdict.AMBIGUOUS),
        (None, Mention("", ("bedroom", "chandelier")), Verdict.NONE),
        (None, Mention("", ("television",)), Verdict.NONE),
        (None, Mention("", ("desks", "lamps")), ["light.a"]),
        (None, Mention("", ("ceiling", "fan", "light")), ["light.d"]),
        (None, Mention("", ("lamp",)), Verdict.UNCLEAR),
        ("Kitchen", Mention("", ("lamp",)), Verdict.UNCLEAR),
        (None, Mention("", ("front", "door", "lock")), ["lock.a"]),
    ],
)
def test_who_is_meant(asker: str | None, mention: Mention, expected: list[str] | Verdict) -> None:
    reading = resolve(Home(DEVICES, asker), mention, lambda _: True)
    assert ([d.id for d in reading] if isinstance(reading, tuple) else reading) == expected


@pytest.mark.parametrize(
    ("asker", "mention", "expected"),
    [
        (None, Mention("", ("locks",), "all", kinds=frozenset(("lock",))), Verdict.NONE),
        (None, Mention("", ("lock",)), Verdict.AMBIGUOUS),
        ("Hall", Mention("", ("lock",)), Verdict.UNCLEAR),
        ("Hall", Mention("", ("cellar",)), ["lock.b"]),
    ],
)
def test_nothing_is_opened_on_a_guess(
    asker: str | None, mention: Mention, expected: list[str] | Verdict
) -> None:
    reading = resolve(Home(DEVICES, asker), mention, lambda d: d.kind == "lock", is_guarded=True)
    assert ([d.id for d in reading] if isinstance(reading, tuple) else reading) == expected


_BY_HAND = [by_hand.READ, by_hand.FRESH, by_hand.HARDER]


@pytest.mark.parametrize("file", _BY_HAND, ids=lambda file: file.stem)
def test_those_written_by_hand_have_the_shape(file: Path) -> None:
    lines = [*by_hand.read(file)]
    assert len(lines) > 90
    talk = {phrase for split in SPLITS for phrase in tables.phrases("talk", split)}
    for line in lines:
        assert not [*faults(line["answer"], line["inputs"])], line["prompt"]
        assert 3 <= len(line["inputs"]["devices"]) <= 30
        assert line["prompt"].lower() not in talk
    reasons = Counter(line["answer"].get("reason") for line in lines)
    assert reasons["none"] >= 15
    assert reasons["ambiguous"] >= 8
    assert sum("area" in line["inputs"] for line in lines) >= 20
    assert sum(len(line["answer"]["actions"]) > 1 for line in lines) >= 15


def act(service: str, *target: str, **data: object) -> dict[str, Any]:
    return {"service": service, "target": [*target], "data": data}


@pytest.mark.parametrize(
    ("given", "right"),
    [
        (
            [act("light.turn_off", "a", "b")],
            [act("light.turn_off", "b"), act("light.turn_off", "a")],
        ),
        ([act("cover.open_cover", "a")], [act("cover.set_cover_position", "a", position=100)]),
        ([act("valve.close_valve", "a")], [act("valve.set_valve_position", "a", position=0)]),
        ([act("fan.turn_on", "a", percentage=30)], [act("fan.set_percentage", "a", percentage=30)]),
        (
            [act("light.turn_on", "a"), act("light.turn_on", "a", color_name="red")],
            [act("light.turn_on", "a", color_name="Red")],
        ),
        (
            [act("climate.set_temperature", "a", temperature=21.0)],
            [act("climate.set_temperature", "a", temperature=21)],
        ),
        (
            [act("todo.add_item", "a", item="Oat  Milk")],
            [act("todo.add_item", "a", item="oat milk")],
        ),
        (
            [
                act("light.turn_on", "a", brightness_pct=10),
                act("light.turn_on", "a", brightness_pct=20),
            ],
            [act("light.turn_on", "a", brightness_pct=20)],
        ),
    ],
)
def test_what_does_the_same_is_right(given: Actions, right: Actions) -> None:
    assert same_actions({"actions": given}, {"actions": right})
    assert same_actions({"actions": right}, {"actions": given})


NOTHING = {"actions": [], "reason": "none"}


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ({"actions": [act("light.turn_on", "a")]}, {"actions": [act("light.turn_on", "b")]}),
        ({"actions": [act("light.turn_on", "a", "b")]}, {"actions": [act("light.turn_on", "a")]}),
        (
            {"actions": [act("light.turn_on", "a")]},
            {"actions": [act("light.turn_on", "a", brightness_pct=5)]},
        ),
        (
            {"actions": [act("media_player.volume_up", "a")] * 2},
            {"actions": [act("media_player.volume_up", "a")]},
        ),
        (
            {"actions": [act("todo.add_item", "a", item="tea")]},
            {"actions": [act("todo.add_item", "a", item="coffee")]},
        ),
        (
            {"actions": [act("vacuum.start", "a")]},
            {"actions": [act("vacuum.stop", "a")]},
        ),
        (
            {"actions": [act("light.turn_on", "a", brightness_step_pct=20)]},
            {"actions": [act("light.turn_on", "a")]},
        ),
        ({"actions": [act("light.turn_on", "a")]}, NOTHING),
        (NOTHING, {"actions": [act("light.turn_on", "a")]}),
        ({"actions": [], "reason": "ambiguous"}, NOTHING),
        ({}, NOTHING),
        ({"actions": None}, {"actions": [act("light.turn_on", "a")]}),
        ({"actions": [{"service": 3}]}, {"actions": [act("light.turn_on", "a")]}),
        ({"actions": [act("light", "a")]}, {"actions": [act("light.turn_on", "a")]}),
    ],
)
def test_what_does_something_else_is_wrong(given: Answer, right: Answer) -> None:
    assert not same_actions(given, right)


def test_answers_are_judged() -> None:
    lamp, fan = act("light.turn_on", "light.a"), act("fan.turn_on", "fan.a")
    right = [{"actions": [lamp]}, {"actions": [fan]}, NOTHING, {**NOTHING, "reason": "ambiguous"}]
    examples = [{"group": "on: turn on {x}", "answer": answer} for answer in right]
    judged = judge(examples, [right[0], NOTHING, NOTHING, None])
    assert [one.is_right for one in judged] == [True, False, True, False]
    said = [*report(judged)]
    assert said[0].startswith("right: 50.0% (")
    assert said[1].startswith("commands right: 50.0%")
    assert said[2].startswith("none found: 100.0%")
    assert said[3].startswith("none wrongly said: 33.3%")
    assert said[4].startswith("ambiguous found: 0.0%")
    assert said[6].startswith("done where nothing may be done: 0.0%")
    assert said[-1].startswith("  on: 50.0%")
    with pytest.raises(ValueError, match="shorter"):
        judge(examples, [])


def test_nothing_is_right_where_nothing_may_be_done() -> None:
    assert same_actions(NOTHING, NOTHING)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"actions": []}, "a reason"),
        ({"actions": [act("light.shine", "light.a")]}, "no such service"),
        ({"actions": [act("light.turn_on")]}, "not devices"),
        ({"actions": [act("light.turn_on", "light.z")]}, "not devices"),
        ({"actions": [act("light.turn_on", "fan.a")]}, "not all of light"),
        ({"actions": [act("fan.set_percentage", "fan.a")]}, "percentage is missing"),
        ({"actions": [act("fan.set_percentage", "fan.a", percentage=101)]}, "out of range"),
        ({"actions": [act("fan.oscillate", "fan.a", oscillating=1)]}, "out of range"),
        ({"actions": [act("light.turn_on", "light.a", color_name="mud")]}, "out of range"),
        ({"actions": [act("light.turn_on", "light.a", glow=1)]}, "no such field"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(answer: Answer, fault: str) -> None:
    inputs = {"devices": [{"id": "light.a"}, {"id": "fan.a"}]}
    assert any(fault in said for said in faults(answer, inputs))


@pytest.mark.parametrize(
    ("number", "said"), [(0, "zero"), (19, "nineteen"), (40, "forty"), (75, "seventy five")]
)
def test_numbers_are_said(number: int, said: str) -> None:
    assert spoken_number(number) == said
    assert spoken_number(100 + number).startswith("one hundred")
