"""What is said of examples before they are taught, and what is repaired."""

import pytest

from edged.errors import UsageError
from edged.specialists.checks import check, distinct, leaks, remarks
from edged.specialists.examples import Answer, AnswerKind, Example

LABEL = AnswerKind.LABEL


def given(*rows: tuple[str, Answer] | tuple[str, Answer, str]) -> list[Example]:
    return [
        Example(
            *(row[0], row[1], line, row[2] if len(row) == 3 else f"line {line}"),
            file="examples.jsonl",
        )
        for line, row in enumerate(rows, 1)
    ]


def test_duplicates_and_contradictions_are_named_with_their_lines() -> None:
    examples = given(
        *[("Lights on", "on"), ("lights  ON", "on"), ("warmer", "up"), ("warmer", "down")],
        *[(f"{answer} {index}", answer) for answer in ("on", "up", "down") for index in range(5)],
    )
    same, torn = remarks(LABEL, examples)
    assert str(same) == "lines 1, 2: the same prompt and answer; the first one counts"
    assert str(torn) == 'lines 3, 4: one prompt, several answers: "up", "down"'
    assert [example.line for example in distinct(examples)] == [1, *range(3, 20)]


def test_a_prompt_is_never_in_two_groups() -> None:
    examples = given(
        *[("a", "x", "g1"), ("b", "x", "g1"), ("b", "y", "g2"), ("c", "y", "g2"), ("c", "z", "g3")],
        *[("d", "x"), ("D", "y")],
    )
    groups = [example.group for example in distinct(examples)]
    assert len(set(groups[:5])) == 1
    assert groups[5] == groups[6] != groups[0]
    texts = [str(remark) for remark in remarks(LABEL, examples)]
    assert "lines 2, 3: one prompt in the groups 'g1', 'g2': they count as one group" in texts
    assert not any("groups" in text for text in texts if text.startswith("lines 6, 7"))


def test_labels_with_few_examples_are_named() -> None:
    rows: list[tuple[str, Answer]] = [
        (f"p{index}", ("rare",) if index < 3 else ()) for index in range(9)
    ]
    (few,) = remarks(AnswerKind.LABELS, given(*rows))
    assert str(few) == "lines 1, 2, 3: 'rare' has only 3 examples; 10 of each are a good start"
    many = remarks(LABEL, given(*((f"same{index % 2}", "x") for index in range(20))))
    assert str(many[0]).startswith("lines 1, 3, 5, 7, 9, …: the same prompt")


def test_lines_of_a_test_that_were_taught_are_named() -> None:
    (leak,) = leaks(given(("a", "x"), ("b", "y")), given(("c", "x"), (" B ", "y")))
    assert str(leak) == "line 2: its prompt is taught in line 2; it does not count"


def many(answers: list[Answer]) -> list[Example]:
    return given(*((f"p{index}", answer) for index, answer in enumerate(answers)))


@pytest.mark.parametrize(
    ("kind", "answers", "complaint"),
    [
        (LABEL, ["x", "y"], r"examples.jsonl: give it 8 examples"),
        (LABEL, ["x"] * 8, r"examples.jsonl: the answer is always the same"),
        (LABEL, [*["x"] * 8, "y"], r"examples.jsonl:9: 'y' has 1 example; give it 2 at least"),
        (LABEL, [*["x"] * 8, None], r"examples.jsonl:9: null has 1 example"),
        (LABEL, [str(index) for index in range(600)], "600 labels; 512 are allowed"),
        (AnswerKind.NUMBER, [*map(float, range(8)), None], r"examples.jsonl:9: answer: null is"),
        (AnswerKind.LABELS, [("x",)] * 9, "label 'x' is always the same"),
        (AnswerKind.LABELS, [("x",), *[("y",)] * 4, *[()] * 4], r":1: 'x' has 1 example"),
        (AnswerKind.LABELS, [(), *[("x",)] * 8], r":1: no 'x' has 1 example"),
        (AnswerKind.FIELDS, [{"room": "hall"}] * 8, "field 'room' is always the same"),
        (AnswerKind.FIELDS, [{"room": "hall"}, *[{}] * 8], r":1: room: 'hall' has 1 example"),
        (AnswerKind.FIELDS, [*[{"room": "hall"}] * 8, None], r":9: room: null has 1 example"),
        (AnswerKind.FIELDS, [{f"f{i}": "x"} for i in range(40)], "40 fields; 32 are allowed"),
    ],
)
def test_what_cannot_be_taught_is_refused(
    kind: AnswerKind, answers: list[Answer], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        check(kind, many(answers))


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        (LABEL, ["x", "y", None]),
        (AnswerKind.NUMBER, [1.0, 2.0, 3.0]),
        (AnswerKind.LABELS, [("x",), ("y",), (), None]),
        (AnswerKind.FIELDS, [{"room": "hall", "on": "true"}, {"room": None, "on": "false"}]),
    ],
)
def test_two_examples_of_everything_are_enough(kind: AnswerKind, answers: list[Answer]) -> None:
    check(kind, many(answers * 4))
