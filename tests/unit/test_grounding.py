"""Fields whose values always stand in the prompt."""

import re
from dataclasses import replace
from typing import Any

import pytest

from edged.specialists import hearing
from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.grounding import (
    PROMPT,
    grounded_keys,
    values_of,
    with_grounding,
)
from edged.specialists.hearing import MAX_CHARACTERS, MAX_WORDS, Heard, number_words
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
        ("living room", "livingrooms", True),
        ("bathroom", "the bath room", True),
        ("bathroom", "a bath in the room", False),
        ("", "let 's go", False),
        ("fan", "the fans", True),
        ("fan", "a pan", False),
        (20, "to 20%", True),
        (20, "to 120", False),
        (20, "twenty degrees", True),
        (25, "to twenty five", True),
        (20, "to twenty five", False),
        (100, "a hundred dollars", True),
        (255, "two hundred and fifty-five", True),
        (1200, "twelve hundred", True),
        (3212, "three thousand two hundred and twelve", True),
        (25_000, "twenty five thousand", True),
        (200, "two thousand", False),
        (1, "a thousand", False),
        (1200, "pay 1,200.50 or 1,200", True),
        (1200.5, "pay 1,200.50", True),
        (200, "pay 1,200", False),
        (12, "12,2000", True),
        (-4, "down by 4", True),
        (0.5, "0.5", True),
        (True, "true", False),
    ],
)
def test_a_value_stands_in_a_prompt(value: object, prompt: str, expected: bool) -> None:
    assert Heard(prompt).says(value) is expected


def test_numbers_have_words() -> None:
    assert [number_words(n) for n in (0, 13, 40, 99, 100, 255, 3012, 10_000)] == [
        "zero",
        "thirteen",
        "forty",
        "ninety nine",
        "one hundred",
        "two hundred fifty five",
        "three thousand twelve",
        "10000",
    ]


def test_fields_that_are_always_said_are_found() -> None:
    keys = grounded_keys(SHAPE, examples())
    names = ("area", "item", "level")
    # The other function was never called: what its fields' names are elsewhere, tells.
    assert keys == [f"|{index}.arguments.{name}" for index in (0, 1) for name in names]
    assert grounded_keys(SHAPE, examples()[:5]) == []


def allowed(prompt: str) -> re.Pattern[str]:
    held = with_grounding(SHAPE, grounded_keys(SHAPE, examples()))
    pattern = held.pattern({PROMPT: Heard(prompt)})
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
    assert re.fullmatch(shape.pattern({PROMPT: Heard("to 40")}) or "", "area=garage")
    assert not re.fullmatch(shape.pattern({PROMPT: Heard("in the kitchen")}) or "", "area=garage")


def test_what_needs_a_number_is_not_answered_where_none_of_its_range_is_said() -> None:
    def function(name: str, most: int) -> dict[str, Any]:
        level = {"type": "integer", "minimum": 5, "maximum": most}
        schema = {"type": "object", "properties": {"level": level}, "required": ["level"]}
        return {"type": "function", "function": {"name": name, "parameters": schema}}

    shape = tools_shape([function("heat", 30), function("dim", 100)])
    held = with_grounding(shape, ["|0.arguments.level", "|1.arguments.level"])
    pattern = held.pattern({PROMPT: Heard("60 there instead")}) or ""
    assert re.fullmatch(pattern, "dim level=60")
    assert not any(re.fullmatch(pattern, f"heat level={level}") for level in range(5, 31))
    assert re.fullmatch(held.pattern({PROMPT: Heard("make it 20")}) or "", "heat level=20")


def test_what_is_always_the_same_is_not_written_where_it_is_said() -> None:
    fields = {"unit": {"enum": ["percent"]}, "level": {"type": "integer", "minimum": 0}}
    parameters = {"type": "object", "properties": fields, "required": ["unit"]}
    shape = tools_shape([{"function": {"name": "set", "parameters": parameters}}])
    held = with_grounding(shape, [".arguments.unit", ".arguments.level"])
    assert re.fullmatch(held.pattern({PROMPT: Heard("to 40 percent")}) or "", "set level=40")
    assert shape.read("set level=40", {}) == call(unit="percent", level=40)


