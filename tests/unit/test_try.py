"""``edged try`` and ``edged eval``: what they print of a specialist of made-up features."""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edged.commands import evaluate, try_specialist
from edged.errors import UsageError
from edged.specialists.examples import Example
from edged.specialists.folder import Specialist, read_specialist, write_specialist
from edged.specialists.lesson import Lesson, taught
from tests.unit.lessons import (
    BASE,
    LAYOUT,
    WIDTH,
    drawn,
    fields_lesson,
    labels_lesson,
    lesson,
    number_lesson,
)
from tests.unit.test_examples import write

FEATURES, _ = drawn(120, seed=2)


class FakeReader:
    """Features by the number in a prompt: of an example of that label, modulo 6, or of nothing."""

    layout = LAYOUT

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def specialist(self, folder: Path) -> Specialist:
        return read_specialist(folder, BASE, LAYOUT)

    def one(self, prompt: str) -> np.ndarray:
        if prompt.isdigit():
            return np.asarray(FEATURES[int(prompt)])
        if prompt == "too long":
            raise UsageError("a prompt has 9 tokens; at most 8 fit")
        seed = int(prompt.removeprefix("other "))
        return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (try_specialist, evaluate):
        monkeypatch.setattr(command, "FeatureReader", FakeReader)


def written(folder: Path, made: Lesson) -> Path:
    write_specialist(folder / "specialist", taught(made, lambda _: None))
    return folder / "specialist"


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("taught"), lesson())


