"""``edged teach`` with a teacher and corrections, from a file to a folder; features are made up."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from edged.commands import gather
from edged.specialists.decision import decide
from edged.specialists.examples import Example
from edged.specialists.folder import read_specialist
from tests.unit.lessons import BASE
from tests.unit.test_teach import (
    WORDS,
    Reader,
    rows,
    run,
    without_model,  # noqa: F401 - a fixture
    write,
)

OPTIONS = ("--teacher", "big", "--labels", ",".join(WORDS))


class Fluent:
    """A teacher that knows the words, is a little torn about each prompt, and wrong about taps."""

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self.labels = labels

    def ask(self, example: Example) -> np.ndarray:
        said = example.prompt.split()[0].replace("tap", "lamp")
        shares = [0.8 if label == said else 0.1 for label in self.labels]
        if "tap" in example.prompt:
            shares = [{"lamp": 0.5, "tap": 0.4}.get(label, 0.1) for label in self.labels]
        return np.array(shares)


@pytest.fixture(autouse=True)
def fluent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "BundleTeacher", Fluent)


def open_rows(count: int = 30) -> list[dict[str, object]]:
    return [{"prompt": row["prompt"]} for row in rows(count)]


def answers(folder: Path) -> list[str]:
    specialist = read_specialist(folder / "things", BASE)
    reader = Reader(folder)
    return [decide(specialist, reader.one(f"a {word} of oak")).text for word in WORDS]


def test_prompts_alone_become_a_specialist_and_each_is_read_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write(tmp_path / "examples.jsonl", open_rows()), *OPTIONS) == 0
    prompts = [prompt for prompt in Reader.read if prompt not in WORDS]
    assert len(prompts) == len(set(prompts)) == 30
    printed = capsys.readouterr()
    assert "90 examples, one of 3 labels" in printed.out
    assert "measured by the teacher's answers" in printed.err
    assert "one prompt, several answers" not in printed.err
    result = read_specialist(tmp_path / "things", BASE).description.result
    assert result.num_examples == 30
    assert answers(tmp_path)[:2] == ["lamp", "door"]


def test_what_a_person_looked_at_sets_the_teacher_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, review = write(tmp_path / "examples.jsonl", open_rows()), tmp_path / "review.jsonl"
    assert run(path, *OPTIONS, "--review", review) == 0
    assert review.read_text().count('"prompt": "tap number') == 10
    right = [{**row, "specialist": "things"} for row in rows() if row["answer"] == "tap"]
    write(tmp_path / "corrections.jsonl", right)
    capsys.readouterr()
    assert run(path, *OPTIONS, "--corrections", tmp_path) == 0
    assert "10 corrections of things" in capsys.readouterr().err
    assert answers(tmp_path) == list(WORDS)


def test_enough_answers_of_people_are_the_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [*rows(24), *open_rows(60)]
    assert run(write(tmp_path / "examples.jsonl", lines), *OPTIONS) == 0
    assert "measured by the teacher's answers" not in capsys.readouterr().err
    result = read_specialist(tmp_path / "things", BASE).description.result
    assert result.num_examples == 24
