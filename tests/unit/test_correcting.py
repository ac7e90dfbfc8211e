"""What a specialist could have said: the answers of a correction that are kept, and compared."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from edged.specialists.correcting import agrees, checked_answer
from edged.specialists.decider import Said
from edged.specialists.decision import decide
from edged.specialists.examples import MAX_PROMPT_CHARACTERS
from edged.specialists.folder import Specialist
from edged.specialists.lesson import Lesson, taught
from tests.unit.lessons import drawn, fields_lesson, labels_lesson, lesson, number_lesson


@cache
def made(of: Callable[[], Lesson]) -> Specialist:
    return taught(of(), lambda _: None)


@pytest.mark.parametrize(
    ("of", "given", "kept"),
    [
        (lesson, "label 1", "label 1"),
        (lesson, "  label 1 ", "label 1"),
        (lesson, None, None),
        (labels_lesson, ["third", "half", "third"], ["half", "third"]),
        (labels_lesson, [], []),
        (labels_lesson, None, []),
        (number_lesson, 3, 3.0),
        (fields_lesson, {"state": "on", "room": "hall"}, {"room": "hall", "state": "on"}),
        (fields_lesson, {"state": "off"}, {"room": None, "state": "off"}),
    ],
)
def test_an_answer_is_kept_as_the_specialist_would_give_it(
    of: Callable[[], Lesson], given: object, kept: object
) -> None:
    assert checked_answer(made(of), "x", given) == kept


@pytest.mark.parametrize(
    ("of", "given", "problem"),
    [
        (lesson, "label 9", 'answer: "label 9" is not a label of six; `info` lists them'),
        (lesson, 3, "answer: this is not a label of six"),
        (lesson, True, "answer: must be a label"),
        (lesson, ["label 1"], "answer: this is not a label of six"),
        (lesson, "x" * 201, "answer: a label must be a text of 1 to 200"),
        (labels_lesson, "half", "answer: six gives a list of labels"),
        (labels_lesson, ["half", "whole"], 'answer: "whole" is not a label of six'),
        (number_lesson, "3", "answer: six gives a number from 0 to 5"),
        (number_lesson, 5.1, "answer: six gives a number from 0 to 5"),
        (number_lesson, None, "answer: six gives a number from 0 to 5"),
        (fields_lesson, "on", "answer: six gives an object of its fields"),
        (fields_lesson, {"colour": "red"}, "answer: six gives an object of its fields"),
        (fields_lesson, {"state": "dim"}, 'answer.state: "dim" is not a label of six'),
        (fields_lesson, {"room": "hall"}, "answer.state: null is not a label of six"),
    ],
)
def test_an_answer_that_it_cannot_give_is_named(
    of: Callable[[], Lesson], given: object, problem: str
) -> None:
    with pytest.raises(ValueError, match="answer") as caught:
        checked_answer(made(of), "x", given)
    assert str(caught.value).startswith(problem)


def test_a_prompt_that_is_too_long_to_learn_from_is_refused() -> None:
    specialist = made(lesson)
    assert checked_answer(specialist, "x" * MAX_PROMPT_CHARACTERS, None) is None
    with pytest.raises(ValueError, match="prompt: 4097 characters; at most 4096 are kept"):
        checked_answer(specialist, "x" * (MAX_PROMPT_CHARACTERS + 1), None)


@pytest.mark.parametrize("of", [lesson, labels_lesson, number_lesson, fields_lesson])
def test_what_it_says_itself_is_agreed_with(of: Callable[[], Lesson]) -> None:
    specialist = made(of)
    features, _ = drawn(12, seed=2)
    for row in features:
        decision = decide(specialist, row)
        given = decision.text if decision.json is None else decision.json
        said = Said(given, decision.is_unsure)
        assert agrees(specialist, said, checked_answer(specialist, "x", given))


def test_another_answer_is_not_agreed_with_but_for_the_tolerance_of_a_number() -> None:
    assert not agrees(made(lesson), Said("label 1", is_unsure=False), "label 2")
    specialist = made(number_lesson)
    scale = specialist.description.scale
    assert scale is not None
    said = Said(3, is_unsure=False)
    assert agrees(specialist, said, 3 + scale.tolerance)
    assert not agrees(specialist, said, 3.01 + scale.tolerance)
    # What was installed under this name before may have given labels.
    assert not agrees(specialist, Said("on", is_unsure=False), 3.0)


def test_for_none_of_the_labels_unsure_is_right_unless_it_was_taught() -> None:
    specialist = made(lesson)
    assert agrees(specialist, Said("label 1", is_unsure=True), None)
    assert not agrees(specialist, Said("label 1", is_unsure=False), None)
    head = specialist.description.heads[0]
    with_none = replace(head, labels=(*head.labels[:-1], None))
    taught_none = replace(specialist.heads[0], description=with_none)
    other = replace(specialist, heads=(taught_none,))
    assert not agrees(other, Said("label 1", is_unsure=True), None)
    assert agrees(other, Said(None, is_unsure=False), None)
