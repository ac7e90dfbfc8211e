"""What a teacher says of prompts becomes weighted examples, and what a person corrected wins."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edged.errors import UsageError
from edged.specialists import teacher as module
from edged.specialists.corrections import (
    corrected,
    read_corrected_dialogues,
    read_corrections,
    with_corrected,
)
from edged.specialists.dialogues import Dialogue, Turn
from edged.specialists.examples import AnswerKind, Example, read_examples
from edged.specialists.judging import measured
from edged.specialists.lesson import taught
from edged.specialists.teacher import (
    Opinion,
    ask_all,
    calibrated,
    instruction,
    taught_by,
    to_look_at,
)
from tests.unit.lessons import drawn, lesson_of
from tests.unit.test_examples import write

LABELS = ["dim", "off", "on"]


def opinion(line: int, *probabilities: float, weight: float = 1.0) -> Opinion:
    example = Example(f"prompt {line}", None, line, f"line {line}", weight, is_open=True)
    return Opinion(example, np.array(probabilities))


def test_a_prompt_becomes_an_example_of_each_answer_that_is_not_improbable() -> None:
    examples = taught_by([opinion(7, 0.04, 0.36, 0.6, weight=2.0)], LABELS)
    assert [(one.answer, round(one.weight, 6)) for one in examples] == [("on", 1.2), ("off", 0.72)]
    assert [one.is_measure for one in examples] == [True, False]
    assert {(one.prompt, one.line, one.group, one.is_open) for one in examples} == {
        ("prompt 7", 7, "line 7", False)
    }
    assert taught_by([opinion(1, *[0.04] * 25)], [str(index) for index in range(25)]) == []


def test_answers_of_a_teacher_are_no_way_around_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EXAMPLES", 3)
    taught_by([opinion(1, 0.0, 0.5, 0.5), opinion(2, 0.0, 0.0, 1.0)], LABELS)
    with pytest.raises(UsageError, match="2 prompts have 4 answers of the teacher; 3 are allowed"):
        taught_by([opinion(1, 0.0, 0.5, 0.5), opinion(2, 0.2, 0.0, 0.8)], LABELS)


def test_a_person_looks_first_where_the_teacher_was_torn() -> None:
    opinions = [opinion(1, 0.1, 0.2, 0.7), opinion(2, 0.4, 0.5, 0.1), opinion(3, 0.0, 0.3, 0.7)]
    first, second = to_look_at(opinions, 2)
    assert (first.example.line, second.example.line) == (2, 3)
    assert first.margin == pytest.approx(0.1)
    assert first.best(LABELS, 2) == [("off", 0.5), ("dim", 0.4)]
    assert to_look_at([opinion(4, 0.0, 0.0, 1.0)], 2) == []


def test_what_is_likely_whatever_the_prompt_is_does_not_count() -> None:
    prior = np.log([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2]])
    # As likely as without any content: nothing was said. Scores are up to a constant.
    np.testing.assert_allclose(calibrated(np.log([0.7, 0.15, 0.15]) - 5, prior), [1 / 3] * 3)
    assert calibrated(np.log([0.6, 0.1, 0.3]), prior).argmax() == 2
    never = np.array([[0.0, 0.0, -2000.0]])
    assert np.isfinite(calibrated(np.array([-1.0, -1.0, -1.0]), never)).all()


class Scripted:
    """A teacher that has no answer to some prompts."""

    def __init__(self, *silent: str) -> None:
        self.silent = silent

    def ask(self, example: Example) -> np.ndarray | None:
        return None if example.prompt in self.silent else np.array([0.2, 0.2, 0.6])


def test_each_prompt_is_asked_once_and_progress_is_told() -> None:
    examples = [opinion(line, 0, 0, 1).example for line in (1, 2)]
    shares: list[float] = []
    opinions, unanswered = ask_all(Scripted("prompt 1"), examples, shares.append)
    assert [one.example.line for one in opinions] == [2]
    assert [one.line for one in unanswered] == [1]
    assert shares == [0.5, 1.0]


def test_the_teacher_is_told_its_labels() -> None:
    assert "\nLabels: dim, off, on\n" in instruction(LABELS)


def test_with_a_teacher_a_line_may_have_no_answer(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b", "answer": None}, {"prompt": "c", "answer": "on"}]
    path = write(tmp_path, *rows)
    examples = read_examples(path, has_teacher=True)
    assert [one.is_open for one in examples] == [True, False, False]
    assert examples[2].place == f"{path}:3"
    table = write(tmp_path, "prompt,answer\na,\nb,on\n", name="examples.csv")
    assert [one.is_open for one in read_examples(table, has_teacher=True)] == [True, False]
    assert [one.is_open for one in read_examples(table)] == [False, False]
    prompts = write(tmp_path, "prompt\na\nb\n", name="prompts.csv")
    assert [one.is_open for one in read_examples(prompts, has_teacher=True)] == [True, True]
    for wrong in (path, prompts):
        with pytest.raises(UsageError, match="answer: is missing"):
            read_examples(wrong)


def corrections(folder: Path, *rows: dict[str, object]) -> Path:
    return write(folder, *rows, name="corrections.jsonl")


def test_corrections_are_those_of_the_specialist_from_a_file_or_its_folder(tmp_path: Path) -> None:
    path = corrections(
        tmp_path,
        {"prompt": "a", "answer": "on", "specialist": "home", "said": "off", "time": 1.0},
        {"prompt": "b", "answer": "on", "specialist": "other"},
        {"prompt": "c", "answer": None},
    )
    for place in (path, tmp_path):
        found = read_corrections(place, "home")
        assert [(one.prompt, one.answer, one.place) for one in found] == [
            ("a", "on", f"{path}:1"),
            ("c", None, f"{path}:3"),
        ]
        assert {one.group for one in found}.isdisjoint({"line 1", "line 3"})


def test_a_folder_without_corrections_has_none_and_a_missing_file_is_an_error(
    tmp_path: Path,
) -> None:
    assert read_corrections(tmp_path, "home") == []
    (tmp_path / "corrections.jsonl").write_text("")
    assert read_corrections(tmp_path, "home") == []
    with pytest.raises(UsageError, match="cannot be read"):
        read_corrections(tmp_path / "missing", "home")


def test_only_the_specialists_own_prompts_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["home", "other", "home", "other", "home"]
    lines: list[dict[str, object]] = [
        {"prompt": name, "answer": str(index), "specialist": name}
        for index, name in enumerate(names)
    ]
    path = corrections(tmp_path, *lines)
    monkeypatch.setattr("edged.specialists.corrections.MAX_EXAMPLES", 1)
    monkeypatch.setattr("edged.specialists.examples.MAX_EXAMPLES", 1)
    for place in (path, tmp_path):
        assert [one.answer for one in read_corrections(place, "home")] == ["0", "2", "4"]
    corrections(tmp_path, {"prompt": "a", "answer": "x"}, {"prompt": "b", "answer": "x"})
    with pytest.raises(UsageError, match="corrects 2 prompts; 1 are allowed"):
        read_corrections(path, "home")


@pytest.mark.parametrize("half", [b'{"prompt": "b", "ans', '{"prompt": "é'.encode()[:-1], b"{"])
def test_half_a_last_line_of_a_node_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], half: bytes
) -> None:
    path = corrections(tmp_path, {"prompt": "a", "answer": "on"})
    with path.open("ab") as file:
        file.write(half)
    assert [one.prompt for one in read_corrections(tmp_path, "home")] == ["a"]
    assert f"{path}: the last line is not whole; it is left out" in capsys.readouterr().err
    with pytest.raises(UsageError):
        read_corrections(path, "home")


def test_a_file_that_no_node_wrote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corrections.jsonl").write_bytes(b"\n" * (1 + (4 << 20)))
    with pytest.raises(UsageError, match="more than 4 MiB"):
        read_corrections(tmp_path, "home")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a"}, "answer: is missing"),
        ({"prompt": "a", "answer": "x", "specialist": 1}, "specialist: must be a name"),
        ({"answer": "x"}, "give either prompt or messages"),
    ],
)
def test_a_wrong_correction_is_named(
    tmp_path: Path, row: dict[str, object], complaint: str
) -> None:
    path = corrections(tmp_path, {"prompt": "fine", "answer": "x"}, row)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_corrections(path, "home")
    assert str(caught.value).startswith(f"{path}:2: ")


def test_the_last_correction_of_a_prompt_wins_over_examples_and_open_prompts(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": "Lights on", "answer": "off", "group": "lights"},
        {"prompt": "warmer", "answer": "up"},
        {"prompt": "open"},
        {"prompt": "colder", "answer": "down"},
    ]
    path = corrections(
        tmp_path,
        {"prompt": "lights  on", "answer": "dim"},
        {"prompt": "lights on", "answer": "on"},
        {"prompt": "OPEN", "answer": "up"},
        {"prompt": "warmer", "answer": "up"},
        {"prompt": "new", "answer": "on"},
    )
    examples = read_examples(write(tmp_path, *rows), has_teacher=True)
    result, remarks = corrected(examples, read_corrections(path, "home"))
    assert {(one.prompt, one.answer) for one in result} == {
        ("colder", "down"),
        ("lights on", "on"),
        ("OPEN", "up"),
        ("warmer", "up"),
        ("new", "on"),
    }
    assert not any(one.is_open for one in result)
    (lights,) = (one for one in result if one.prompt == "lights on")
    assert lights.group == "lights"
    (remark,) = remarks
    assert str(remark) == f'line 1: "off" is corrected to "on" by {path}:2'


def test_a_review_is_a_file_of_corrections(tmp_path: Path) -> None:
    path = corrections(tmp_path, json.loads('{"prompt": "a", "answer": "on"}'))
    assert read_corrections(path, "any-name")[0].answer == "on"


def test_less_probable_answers_are_taught_and_not_counted_as_wrong() -> None:
    features, labels = drawn(60, seed=1)
    answers = [f"label {index}" for index in labels]
    plain = lesson_of(AnswerKind.LABEL, answers, features)
    seconds = [
        replace(example, answer=answers[(index + 1) % 60], weight=0.1, is_measure=False)
        for index, example in enumerate(plain.examples)
    ]
    both = replace(
        plain,
        examples=[*plain.examples, *seconds],
        features=np.concatenate([features, features]),
    )
    judged = measured(both, lambda _: None).judged
    assert len(judged) == 60
    assert all(one.example.is_measure for one in judged)
    assert np.mean([one.is_right for one in judged]) > 0.85
    assert taught(both, lambda _: None).description.unsure_below < 1


def test_of_a_writer_a_correction_counts_for_its_prompt_with_its_inputs(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    lines = [
        {"prompt": "the  HALL", "inputs": {"n": 1}, "answer": "wrong"},
        {"prompt": "the  HALL", "inputs": {"n": 1}, "answer": "right"},
        {"prompt": "the den", "answer": "new", "specialist": "talk", "time": "then"},
        {"prompt": "the den", "answer": "another's", "specialist": "other"},
        {
            "prompt": "a\nb\nc",
            "messages": [{"role": role, "content": text} for role, text in DIALOGUE],
            "answer": "d",
        },
    ]
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    corrections = read_corrected_dialogues(path, "talk")
    assert [one.line for one in corrections] == [1, 2, 3, 5]

    def example(said: str, answer: str, n: int, group: str) -> Dialogue:
        return Dialogue((Turn(said, answer),), 1, group, {"n": n})

    same, other = example("the hall", "old", 1, "g"), example("the hall", "other", 2, "h")
    examples, new = with_corrected([same, other, replace(same, group="later")], corrections)
    assert [(one.turns[-1].answer, one.group) for one in examples] == [
        ("other", "h"),
        ("right", "g"),
    ]
    assert [one.turns[-1].answer for one in new] == ["new", "d"]
    assert new[1].turns == (Turn("a", "b"), Turn("c", "d"))
    assert with_corrected([new[1]], corrections[-1:])[1] == []
    assert read_corrected_dialogues(tmp_path / "corrections.jsonl", "other")[-2].line == 4
    path.write_text('{"prompt": "x", "answer": null}\n')
    with pytest.raises(UsageError, match=r"corrections.jsonl:1: answer: is missing"):
        read_corrected_dialogues(tmp_path, "talk")


DIALOGUE = (("user", "a"), ("assistant", "b"), ("user", "c"))
