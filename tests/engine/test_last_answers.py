"""The dialogues that measure what writers learn from few examples."""

import json
from pathlib import Path

import pytest

from benchmarks.writers.last_answers import NONE, TAUGHT, TOOLS, UNSEEN
from edged.specialists.dialogues import check_answers, read_dialogues
from edged.specialists.wording import wording_of_tools


@pytest.mark.parametrize("path", [TAUGHT, UNSEEN])
def test_each_answer_is_a_call_of_a_function(path: Path) -> None:
    wording = wording_of_tools(json.loads(TOOLS.read_text(encoding="utf-8")), [])
    dialogues = read_dialogues(path)
    check_answers(dialogues, wording)
    assert len(dialogues) == 50
    last = [dialogue.turns[-1].answer["name"] for dialogue in dialogues]
    assert 8 <= last.count(NONE) <= 15


def test_no_last_sentence_that_is_judged_was_taught() -> None:
    taught = {turn.said for dialogue in read_dialogues(TAUGHT) for turn in dialogue.turns}
    judged = [dialogue.turns[-1].said for dialogue in read_dialogues(UNSEEN)]
    assert not taught & {*judged}
    assert len({*judged}) == len(judged)
