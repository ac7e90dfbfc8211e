"""Fields whose values always stand in the prompt, and examples that are made of others."""

import re
from typing import Any

import pytest

from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.dialogues import Dialogue, Turn
from edged.specialists.grounding import (
    PROMPT,
    grounded_keys,
    number_words,
    stands_in,
    values_of,
    with_grounding,
)
from edged.specialists.multiply import Multiplier
from edged.specialists.wording import grounded, wording_of_tools

AREAS = ["kitchen", "living room", "bedroom", "garage"]
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "area": {"type": "string", "enum": AREAS},
        "kind": {"type": "string", "enum": ["light", "fan"]},
        "level": {"type": "integer", "minimum": -100, "maximum": 100},
        "item": {"type": "string"},
    },
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("set", "stop")
]
SHAPE = tools_shape(TOOLS)


def call(name: str = "set", **arguments: object) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


def examples() -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for level in range(20, 32):
        area = AREAS[level % 4]
        said = f"lamps in the {area.upper()} to {level}, buy milk {level}"
        answer = call(area=area, level=level, kind="light", item=f"milk {level}")
        found.append((answer, said))
    return found


@pytest.mark.parametrize(
    ("value", "prompt", "expected"),
    [
        ("kitchen", "the Kitchen light", True),
        ("kitchen", "the ktichen light", True),
        ("kitchen", "the kitchn light", True),
        ("kitchen", "the chicken light", False),
        ("living room", "living rooms", True),
        ("living room", "a room for living", False),
        ("living_room", "in the living room", True),
        ("fan", "the fans", True),
        ("fan", "a pan", False),
        (20, "to 20%", True),
        (20, "to 120", False),
        (20, "twenty degrees", True),
        (25, "to twenty five", True),
        (20, "to twenty five", False),
        (-4, "down by 4", True),
        (0.5, "0.5", True),
        (True, "true", False),
    ],
)
def test_a_value_stands_in_a_prompt(value: object, prompt: str, expected: bool) -> None:
    assert stands_in(value, prompt) is expected


def test_numbers_have_words() -> None:
    assert [number_words(n) for n in (0, 13, 40, 99, 100)] == [
        "zero",
        "thirteen",
        "forty",
        "ninety nine",
        "100",
    ]


def test_fields_that_are_always_said_are_found() -> None:
    keys = grounded_keys(SHAPE, examples())
    names = ("area", "item", "level")
    # The other function was never called: what its fields' names are elsewhere, tells.
    assert keys == [f"|{index}.arguments.{name}" for index in (0, 1) for name in names]
    assert grounded_keys(SHAPE, examples()[:5]) == []


def allowed(prompt: str) -> re.Pattern[str]:
    held = with_grounding(SHAPE, grounded_keys(SHAPE, examples()))
    pattern = held.pattern({PROMPT: prompt})
    assert pattern is not None
    return re.compile(pattern)


def test_what_was_not_said_cannot_be_answered() -> None:
    expression = allowed("set the lamps in the bedrooom to 40")
    assert expression.fullmatch("set area=bedroom kind=light level=40")
    assert expression.fullmatch("set kind=fan level=-40")
    assert expression.fullmatch("set item=lamps in")
    assert expression.fullmatch("stop")
    for text in ("set area=kitchen", "set level=4", "set item=milk", "stop level=41"):
        assert not expression.fullmatch(text)


def test_what_must_be_said_may_be_anything_where_nothing_is() -> None:
    properties = {"level": {"type": "integer"}, "area": PARAMETERS["properties"]["area"]}
    schema = {"type": "object", "properties": properties, "required": ["area"]}
    shape = with_grounding(shape_of(schema), [".area"])
    assert re.fullmatch(shape.pattern({PROMPT: "to 40"}) or "", "area=garage")
    assert not re.fullmatch(shape.pattern({PROMPT: "in the kitchen"}) or "", "area=garage")


