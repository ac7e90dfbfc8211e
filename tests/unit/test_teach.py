"""``edged teach`` from a file to a folder, with made-up features instead of a model."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged import cli
from edged.commands import teaching
from edged.errors import UsageError
from edged.specialists.decision import decide
from edged.specialists.folder import read_specialist
from tests.unit.lessons import BASE, LAYOUT, WIDTH, drawn

WORDS = ("lamp", "door", "tap")
CENTRES = drawn(6, seed=1)[0]


class Reader:
    """Features by the words of a prompt."""

    layout, base = LAYOUT, BASE
    read: list[str]

    def __init__(self, folder: Path) -> None:
        type(self).read = []

    def one(self, prompt: str) -> NDArray[np.float32]:
        self.read.append(prompt)
        if "long" in prompt:
            raise UsageError("a prompt has 9 tokens; at most 8 fit")
        random = np.random.default_rng(sum(map(ord, prompt)))
        noise = random.standard_normal(WIDTH).astype(np.float32)
        present = [index for index, word in enumerate(WORDS) if word in prompt]
        return np.asarray(noise + 2 * CENTRES[present].sum(axis=0), np.float32)


@pytest.fixture(autouse=True)
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "FeatureReader", Reader)
    monkeypatch.setattr("edged.specialists.judging._PARTS", ((1000, 2),))  # it is faster


def rows(count: int = 30, start: int = 0) -> list[dict[str, object]]:
    words = [WORDS[index % 3] for index in range(start, start + count)]
    return [
        {"prompt": f"{word} number {index}", "answer": word}
        for index, word in enumerate(words, start)
    ]


def write(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(examples: Path, *options: object) -> int:
    output = examples.parent / "things"
    words = ["teach", examples, "--model", examples.parent, "--output", output, *options]
    return cli.main([str(word) for word in words])


def test_a_file_becomes_a_folder_that_decides_and_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write(tmp_path / "examples.jsonl", rows())) == 0
    printed = capsys.readouterr().out
    assert "30 examples, one of 3 labels" in printed
    assert "% right (" in printed
    specialist = read_specialist(tmp_path / "things", BASE)
    assert specialist.description.name == "things"
    assert specialist.description.result.num_examples == 30
    assert specialist.description.result.accuracy > 0.9
    assert decide(specialist, Reader(tmp_path).one("a door of oak")).text == "door"
    assert "one of 3 labels" in (tmp_path / "things" / "report.html").read_text()


def test_what_was_taught_can_be_read_by_the_user_of_the_node(tmp_path: Path) -> None:
    examples, output = write(tmp_path / "rows.jsonl", rows()), tmp_path / "above" / "six"
    umask = os.umask(0o077)
    try:
        assert run(examples, "--output", output) == 0
    finally:
        os.umask(umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (output, *output.iterdir())}
    report = modes.pop("report.html")
    assert modes == {"six": 0o755, "specialist.json": 0o644, "arrays.npz": 0o644}
    assert report == 0o600, "it has prompts, and no node reads it"


def test_below_the_floor_only_the_report_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = [{**row, "answer": WORDS[index // 3 % 3]} for index, row in enumerate(rows())]
    assert run(write(tmp_path / "examples.jsonl", chance), "--floor", 0.9) == 64
    complaint = capsys.readouterr().err
    assert "is below --floor 90.0%: no specialist is written" in complaint
    assert [path.name for path in (tmp_path / "things").iterdir()] == ["report.html"]


def test_a_test_is_what_counts_but_for_what_was_taught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test = write(tmp_path / "test.jsonl", rows(12, start=24))
    assert run(write(tmp_path / "examples.jsonl", rows()), "--test", test) == 0
    printed = capsys.readouterr()
    assert f"{test}: line 6: its prompt is taught in line 30; it does not count" in printed.err
    specialist = read_specialist(tmp_path / "things", BASE)
    assert specialist.description.result.num_examples == 6
    assert f"6 examples of {test}" in (tmp_path / "things" / "report.html").read_text()


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        (rows(), "every prompt is taught as well"),
        (
            [{"prompt": "x", "answer": ["door"]}],
            "its answers are labels, those to learn from label",
        ),
    ],
)
def test_a_test_that_tests_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], test: list[object], complaint: str
) -> None:
    path = write(tmp_path / "test.jsonl", test)
    assert run(write(tmp_path / "examples.jsonl", rows()), "--test", path) == 64
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--precision", "2"], "--precision: 2 is not from 0 to 1"),
        (["--floor", "-1"], "--floor: -1 is not from 0 to 1"),
        (["--tolerance", "nan"], "--tolerance: nan is not from 0"),
        (["--name", "My Name"], "--name 'My Name' must be 1 to 64 characters"),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], complaint: str
) -> None:
    Reader.read = []
    assert run(write(tmp_path / "examples.jsonl", rows()), *options) == 64
    assert complaint in capsys.readouterr().err
    assert not Reader.read


def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "things").write_text("a file")
    assert run(write(tmp_path / "examples.jsonl", rows())) == 64
    assert "things is no folder" in capsys.readouterr().err
    (tmp_path / "things").unlink()
    (tmp_path / "things" / "report.html").mkdir(parents=True)
    assert run(write(tmp_path / "examples.jsonl", rows())) == 64
    assert "things: cannot be written" in capsys.readouterr().err


def test_a_folder_of_a_writer_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "writer.json").write_text("{}")
    Reader.read = []
    assert run(write(tmp_path / "examples.jsonl", rows())) == 64
    assert "things holds a specialist that writes; choose another" in capsys.readouterr().err
    assert not Reader.read


def test_a_prompt_that_is_too_long_is_named_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "examples.jsonl", [*rows(), {"prompt": "long", "answer": "tap"}])
    assert run(path) == 64
    assert f"{path}:31: a prompt has 9 tokens" in capsys.readouterr().err


def test_a_prompt_is_read_once_and_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "examples.jsonl", [*rows(), *rows(25)])
    assert run(path) == 0
    printed = capsys.readouterr()
    assert "30 examples, one of 3 labels" in printed.out
    assert sorted(Reader.read) == sorted([*(str(row["prompt"]) for row in rows()), *WORDS])
    assert f"{path}: lines 1, 31: the same prompt and answer; the first one counts" in printed.err
    assert f"{path}: 5 more in the report" in printed.err


def test_numbers_are_right_within_the_tolerance_that_is_asked_for(tmp_path: Path) -> None:
    numbers = [{**row, "answer": float(index % 3)} for index, row in enumerate(rows())]
    path = write(tmp_path / "examples.jsonl", numbers)
    assert run(path) == 0
    scale = read_specialist(tmp_path / "things", BASE).description.scale
    assert scale is not None
    assert scale.tolerance == 1.0
    assert run(path, "--tolerance", 0.25) == 0
    scale = read_specialist(tmp_path / "things", BASE).description.scale
    assert scale is not None
    assert scale.tolerance == 0.25


def test_the_progress_says_how_long_it_will_still_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    times = iter([100.0, 104.0, 110.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    progress = teaching.Progress("teaching")
    progress.part(0.2, 0.4)(0.5)
    progress.show(1.0)
    assert capsys.readouterr().err == (
        "\rteaching:  40%, about 6 s left   \rteaching: 100%, about 0 s left   \n"
    )


def test_numpy_is_imported_only_after_its_threads_are_set() -> None:
    code = "import sys, edged.cli, edged.commands.teach; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
