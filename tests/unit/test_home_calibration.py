"""What a home specialist's probabilities mean is found on sentences that it did not learn from."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edged.specialists.writer import ADAPTER, WRITER, read_description
from models.specialists.home import calibrate as module
from models.specialists.home.generator.examples import make_many
from models.specialists.home.measure import HERE, Reply

SURE, UNSURE = -0.1, -6.0


def test_sure_answers_that_were_right_are_likely_and_the_others_are_unsure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "home"
    shutil.copytree(HERE / "specialist", folder)
    examples = list(make_many(40, 3, "held-out", (2, 4)))
    replies = {}
    for index, example in enumerate(examples):
        is_right = index % 2 == 0
        value = example.as_json()["answer"] if is_right else None
        replies[example.prompt] = Reply(value, SURE if is_right else UNSURE, 0.0, 1.0)

    def ask(_: object, example: Mapping[str, Any]) -> Reply:
        return replies[example["prompt"]]

    writer = SimpleNamespace(choice=None)
    monkeypatch.setattr(module, "AskedWriter", lambda *_: SimpleNamespace(writer=writer))
    monkeypatch.setattr(module, "ask", ask)
    before = (folder / ADAPTER).read_bytes()
    result = module.calibrate(folder, tmp_path, examples)
    description, _ = read_description(folder)
    assert description.result == result
    assert (result.accuracy, result.answered, result.answered_right) == (0.5, 0.5, 1.0)
    assert description.confidence(SURE) > 0.9
    assert description.confidence(UNSURE) < description.unsure_below
    assert (folder / ADAPTER).read_bytes() == before
    assert (folder / WRITER).read_bytes() != (HERE / "specialist" / WRITER).read_bytes()
