"""Where ``edged teach`` has its examples from: the file, corrections, a teacher."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from edged.commands import gather as module
from edged.commands.broker_options import BrokerOptions
from edged.commands.gather import gather
from edged.commands.kept_answers import KeptAnswers
from edged.commands.teach import add_source_options
from edged.config.broker_url import BrokerAddress
from edged.errors import UnavailableError, UsageError
from edged.specialists.examples import Example
from tests.unit.test_examples import write

ROWS = [
    {"prompt": "lights on", "answer": "on"},
    {"prompt": "lights off", "answer": "off"},
    {"prompt": "dim the hall"},
    {"prompt": "Dim  the hall"},
    {"prompt": "LIGHTS on"},
    {"prompt": "bright please"},
    {"prompt": "silent"},
]
OPINIONS = {
    "dim the hall": [0.45, 0.55],
    "bright please": [0.02, 0.98],
    "lights on": [0.2, 0.8],
    "lights off": [0.1, 0.9],
}


class FakeTeacher:
    """Says what stands in ``OPINIONS``."""

    made: "list[FakeTeacher]"

    def __init__(self, place: object, labels: Sequence[str]) -> None:
        self.place, self.labels = place, list(labels)
        self.asked: list[str] = []
        self.made.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, example: Example) -> np.ndarray | None:
        self.asked.append(example.prompt)
        said = OPINIONS.get(example.prompt)
        return None if said is None else np.array(said)


@pytest.fixture
def teachers(monkeypatch: pytest.MonkeyPatch) -> list[FakeTeacher]:
    """The teachers that were made instead of real ones."""
    FakeTeacher.made = []
    monkeypatch.setattr(module, "BundleTeacher", FakeTeacher)
    monkeypatch.setattr(module, "NodeTeacher", FakeTeacher)
    return FakeTeacher.made


def run(*words: object) -> tuple[list[Example], list[Example]]:
    parser = argparse.ArgumentParser()
    add_source_options(parser)
    parser.set_defaults(output=Path(str(words[0])).with_name("home"))
    return gather(parser.parse_args([str(word) for word in words]), "home", lambda _: None)


def test_without_options_it_is_the_file(tmp_path: Path) -> None:
    answered, distilled = run(write(tmp_path, *ROWS[:2]))
    assert ([one.answer for one in answered], distilled) == (["on", "off"], [])
    with pytest.raises(UsageError, match="answer: is missing"):
        run(write(tmp_path, *ROWS))


def test_only_prompts_without_an_answer_are_asked_and_each_once(
    tmp_path: Path, teachers: list[FakeTeacher], capsys: pytest.CaptureFixture[str]
) -> None:
    path, review = write(tmp_path, *ROWS), tmp_path / "review.jsonl"
    answered, distilled = run(path, "--teacher", "big", "--review", review)
    (teacher,) = teachers
    assert (teacher.place, teacher.labels) == (Path("big"), ["off", "on"])
    assert teacher.asked[:3] == ["dim the hall", "bright please", "silent"]
    assert teacher.asked[3:] == ["lights on", "lights off"]  # to see whether it is right
    assert [one.prompt for one in answered] == ["lights on", "lights off"]
    assert [(one.prompt, one.answer, one.weight) for one in distilled] == [
        ("dim the hall", "on", 0.55),
        ("dim the hall", "off", 0.45),
        ("bright please", "on", 0.98),
    ]
    said = capsys.readouterr().err
    assert f"{path}:7: no answer" in said
    assert "the teacher is right in 1 of 2 lines with an answer\n" in said
    assert f"{path}:3: dim the hall: on 55%, off 45%" in said
    assert said.index("dim the hall") < said.index("bright please")
    rows = [json.loads(line) for line in review.read_text().splitlines()]
    assert rows == [
        {"prompt": "dim the hall", "answer": "on"},
        {"prompt": "bright please", "answer": "on"},
    ]


def test_a_run_that_was_ended_goes_on_from_the_answers_of_the_same_teacher(
    tmp_path: Path, teachers: list[FakeTeacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ask = write(tmp_path, *ROWS), FakeTeacher.ask
    words = (path, "--teacher", "mqtt://me:hush@broker/attic")

    def goes_away(teacher: FakeTeacher, example: Example) -> np.ndarray | None:
        if len(teacher.asked) == 2:
            raise UnavailableError("is offline")
        return ask(teacher, example)

    monkeypatch.setattr(FakeTeacher, "ask", goes_away)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            run(*words)
    (kept,) = tmp_path.glob("home*")
    assert "hush" not in kept.read_text()
    with kept.open("a") as file:
        file.write('{"prompt": "lights of')  # as a kill leaves it
    monkeypatch.setattr(FakeTeacher, "ask", ask)
    _, distilled = run(*words)
    assert not kept.exists()
    _, asked_at_once = run(*words)
    assert distilled == asked_at_once
    assert [one.asked for one in teachers] == [
        ["dim the hall", "bright please"],
        ["silent", "lights on"],
        ["lights off"],
        ["dim the hall", "bright please", "silent", "lights on", "lights off"],
    ]


def test_answers_of_another_teacher_or_of_other_labels_are_not_used(
    tmp_path: Path, teachers: list[FakeTeacher]
) -> None:
    path = tmp_path / "kept"
    example = Example("dim the hall", None, 1, "dim the hall")
    for name, labels in (("a", ["off", "on"]), ("b", ["off", "on"]), ("b", ["off", "up"])):
        KeptAnswers(FakeTeacher(name, labels), name, labels, path).ask(example)
    path.write_text("[]\n")
    KeptAnswers(FakeTeacher("b", labels), "b", labels, path).ask(example)
    assert [one.asked for one in teachers] == [["dim the hall"]] * 4


def test_a_corrected_review_wins_and_is_not_overwritten(
    tmp_path: Path, teachers: list[FakeTeacher], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, *ROWS)
    rows = [{"prompt": "dim the hall", "answer": "off"}, {"prompt": "lights on", "answer": "up"}]
    review = write(tmp_path, *rows, name="review.jsonl")
    with pytest.raises(UsageError, match="is there already"):
        run(path, "--teacher", "big", "--review", review)
    assert not teachers
    answered, _ = run(path, "--teacher", "big", "--corrections", review)
    assert ("dim the hall", "off") in {(one.prompt, one.answer) for one in answered}
    # A corrected line is no example of what it is mostly asked.
    assert teachers[0].asked == ["bright please", "silent", "lights off"]
    said = capsys.readouterr().err
    assert "2 corrections of home" in said
    assert "right in 0 of 1 lines with an answer; teach without it, too, and compare" in said
    assert f'{path}: line 1: "on" is corrected to "up" by {review}:2' in said


def test_a_password_in_the_url_is_printed_nowhere(
    tmp_path: Path, teachers: list[FakeTeacher], capsys: pytest.CaptureFixture[str]
) -> None:
    run(write(tmp_path, *ROWS), "--teacher", "mqtt://me:hush@broker/attic")
    assert isinstance(teachers[0].place, BrokerOptions)
    assert teachers[0].place.address.password == "hush"  # noqa: S105 - made up
    printed = capsys.readouterr().err
    assert "the teacher answered 2 of 3 prompts" in printed
    assert "hush" not in printed


def test_a_node_is_named_by_a_url(tmp_path: Path, teachers: list[FakeTeacher]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("word\n")
    options = ("--username", "me", "--password-file", secret)
    run(write(tmp_path, *ROWS), "--teacher", "mqtts://broker:8884/attic", *options)
    address = BrokerAddress("broker", 8884, is_tls=True, username="me", password="word")  # noqa: S106
    assert teachers[0].place == BrokerOptions(address, "attic")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mqtt://broker", "write a node like mqtt://"),
        ("mqtt://broker/Attic!", "write a node like mqtt://"),
        ("mqtt://broker:0/attic", "the port must be"),
        ("mqtt://broker/more/attic", "nothing may follow the port"),
    ],
)
def test_a_wrong_url_of_a_node_is_refused(
    tmp_path: Path, teachers: list[FakeTeacher], url: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        run(write(tmp_path, *ROWS), "--teacher", url)
    assert str(caught.value).startswith("--teacher: ")
    assert not teachers


def test_labels_are_named_or_read_from_a_file(tmp_path: Path, teachers: list[FakeTeacher]) -> None:
    path = write(tmp_path, *ROWS[2:4])
    (tmp_path / "labels").write_text("on, or so\n\noff \n")
    run(path, "--teacher", "big", "--labels", " on,off,on ,")
    run(path, "--teacher", "big", "--labels", tmp_path / "labels")
    assert [one.labels for one in teachers] == [["off", "on"], ["off", "on, or so"]]


@pytest.mark.parametrize(
    ("rows", "options", "problem"),
    [
        (ROWS[:2], ["--teacher", "big"], "has an answer already"),
        (ROWS[:2], ["--labels", "on,off"], "only with --teacher"),
        (ROWS[:2], ["--review", "none"], "only with --teacher"),
        (ROWS[2:], ["--teacher", "big"], "0 labels to choose from"),
        (ROWS, ["--teacher", "big", "--labels", "on"], "1 labels to choose from"),
        (ROWS, ["--teacher", "big", "--labels", "on,up"], r":2: answer: 'off' is not one of"),
        (ROWS, ["--teacher", "big", "--labels", "x" * 201], "one has 201 characters"),
        ([{"prompt": "a", "answer": ["b"]}, {"prompt": "c"}], ["--teacher", "big"], "of kind"),
    ],
)
def test_what_cannot_be_asked_is_refused_before(
    tmp_path: Path,
    teachers: list[FakeTeacher],
    rows: list[dict[str, object]],
    options: list[str],
    problem: str,
) -> None:
    with pytest.raises(UsageError, match=problem):
        run(write(tmp_path, *rows), *options)
    assert not teachers


def test_a_file_that_cannot_be_read_or_written_is_named(
    tmp_path: Path, teachers: list[FakeTeacher]
) -> None:
    path = write(tmp_path, *ROWS)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"--labels: .*binary: cannot be read"):
        run(path, "--teacher", "big", "--labels", tmp_path / "binary")
    with pytest.raises(UsageError, match=r"--review: .*nowhere is no folder"):
        run(path, "--teacher", "big", "--review", tmp_path / "nowhere" / "review")
    assert not teachers
    with pytest.raises(UsageError, match=r"--review: .*cannot be written"):
        run(path, "--teacher", "big", "--review", tmp_path / ("x" * 300))
