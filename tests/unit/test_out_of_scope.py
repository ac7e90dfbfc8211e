"""Sentences that no function does, as examples for the function that says so."""

from typing import Any

import pytest

from edged.specialists.dialogues import Dialogue, Turn
from edged.specialists.out_of_scope import catch_all, out_of_scope


def function(name: str, description: str = "", **properties: Any) -> dict[str, Any]:  # noqa: ANN401
    parameters = {"type": "object", "properties": properties}
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


LAMP = function("switch_lamp", "Switch a lamp.", state={"enum": ["on", "off"]})
UNCLEAR = function("intent_unclear", reason={"enum": ["vague", "other"]})
TOOLS = [LAMP, UNCLEAR]


def call(name: str, **arguments: str) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


ON, VAGUE, OTHER = (
    call("switch_lamp", state="on"),
    call("intent_unclear", reason="vague"),
    call("intent_unclear", reason="other"),
)


def dialogue(*turns: tuple[str, Any]) -> Dialogue:
    return Dialogue(tuple(Turn(said, answer) for said, answer in turns), 1, "line 1")


EXAMPLES = [
    dialogue(("lamp on", ON), ("do something nice", VAGUE)),
    dialogue(("what time is it now", OTHER), ("make the printer bright", ON)),
    dialogue(("make it nice", VAGUE)),
]


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (TOOLS, "intent_unclear"),
        ([function("reject", "The request is not supported here.")], "reject"),
        ([LAMP], None),
        ([UNCLEAR, function("out_of_scope")], None),
        ({"type": "object"}, None),
        (None, None),
    ],
)
def test_the_function_for_it_is_known_by_its_name_or_description(
    tools: object, expected: str | None
) -> None:
    """Where several could be it, none is."""
    assert catch_all(tools) == expected


def test_each_family_gets_what_the_examples_answer_to_what_is_most_alike() -> None:
    made = out_of_scope(EXAMPLES, TOOLS, 2000, seed=0)
    assert len(made) == 2000
    answers = {one.turns[-1].said: one.turns[-1].answer for one in made}
    assert answers["how old are you"] == OTHER
    assert answers["make it better"] == VAGUE
    # No example is alike what is said of things that are not there.
    assert not any("sauna" in said for said in answers)


def test_what_is_said_of_what_the_functions_do_is_left_out() -> None:
    thing = call("intent_unclear", reason="unsupported")
    examples = [*EXAMPLES, dialogue(("turn on the boat", thing))]
    said = [one.turns[-1].said for one in out_of_scope(examples, TOOLS, 2000, seed=0)]
    assert any("sauna" in one for one in said)
    assert not any("printer" in one for one in said)


def test_they_stand_behind_beginnings_of_the_examples() -> None:
    made = out_of_scope(EXAMPLES, TOOLS, 100, seed=0)
    begun = {tuple(turn.said for turn in one.turns[:-1]) for one in made}
    assert begun == {(), ("lamp on",), ("what time is it now",)}
    assert made == out_of_scope(EXAMPLES, TOOLS, 100, seed=0)
    assert made != out_of_scope(EXAMPLES, TOOLS, 100, seed=1)


def test_lists_of_calls_stay_lists() -> None:
    examples = [dialogue((turn.said, [turn.answer])) for one in EXAMPLES for turn in one.turns]
    made = out_of_scope(examples, TOOLS, 20, seed=0)
    assert all(isinstance(one.turns[-1].answer, list) for one in made)


def test_without_such_a_function_or_enough_examples_there_are_none() -> None:
    assert out_of_scope(EXAMPLES, [LAMP], 10, seed=0) == []
    assert out_of_scope(EXAMPLES[:1], TOOLS, 10, seed=0) == []