def test_a_wording_holds_answers_to_the_prompt() -> None:
    wording = grounded(wording_of_tools(TOOLS, []), examples())
    free, held = wording.grammar(), wording.grammar({}, "in the garage")
    assert free is not None
    assert held is not None
    assert "kitchen" in free
    assert "kitchen" not in held
    answer = call(area="kitchen")
    assert wording.read(wording.write(answer)) == answer


def test_lists_and_lines_are_grounded_too() -> None:
    areas = {"type": "array", "items": PARAMETERS["properties"]["area"]}
    line = {"type": "object", "properties": {"areas": areas}}
    schema = {
        "type": "object",
        "properties": {"do": {"type": "array", "items": line}, "level": {"type": "integer"}},
        "required": ["do"],
    }
    shape = shape_of(schema)
    value = {"do": [{"areas": ["kitchen", "garage"]}], "level": 3}
    keys = [one.key for one in values_of(shape, value)]
    assert keys == [".do[].areas[]", ".do[].areas[]", ".level"]
    held = with_grounding(shape, keys).pattern({PROMPT: "the garage at 3"})
    assert held is not None
    assert re.fullmatch(held, "areas=garage\nlevel=3")
    assert not re.fullmatch(held, "areas=kitchen")


def dialogue(said: str, answer: object, line: int = 1) -> Dialogue:
    return Dialogue((Turn(said, answer),), line, "group")


def test_values_are_exchanged_in_prompt_and_answer_alike() -> None:
    said = "Lamps in the Kitchen to 40"
    dialogues = [
        dialogue(said, call(area="kitchen", level=40)),
        dialogue("garage lamps to 90", call(area="garage", level=90), 2),
    ]
    multiplier = Multiplier(dialogues, SHAPE)
    seen = set()
    for number in range(60):
        (turn,) = multiplier.variation(dialogues[0], number).turns
        arguments = turn.answer["arguments"]
        assert stands_in(arguments["area"], turn.said)
        assert str(arguments["level"]) in turn.said
        assert 40 <= arguments["level"] <= 90
        seen.add(arguments["area"])
    assert seen == set(AREAS)
    again = Multiplier(dialogues, SHAPE).variation(dialogues[0], 3)
    assert again == multiplier.variation(dialogues[0], 3)
    assert again != Multiplier(dialogues, SHAPE, seed=1).variation(dialogues[0], 3)


def test_a_value_that_is_said_twice_or_not_at_all_stays() -> None:
    dialogues = [dialogue("kitchen to kitchen", call(area="kitchen", kind="light"))]
    multiplier = Multiplier(dialogues, SHAPE)
    for number in range(20):
        (turn,) = multiplier.variation(dialogues[0], number).turns
        assert turn.answer == dialogues[0].turns[0].answer


def test_a_value_of_an_earlier_turn_is_exchanged_in_all() -> None:
    turns = (
        Turn("lamps in the garage", call(area="garage")),
        Turn("and stop there", call("stop", area="garage")),
    )
    one = Dialogue(turns, 1, "group")
    multiplier = Multiplier([one], SHAPE)
    answers = set()
    for number in range(30):
        first, second = multiplier.variation(one, number).turns
        area = first.answer["arguments"]["area"]
        assert second.answer["arguments"]["area"] == area
        assert stands_in(area, first.said)
        answers.add(area)
    assert len(answers) > 1


def test_texts_that_are_answered_keep_their_letters() -> None:
    one = dialogue("please buy the Oat Milk today", call(item="Oat Milk"))
    multiplier = Multiplier([one], SHAPE)
    said = {multiplier.variation(one, number).turns[0].said for number in range(80)}
    assert len(said) > 3
    assert all("Oat Milk" in text for text in said)


def test_texts_are_said_otherwise_and_answered_the_same() -> None:
    one = dialogue("What is the time?", "It is noon.")
    multiplier = Multiplier([one], None)
    made = [multiplier.variation(one, number).turns[0] for number in range(80)]
    assert {turn.answer for turn in made} == {"It is noon."}
    assert "what is the time" in {turn.said for turn in made}
    assert any("please" in turn.said for turn in made)
