"""``python -m benchmarks.decisions``: its table, of made-up features instead of a model's."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decisions import measure
from benchmarks.decisions.__main__ import main
from edged.errors import ExitCode
from tests.unit.lessons import BASE, LAYOUT, WIDTH, drawn


class MadeUpReader:
    """Reads a prompt ``label-seed`` as features of this label, and any other text as noise."""

    layout, base = LAYOUT, BASE

    def __init__(self, folder: Path) -> None:
        assert folder.name == "bundle"

    def one(self, prompt: str) -> np.ndarray:
        label, _, seed = prompt.partition("-")
        if not seed:
            return np.zeros(WIDTH, np.float32)
        random = np.random.default_rng(int(seed))
        if label == "other":
            return random.standard_normal(WIDTH).astype(np.float32)
        features: np.ndarray = drawn(6, seed=int(seed))[0][int(label)]
        return features

    def read(self, prompts: Sequence[str], note: Callable[[float], None]) -> np.ndarray:
        note(1.0)
        return np.stack([self.one(prompt) for prompt in prompts])


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "FeatureReader", MadeUpReader)


def write(path: Path, seeds: range, labels: Sequence[str] = ("0", "1", "2")) -> None:
    examples = [{"prompt": f"{one}-{seed}", "answer": one} for seed in seeds for one in labels]
    path.write_text("".join(json.dumps(example) + "\n" for example in examples))


def test_each_file_is_taught_from_and_asked_about_the_same_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "six-1.jsonl", range(10))
    write(tmp_path / "six-2.jsonl", range(10, 25))
    write(tmp_path / "six-test.jsonl", range(100, 140))
    write(tmp_path / "six-out-of-scope.jsonl", range(200, 260), ["other"])
    write(tmp_path / "two-few.jsonl", range(5), ["0", "1"])
    write(tmp_path / "two-test.jsonl", range(100, 120), ["0", "1"])
    figures = tmp_path / "figures.json"
    words = [str(tmp_path), "--model", "bundle", "--json", str(figures)]
    assert main(words) == ExitCode.OK
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["six-1", "six-2", "six, mean", "two-few"]
    first, second, mean, few = json.loads(figures.read_text())
    assert (first["num_examples"], second["num_examples"], few["num_examples"]) == (30, 45, 10)
    assert (first["num_tests"], few["num_tests"]) == (120, 40)
    assert mean["right"] == pytest.approx((first["right"] + second["right"]) / 2)
    for row in (first, second, few):
        assert row["right"] > 0.85
        assert row["ece"] < 0.15
        assert row["kept"] > 0.8
    assert mean["others_found"] > 0.25
    assert few["others_found"] is None


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "no file is called"), (["six-test"], "no six-….jsonl to teach from")],
)
def test_a_folder_without_sets_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], said: str
) -> None:
    for name in names:
        write(tmp_path / f"{name}.jsonl", range(3))
    assert main([str(tmp_path), "--model", "bundle"]) == ExitCode.USAGE
    assert said in capsys.readouterr().err
