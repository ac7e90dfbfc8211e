"""What answers begin with, and the head that has a say in it."""

from dataclasses import replace

import numpy as np
import pytest

from edged.protocol.request import ChatMessage
from edged.specialists.choice import ChoiceHead, Powers, Preferences, choices_of, said_last
from edged.specialists.compact.schemas import shape_of, tools_shape
from edged.specialists.lesson import taught
from tests.unit.lessons import drawn, labels_lesson, lesson

POWERS = Powers(3.0, 0.5)
LINES = [f"line {index}" for index in range(20)]


def function(name: str, **values: list[str]) -> dict[str, object]:
    properties = {key: {"type": "string", "enum": listed} for key, listed in values.items()}
    parameters = {"type": "object", "properties": properties, "required": list(values)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


ROOMS = ["hall", "attic", "bath", "office", "cellar"]
TOOLS = [
    function("on", room=ROOMS),
    function("off", room=ROOMS),
    function("no", why=["vague", "other"]),
    function("stop"),
]


def chosen(*texts: str, groups: list[str] | None = None, is_list: bool = False) -> list[str | None]:
    shape = tools_shape(TOOLS, is_list=is_list, has_text=False)
    return choices_of(texts, groups or LINES[: len(texts)], shape)


def test_a_choice_is_the_first_word_of_an_answer() -> None:
    texts = [f"{word} room={room}" for word in ("on", "off") for room in ROOMS[:2]]
    assert chosen(*texts) == ["on"] * 2 + ["off"] * 2
    assert chosen(*[f"{text}\nstop" for text in texts], is_list=True) == ["on"] * 2 + ["off"] * 2


def test_where_the_schema_has_few_endings_a_whole_answer_is_chosen() -> None:
    texts = ["no why=vague", "no why=vague", "no why=other", "no why=other", "stop", "stop"]
    assert chosen(*texts) == [f"{text}\n" for text in texts]


def test_a_schema_has_choices_as_well() -> None:
    item = {
        "type": "object",
        "properties": {"name": {"const": "on"}, "room": {"type": "string"}},
        "required": ["name", "room"],
    }
    properties = {
        "actions": {"type": "array", "items": item, "maxItems": 3},
        "reason": {"type": "string", "enum": ["none", "ambiguous"]},
    }
    shape = shape_of({"type": "object", "properties": properties, "required": ["actions"]})
    on, nothing = {"name": "on", "room": "hall"}, {"actions": [], "reason": "none"}
    texts = [shape.write(one, {}) for one in ({"actions": [on, on]}, nothing) for _ in range(2)]
    assert choices_of(texts, LINES[:4], shape) == ["on", "on", "reason=none\n", "reason=none\n"]
    numbers = shape_of({"type": "array", "maxItems": 2, "items": {"type": "integer"}})
    assert choices_of(["1", "1"], LINES[:2], numbers) == ["1", "1"]


def test_a_choice_has_examples_that_are_not_alike() -> None:
    found = chosen("on room=hall", "off room=hall", "off room=attic")
    assert found == [None, "off", "off"]
    twice = ["on room=hall", "on room=hall", "off room=hall", "off room=hall"]
    assert chosen(*twice, groups=["a", "a", "b", "c"]) == [None, None, "off", "off"]
    free = shape_of({"type": "string", "maxLength": 1000})
    assert choices_of(["x" * 300] * 2, LINES[:2], free) == [None, None]


def test_a_head_says_how_likely_each_choice_is() -> None:
    head = ChoiceHead.of(taught(lesson(), lambda _: None), POWERS)
    features, labels = drawn(6, seed=3)
    for row, label in zip(features, labels, strict=True):
        found = head.preferences(row)
        assert found.powers == POWERS
        assert max(found.shares, key=lambda one: found.shares[one]) == f"label {label}"
        assert sum(found.shares.values()) == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="must choose one of some labels"):
        ChoiceHead.of(taught(labels_lesson(), lambda _: None), POWERS)


@pytest.mark.parametrize(
    ("choices", "kind", "among"),
    [
        (["no why=vague\n"], 0.3, 1.0),
        (["no why=vague\n", "no why=other\n"], 0.4, 1.0),
        (["on"], 0.6, 0.4 / 0.6),
        (["on", "off"], 0.6, 1.0),
        (["no why=other\n", "off"], 0.1 + 0.6, 0.2 / 0.6),
        (["never"], 0.6, 0.01),  # what it finds impossible is still possible
        ([], 0.6, 0.01),
    ],
)
def test_a_choice_weighs_by_its_kind_and_a_word_by_its_share_among_words(
    choices: list[str], kind: float, among: float
) -> None:
    shares: dict[str | None, float] = {
        "no why=vague\n": 0.3,
        "no why=other\n": 0.1,
        "on": 0.4,
        "off": 0.2,
        "never": 0.0,
    }
    for powers in (Powers(0.0, 0.0), Powers(2.0, 0.0), Powers(3.0, 0.5)):
        expected = kind**powers.whole * among**powers.word
        assert Preferences(shares, powers).weight(choices) == pytest.approx(expected)


def test_what_the_examples_rarely_chose_shares_one_weight() -> None:
    found = Preferences({"on": 0.5, None: 0.5}, Powers(1.0, 1.0))
    assert found.weight([]) == found.weight(["on"]) == pytest.approx(0.5)


def test_a_lesson_does_without_names_that_say_nothing() -> None:
    found = taught(replace(lesson(), names=None), lambda _: None)
    features, labels = drawn(60, seed=5)
    head = ChoiceHead.of(found, POWERS)
    shares = [head.preferences(row).shares for row in features]
    guesses = [max(one, key=lambda choice: one[choice]) for one in shares]
    assert np.mean([g == f"label {label}" for g, label in zip(guesses, labels, strict=True)]) > 0.8


def test_a_head_reads_what_was_said_last() -> None:
    said = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "on"),
        ChatMessage("user", "no"),
    ]
    assert said_last(said) == "no"
    assert said_last([ChatMessage("user", "a" * 2000 + "b")]) == "a" * 1023 + "b"
    assert said_last([]) == ""
