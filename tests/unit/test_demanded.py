"""Fields that are always answered where a prompt says a value of them."""

import re
from typing import Any

import pytest

from edged.specialists.compact.records import Record
from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.compact.shapes import AnyOf
from edged.specialists.demanded import Demands, demands_of, said_fields, with_demands
from edged.specialists.grounding import PROMPT, with_grounding
from edged.specialists.hearing import Heard
from edged.specialists.wording import grounded, wording_of_tools

AREAS = ["kitchen", "living room", "garage"]
PROPERTIES: dict[str, Any] = {
    "area": {"type": "string", "enum": AREAS},
    "name": {"anyOf": [{"type": "string", "enum": ["kitchen radio", "lamp"]}, {"type": "null"}]},
    "level": {"type": "integer", "minimum": 0, "maximum": 100},
}
SCHEMA = {"type": "object", "properties": PROPERTIES}


def record(schema: object = SCHEMA) -> Record:
    found = shape_of(schema)
    assert isinstance(found, Record)
    return found


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": SCHEMA}}
    for name in ("lamp", "stop")
]


def examples(*, num_left_out: int = 0) -> list[tuple[Any, str]]:
    """Calls of one function for each level; the first of them say no area."""
    found: list[tuple[Any, str]] = []
    for level in range(20):
        area = AREAS[level % 3]
        arguments = {"level": level} if level < num_left_out else {"area": area, "level": level}
        found.append(({"name": "lamp", "arguments": arguments}, f"{area} to {level}"))
    return found


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("the Kitchen lamps", {"area": True, "name": True}),
        ("in the living room", {"area": True}),
        ("the living of a room", {}),
        ("the kitchn", {}),
        ("kitchen radio on", {"area": False, "name": True}),
        ("kitchen radio in the kitchen", {"area": True, "name": True}),
        ("to 40", {}),
        ("", {}),
    ],
)
def test_a_prompt_says_a_value(prompt: str, expected: dict[str, bool]) -> None:
    assert said_fields(record(), Heard(prompt)) == expected


def test_what_a_function_is_called_is_no_value() -> None:
    calls = tools_shape(TOOLS)
    assert isinstance(calls, AnyOf)
    call = calls.options[0]
    assert isinstance(call, Record)
    assert said_fields(call, Heard("the lamp in the kitchen")) == {}


def test_what_examples_never_left_out_is_required_where_it_is_said() -> None:
    wording = grounded(wording_of_tools(TOOLS, []), examples())
    assert wording.demands == Demands(required=("|0.arguments.area", "|1.arguments.area"))
    held = re.compile((wording.grammar({}, "garage lamps to 4") or "").split("/")[1])
    assert held.fullmatch("lamp area=garage level=4")
    assert held.fullmatch("lamp area=garage")
    assert not held.fullmatch("lamp level=4")
    assert not held.fullmatch("stop level=4"), "of a function without examples the others tell"
    unsaid = re.compile((wording.grammar({}, "lamps to 4") or "").split("/")[1])
    assert unsaid.fullmatch("lamp level=4")


def test_what_examples_leave_out_now_and_then_is_not_required() -> None:
    assert demands_of(tools_shape(TOOLS), examples(num_left_out=1)) == Demands()


def test_few_examples_are_not_enough() -> None:
    few = [({"name": "stop", "arguments": {"area": "garage"}}, "stop the garage")] * 9
    assert demands_of(tools_shape(TOOLS), few) == Demands()
    assert demands_of(tools_shape(TOOLS), [*few, few[0]]).required


def test_a_part_of_a_longer_value_is_left_out_if_examples_leave_it_out() -> None:
    radio = {"name": "lamp", "arguments": {"name": "kitchen radio"}}
    answers = [(radio, "the kitchen radio")] * 10
    wording = grounded(wording_of_tools(TOOLS, []), [*examples(), *answers])
    assert "|0.arguments.area" in wording.demands.apart
    held = re.compile((wording.grammar({}, "play the kitchen radio at 5") or "").split("/")[1])
    assert held.fullmatch("lamp name=kitchen radio level=5")
    assert not held.fullmatch("lamp area=kitchen name=kitchen radio")
    both = re.compile((wording.grammar({}, "kitchen radio in the kitchen") or "").split("/")[1])
    assert both.fullmatch("lamp area=kitchen name=kitchen radio")


def test_objects_in_lists_have_their_demands_too() -> None:
    schema = {
        "type": "object",
        "properties": {"do": {"type": "array", "items": SCHEMA}, "area": PROPERTIES["area"]},
        "required": ["do"],
    }
    shape = shape_of(schema)
    answers = [
        (
            {"do": [{"area": "kitchen"}, {"area": "kitchen", "level": n}], "area": "kitchen"},
            "kitchen",
        )
        for n in range(10)
    ]
    demands = demands_of(shape, answers)
    assert demands.required == (".area", ".do[].area")
    prompt = "the garage to 5"
    held = with_grounding(shape, demands.required)
    pattern = with_demands(held, demands, Heard(prompt)).pattern({PROMPT: Heard(prompt)})
    assert pattern is not None
    assert re.fullmatch(pattern, "area=garage level=5\narea=garage")
    assert not re.fullmatch(pattern, "level=5\narea=garage")
    assert not re.fullmatch(pattern, "area=garage level=5\nlevel=5")
