"""The dialogues that measure what writers learn from few examples."""

import json
from pathlib import Path

import pytest

from benchmarks.writers.last_answers import SETS, Dialogues
from edged.specialists.dialogues import check_answers, read_dialogues
from edged.specialists.wording import wording_of_tools

EACH = pytest.mark.parametrize("dialogues", SETS.values(), ids=SETS)


@EACH
def test_each_answer_is_a_call_of_a_function(dialogues: Dialogues) -> None:
    wording = wording_of_tools(json.loads(dialogues.tools.read_text(encoding="utf-8")), [])
    for path, count in zip((dialogues.taught, *dialogues.judged), (50, 100, 50), strict=True):
        found = read_dialogues(path)
        check_answers(found, wording)
        assert len(found) == count
        last = [dialogue.turns[-1].answer["name"] for dialogue in found]
        assert 0.16 <= last.count(dialogues.none) / count <= 0.3


@EACH
def test_no_sentence_that_is_judged_was_taught(dialogues: Dialogues) -> None:
    def last(path: Path) -> list[str]:
        return [dialogue.turns[-1].said for dialogue in read_dialogues(path)]

    taught = {turn.said for one in read_dialogues(dialogues.taught) for turn in one.turns}
    judged = [said for path in dialogues.judged for said in last(path)]
    assert not taught & {*judged}
    assert len({*judged}) == len(judged)