def test_a_wording_holds_answers_to_the_prompt() -> None:
    wording = grounded(wording_of_tools(TOOLS, []), examples())
    free, held = wording.grammar(), wording.grammar({}, "in the garage")
    assert free is not None
    assert held is not None
    assert "kitchen" in free
    assert "kitchen" not in held
    answer = call(area="kitchen")
    assert wording.read(wording.write(answer)) == answer


def test_of_a_long_dialogue_the_last_words_are_heard() -> None:
    wording = grounded(wording_of_tools(TOOLS, []), examples())
    said = "the garage to 40 " + "no " * MAX_WORDS
    for prompt, areas in ((said, ["kitchen"]), (f"{said}\nthe bedroom", ["bedroom"])):
        grammar = wording.grammar({}, prompt + " kitchen")
        assert grammar is not None
        for area in AREAS:
            assert (area in grammar) is (area in {"kitchen", *areas})
        assert "level" not in grammar
    assert Heard(said).text == ("no " * MAX_WORDS)
    assert Heard("x" * 9000 + " 7").numbers == [7, -7]
    assert Heard(" ").text == ""


WORST = [
    " ".join(f"{'ab' * (n % 2)}roomy{n}" for n in range(700)),
    "a " * 2048,
    "9 " * 2048,
    "twenty one " * 400,
    "a-" * 2048,
    "_" * 4096,
    "x" * 50_000,
    " " * 50_000,
    "\n.\t" * 9000,
]


@pytest.mark.parametrize("said", WORST, ids=range(len(WORST)))
def test_the_worst_prompt_is_read_once_for_all_fields(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a stranger writes costs no more where a specialist has many fields and functions."""
    num_compared, num_asked = 0, 0
    slip, says = hearing.is_slip, Heard.says

    def compared(wanted: str, word: str) -> bool:
        nonlocal num_compared
        num_compared += 1
        return slip(wanted, word)

    def asked(heard: Heard, value: Any) -> bool:  # noqa: ANN401
        nonlocal num_asked
        num_asked += 1
        return says(heard, value)

    monkeypatch.setattr(hearing, "is_slip", compared)
    monkeypatch.setattr(Heard, "says", asked)
    properties = PARAMETERS["properties"] | {"step": {"enum": list(range(100))}}
    parameters = {"type": "object", "properties": properties}
    functions = [{"name": f"f{n}", "parameters": parameters} for n in range(20)]
    tools = [{"type": "function", "function": function} for function in functions]
    wording = wording_of_tools(tools, [])
    keys = [f"|{n}.arguments.{name}" for n in range(20) for name in properties]
    assert replace(wording, grounded=tuple(keys)).grammar({}, said) is not None
    assert num_asked == len(AREAS) + 2 + 100  # each value of each field's form once
    assert num_compared <= 7 * MAX_WORDS  # each word of a value with each that was heard
    heard = Heard(said)
    assert len(heard.text) <= MAX_CHARACTERS
    assert len(heard.numbers) <= 4 * MAX_WORDS
    assert len(heard.spans) <= 24 * MAX_WORDS


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
    held = with_grounding(shape, keys).pattern({PROMPT: Heard("the garage at 3")})
    assert held is not None
    assert re.fullmatch(held, "areas=garage\nlevel=3")
    assert not re.fullmatch(held, "areas=kitchen")


def test_of_a_long_prompt_shorter_runs_of_words_are_offered() -> None:
    """Each run is an alternative in a grammar, which has a limit of states."""
    short, long = (Heard(" ".join(f"w{n}" for n in range(count))) for count in (24, 25))
    assert max(len(run.split()) for run in short.spans) == 12
    assert max(len(run.split()) for run in long.spans) == 6
