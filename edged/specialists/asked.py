"""A request to a specialist: one run of its prompt in the fixed template, and what is made of it.

What the specialist is unsure of may be passed on, one hop: to another one, which reads the same
run, or to the plain model, which writes an answer in a run of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edged.protocol.request import Answer, FinishReason
from edged.specialists.decider import Reader, Run
from edged.specialists.decision import Decision, decide
from edged.specialists.folder import Specialist
from edged.specialists.gate import GateChoice
from edged.specialists.names import PLAIN_MODEL

Features = NDArray[np.float32]
# The name of a specialist, or what names it for the features of a prompt, as the gate does.
Choose: TypeAlias = str | Callable[[Features], GateChoice]


class SpecialistDecider:
    """Decides by one specialist, or by the one that the gate chooses.

    Args:
        reading: The run of the prompt in the template.
        specialists: All that are installed, by name.
        choose: The one that decides.
        plain: The run of the plain model, if what they are unsure of may be passed on to it.
        may_escalate: Whether it may be passed on at all.
    """

    num_needed = 1

    def __init__(
        self,
        reading: Run,
        specialists: Mapping[str, Specialist],
        choose: Choose,
        plain: Run | None = None,
        *,
        may_escalate: bool = True,
    ) -> None:
        self._specialists = specialists
        self._choose = choose
        self._plain = plain
        self._may_escalate = may_escalate
        self.runs = [reading] if plain is None else [reading, plain]

    def proceed(self, readers: Sequence[Reader], *, may_go_on: bool) -> Run | Answer:
        """Return the reading, then what it says, or the plain model's run."""
        if not readers:
            return self.runs[0]
        features, plain = readers[0].features(), self._plain if may_go_on else None
        name, detail = self._choose, {}
        if not isinstance(name, str):
            found = name(features)
            detail = {"specialists": _rounded(found.probabilities)}
            if found.name is None:
                return Answer("", FinishReason.UNSURE, detail={"specialist": None, **detail})
            name = found.name
        decision = decide(self._specialists[name], features)
        if decision.is_unsure and self._may_escalate:
            target = self._specialists[name].description.escalate
            if target == PLAIN_MODEL and plain is not None:
                return plain
            other = self._specialists.get(target or "")
            second = None if other is None else decide(other, features)
            if target is not None and second is not None and not second.is_unsure:
                return answer_of(second, {"specialist": target, "escalated_from": name, **detail})
        names_nobody = self._specialists[name].description.escalate is None
        return replace(answer_of(decision, {"specialist": name, **detail}), may_leave=names_nobody)


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
