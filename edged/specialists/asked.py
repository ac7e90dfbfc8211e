"""A request to a specialist: what it says of one run, and what is made of it.

What the specialist is unsure of may be passed on, one hop: to another one that decides, or that
writes, or to the plain model, which writes an answer. One that decides reads the fixed template:
two of them read the same run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edged.protocol.request import Answer, FinishReason
from edged.specialists.choice import ChoiceHead
from edged.specialists.decider import Read, Run, features_of
from edged.specialists.decision import Decision, decide
from edged.specialists.folder import Specialist
from edged.specialists.gate import GateChoice
from edged.specialists.names import PLAIN_MODEL

Features = NDArray[np.float32]
# The name of a specialist, or what names it for the features of a prompt, as the gate does.
Choose: TypeAlias = str | Callable[[Features], GateChoice]


@dataclass(frozen=True, slots=True)
class Writing:
    """The runs in which an answer is written: of a writer whose choices a head knows, two."""

    run: Run
    choice: ChoiceHead | None = None
    reading: Run | None = None
    """What the head reads."""

    @property
    def runs(self) -> list[Run]:
        """All of them, in order."""
        return [self.run] if self.reading is None else [self.reading, self.run]

    def following(self, readers: Sequence[Read]) -> Run:
        """Return the run that follows what the first of them gave."""
        if self.reading is not None and not readers:
            return self.reading
        if self.choice is not None and readers:
            self.run.constraint.prefer(self.choice.preferences(features_of(readers[0])))
        return self.run


@dataclass(frozen=True, slots=True)
class Second:
    """Whom an unsure prompt is passed on to, in runs of its own."""

    name: str
    """Of a specialist, or ``PLAIN_MODEL``."""
    writing: Writing
    """Or the one run in which it reads."""
    head: Specialist | None = None
    """Where it decides."""

    def proceed(self, readers: Sequence[Read], own: Answer) -> Run | Answer:
        """Return the run that follows, or its answer; the own one where it is not sure either.

        Args:
            readers: What its runs gave so far.
            own: The answer of the specialist that was unsure.
        """
        if len(readers) < len(self.writing.runs):
            return self.writing.following(readers)
        read, passed_on = readers[-1], {"specialist": self.name}
        passed_on["escalated_from"] = own.detail["specialist"]
        if self.head is not None:
            decision = decide(self.head, features_of(read))
            return own if decision.is_unsure else answer_of(decision, passed_on)
        assert isinstance(read, Answer)  # noqa: S101 - it was written
        if self.name == PLAIN_MODEL:
            return replace(read, detail={**passed_on, "specialist": None})
        is_answer = read.finish_reason in {FinishReason.STOP, FinishReason.CANCELLED}
        return replace(read, detail={**read.detail, **passed_on}) if is_answer else own


class SpecialistDecider:
    """Decides by one specialist, or by the one that the gate chooses.

    Args:
        reading: The run of the prompt in the template.
        specialists: All that are installed, by name.
        choose: The one that decides.
        second: Who answers in a run of its own what they are unsure of, if anybody.
        may_escalate: Whether it may be passed on at all.
    """

    num_needed = 1

    def __init__(
        self,
        reading: Run,
        specialists: Mapping[str, Specialist],
        choose: Choose,
        second: Second | None = None,
        *,
        may_escalate: bool = True,
    ) -> None:
        self._specialists = specialists
        self._choose = choose
        self._second = second
        self._may_escalate = may_escalate
        self.runs = [reading, *([] if second is None else second.writing.runs)]

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        """Return the reading, then what it says, or the run of who answers in its place."""
        if not readers:
            return self.runs[0]
        own = self._own(features_of(readers[0]))
        second = self._second
        if second is None or len(readers) == len(self.runs):
            return own if second is None else second.proceed(readers[1:], own)
        is_unsure = own.finish_reason is FinishReason.UNSURE
        if is_unsure and may_go_on and self._target(own) == second.name:
            return second.proceed(readers[1:], own)
        return own

    def _target(self, own: Answer) -> str | None:
        """Return whom an answer may be passed on to."""
        one = self._specialists.get(own.detail["specialist"] or "")
        return one.description.escalate if one is not None and self._may_escalate else None

    def _own(self, features: Features) -> Answer:
        """Return the answer of the specialist, or of another one that reads the same."""
        name, detail = self._choose, {}
        if not isinstance(name, str):
            found = name(features)
            detail = {"specialists": _rounded(found.probabilities)}
            if found.name is None:
                return Answer("", FinishReason.UNSURE, detail={"specialist": None, **detail})
            name = found.name
        decision = decide(self._specialists[name], features)
        target = self._specialists[name].description.escalate
        other = self._specialists.get(target or "") if self._may_escalate else None
        if decision.is_unsure and other is not None:
            second = decide(other, features)
            if not second.is_unsure:
                return answer_of(second, {"specialist": target, "escalated_from": name, **detail})
        return replace(
            answer_of(decision, {"specialist": name, **detail}), may_leave=target is None
        )


class WriterDecider:
    """Has a specialist write, and passes on what it is unsure of.

    Args:
        writing: The runs of the specialist.
        second: Who answers what it is unsure of, if anybody.
    """

    def __init__(self, writing: Writing, second: Second | None = None) -> None:
        self._writing, self._second = writing, second
        self.num_needed = len(writing.runs)
        self.runs = [*writing.runs, *([] if second is None else second.writing.runs)]

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        """Return the writing, then what was written, or the run of who answers in its place."""
        if len(readers) < self.num_needed:
            return self._writing.following(readers)
        own, others, second = readers[self.num_needed - 1], readers[self.num_needed :], self._second
        assert isinstance(own, Answer)  # noqa: S101 - it was written
        if second is None or len(readers) == len(self.runs):
            return own if second is None else second.proceed(others, own)
        if own.finish_reason is FinishReason.UNSURE and may_go_on:
            return second.proceed(others, own)
        return own


def answer_of(decision: Decision, detail: Mapping[str, Any]) -> Answer:
    """Return the answer that is a decision."""
    reason = FinishReason.UNSURE if decision.is_unsure else FinishReason.STOP
    return Answer(
        decision.text,
        reason,
        decision.json,
        is_choice=decision.choice is not None,
        choice=decision.choice,
        detail={**detail, **members(decision)},
    )


def members(decision: Decision) -> dict[str, Any]:
    """Return what a reply says of a decision beside the answer itself."""
    found: dict[str, Any] = {"confidence": round(decision.confidence, 4)}
    if decision.probabilities is not None:
        found["probabilities"] = decision.probabilities
    if decision.interval is not None:
        found["interval"] = list(decision.interval)
    if decision.is_unsure and decision.guesses:
        found["guesses"] = [
            {"text": text, "probability": probability} for text, probability in decision.guesses
        ]
    return found


def _rounded(probabilities: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in probabilities.items()}