def run(command: ModuleType, *words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(["--model", "bundle", *(str(word) for word in words)])
    return int(command.main(arguments))


def tried(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert run(try_specialist, *words) == 0
    return capsys.readouterr().out


def test_an_answer_is_shown_with_guesses_and_bars(
    specialist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *guesses = tried(capsys, specialist, "--prompt", "9").splitlines()
    assert first.startswith("label 3: ")
    assert "unsure" not in first
    assert first.endswith(" ms)")
    assert guesses[0].startswith("  label 3")
    assert guesses[0].count("#") > 20 > guesses[1].count("#")
    others = tried(capsys, specialist, *(f"--prompt=other {index}" for index in range(10)))
    assert "%, unsure  (" in others


def test_json_is_an_object_for_each_prompt(
    specialist: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (specialist, "--json", "--prompt", "9", "--prompt", "10")
    first, second = map(json.loads, tried(capsys, *words).splitlines())
    assert (first["prompt"], first["text"], first["choice"]) == ("9", "label 3", 3)
    assert len(first["probabilities"]) == 6
    assert first["ms"] >= 0
    assert second["text"] == "label 4"


class Terminal(io.StringIO):
    """A terminal on which something was typed."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_it_asks_until_the_end_whatever_is_typed(
    specialist: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(f"9\n\n{'x' * 4097}\n\udcff\ntoo long\n10\n"))
    assert run(try_specialist, specialist) == 0
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if "ms)" in line] == [
        line for line in out.splitlines() if line.startswith(("label 3: ", "label 4: "))
    ]
    assert "at most 4096 characters" in err
    assert "must be text in UTF-8" in err
    assert "9 tokens" in err
    assert err.count("> ") >= 6


def test_elsewhere_each_line_of_standard_input_is_a_prompt_and_a_wrong_one_ends_it(
    specialist: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("9\n\n10"))
    assert run(try_specialist, specialist, "--json") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["label 3", "label 4"]
    assert not err
    monkeypatch.setattr(sys, "stdin", io.StringIO("too long\n10\n"))
    with pytest.raises(UsageError, match="9 tokens"):
        run(try_specialist, specialist)


def test_a_number_is_shown_with_its_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = written(tmp_path, number_lesson())
    first, second = tried(capsys, number, "--prompt", "9").splitlines()
    assert first.startswith(("2: ", "3: ", "4: "))
    assert second.startswith("  nine of ten such numbers are from ")


def evaluated(
    capsys: pytest.CaptureFixture[str], folder: Path, rows: Sequence[dict[str, object]]
) -> dict[str, Any]:
    path = write(folder, *rows)
    words = ("--specialist", folder / "specialist", "--examples", path, "--json")
    assert run(evaluate, *words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


KEYS = ("accuracy", "exact", "valid_json", "ece", "unsure", "p50_ms", "n")


def test_a_specialist_of_labels_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, lesson(120))
    rows: list[dict[str, object]] = [
        {"prompt": str(index), "answer": f"label {index % 6}"} for index in range(60)
    ]
    others: list[dict[str, object]] = [
        {"prompt": f"other {index}", "answer": None} for index in range(40)
    ]
    figures = evaluated(capsys, tmp_path, [*rows, *others])
    assert set(KEYS) < figures.keys()
    assert (figures["n"], figures["exact"], figures["valid_json"]) == (100, None, None)
    assert figures["low"] < figures["accuracy"] < figures["high"]
    assert figures["ece"] < 0.2
    assert figures["in_scope_kept"] > 0.8
    assert figures["out_of_scope_found"] > 0.5
    wrong = [row | {"answer": "label 5"} for row in rows if row["answer"] != "label 5"]
    assert evaluated(capsys, tmp_path, wrong)["accuracy"] < 0.1
    assert evaluated(capsys, tmp_path, rows)["accuracy"] > 0.9
    nothing = evaluated(capsys, tmp_path, others)
    assert nothing["accuracy"] == nothing["out_of_scope_found"] == figures["out_of_scope_found"]
    assert (nothing["ece"], nothing["in_scope_kept"]) == (None, None)


@pytest.mark.parametrize("made", [labels_lesson, fields_lesson, number_lesson])
def test_other_answers_are_compared_as_wholes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made: Callable[[], Lesson]
) -> None:
    taught_lesson = made()
    written(tmp_path, taught_lesson)
    answers = [example.answer for example in taught_lesson.examples[:6]]
    rows: list[dict[str, object]] = [
        {"prompt": str(index), "answer": answers[index % 6]} for index in range(60)
    ]
    figures = evaluated(capsys, tmp_path, rows)
    assert figures["accuracy"] > 0.7
    assert figures["valid_json"] == 1.0
    assert figures["exact"] <= figures["accuracy"]
    if made is number_lesson:
        assert figures["error"] < 1
        shifted = [row | {"answer": row["answer"] + 0.5} for row in rows]  # type: ignore[operator]
        assert evaluated(capsys, tmp_path, shifted)["exact"] == 0.0
    else:
        assert figures["exact"] == figures["accuracy"]
        assert max(figures["f1"].values()) > 0.8


def test_answers_of_another_kind_are_refused_with_their_line(
    tmp_path: Path, specialist: Path
) -> None:
    path = write(tmp_path, {"prompt": "1", "answer": "label 1"}, {"prompt": "2", "answer": ["x"]})
    with pytest.raises(UsageError, match=r"jsonl:2: answer: this specialist answers with label"):
        run(evaluate, "--specialist", specialist, "--examples", path)


class LikelyOn:
    """A model that says "on" whatever it is asked."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.options = options

    def ask(self, example: Example) -> np.ndarray:
        return np.array([0.7 if option == "on" else 0.3 for option in self.options])


def test_the_plain_model_chooses_from_the_answers_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BundleTeacher", LikelyOn)
    answers = ["on", "on", "off", None]
    rows = [{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    path = write(tmp_path, *rows)
    assert run(evaluate, "--examples", path, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["accuracy"], figures["n"], figures["unsure"]) == (0.5, 4, 0.0)
    assert figures["ece"] == pytest.approx(0.0333, abs=1e-3)
    assert figures["out_of_scope_found"] == 0.0
    assert run(evaluate, "--examples", path) == 0
    assert "accuracy            0.5\n" in capsys.readouterr().out
    many = write(tmp_path, *[{"prompt": "p", "answer": f"a{i}"} for i in range(513)], name="many")
    for wrong in (write(tmp_path, rows[0], name="one"), many):
        with pytest.raises(UsageError, match="different answers to choose from; 2 to 512"):
            run(evaluate, "--examples", wrong)


def test_a_plain_models_choice_may_be_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "BundleTeacher", LikelyOn)
    rows = [{"prompt": room, "answer": {"room": room}} for room in ("hall", "bath")]
    assert run(evaluate, "--examples", write(tmp_path, *rows), "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["exact"], figures["valid_json"]) == (0.5, 1.0)
