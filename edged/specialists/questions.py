"""Several named questions about one prompt: heads, which share one reading, and scored choices."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edged.protocol.request import Answer, FinishReason
from edged.specialists.decider import Decider, Read, Run


class QuestionsDecider:
    """Has each question decided by a decider of its own, and makes one answer of it.

    Runs that several of them name are made once. What begins alike comes one after the other, so
    that each finds the prompt's tokens in the cache: prompts that say nothing, then the prompt with
    each question behind it.

    Args:
        questions: What decides each one, by name.
        may_leave_out: Whether a part of the answers will do. Then the request is admitted if the
            first of them fits, and what is not answered at the deadline has nothing but the
            ``finish_reason`` ``deadline``; else all are answered or none.
    """

    def __init__(self, questions: Mapping[str, Decider], *, may_leave_out: bool = False) -> None:
        self._questions = questions
        self._answers: dict[str, Answer] = {}
        staged = [
            (bool(run.options), run is decider.runs[-1], run)
            for decider in questions.values()
            for run in decider.runs
        ]
        staged.sort(key=lambda stage: stage[:2])
        self.runs = list({id(run): run for *_, run in staged}.values())
        self.num_needed = len(self.runs)
        if may_leave_out:
            places = {id(run): place for place, run in enumerate(self.runs, 1)}
            self.num_needed = min(places[id(one.runs[-1])] for one in questions.values())

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        """Return the next run, then all answers in one."""
        num_read = len(readers)
        if num_read < (len(self.runs) if may_go_on else self.num_needed):
            return self.runs[num_read]
        of_run = dict(zip(map(id, self.runs), readers, strict=False))
        for name, decider in self._questions.items():
            read = [of_run[id(run)] for run in decider.runs if id(run) in of_run]
            if name not in self._answers and len(read) == len(decider.runs):
                answer = decider.proceed(read, may_go_on=False)
                assert isinstance(answer, Answer)  # noqa: S101 - all its runs were made
                self._answers[name] = answer
        return self._answer()

    def _answer(self) -> Answer:
        answers, found = self._answers, {one.finish_reason for one in self._answers.values()}
        reason = FinishReason.UNSURE if FinishReason.UNSURE in found else FinishReason.STOP
        if len(answers) < len(self._questions):
            reason = FinishReason.DEADLINE
        values = {name: _value(answers[name]) for name in self._questions if name in answers}
        members = {
            name: _members(answers[name]) if name in answers else dict(_LEFT_OUT)
            for name in self._questions
        }
        text = json.dumps(values, ensure_ascii=False)
        return Answer(text, reason, values, detail={"answers": members})


_LEFT_OUT = {"finish_reason": FinishReason.DEADLINE.value}


def _value(answer: Answer) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Return what was answered: the option or label, None for none of these, or the JSON value."""
    return (answer.text or None) if answer.is_choice else answer.json


def _members(answer: Answer) -> dict[str, Any]:
    value = {"choice": answer.choice} if answer.is_choice else {"json": answer.json}
    reason = answer.finish_reason.value
    return {"text": answer.text, **value, **answer.detail, "finish_reason": reason}
