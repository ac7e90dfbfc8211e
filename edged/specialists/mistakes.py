"""What a specialist gets wrong: confusions, and examples whose answers may be wrong themselves."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edged.specialists.examples import Answer, AnswerKind
from edged.specialists.judging import CurvePoint, Judged

_NONE = "none of these"
_NOTHING = "nothing"
# Below it the other examples speak against the answer of an example.
_PLAUSIBLE = 0.3
# A rise of less than a point is none that pays for twice the examples.
_LEAST_RISE = 0.01


@dataclass(frozen=True, slots=True)
class Confusion:
    """One answer that was given for another."""

    right: str
    said: str
    judged: tuple[Judged, ...]
    """The most confident first."""

    @property
    def count(self) -> int:
        """How often."""
        return len(self.judged)


def confusions(kind: AnswerKind, judged: Sequence[Judged]) -> list[Confusion]:
    """Return the confusions, the most frequent first; of numbers the largest errors."""
    found: dict[tuple[str, str], list[Judged]] = {}
    for one in judged:
        if not one.is_right:
            for pair in _differences(kind, one):
                found.setdefault(pair, []).append(one)
    made = []
    for (right, said), members in found.items():
        members.sort(key=lambda one: -one.decision.confidence)
        made.append(Confusion(right, said, tuple(members)))
    if kind is AnswerKind.NUMBER:
        return sorted(made, key=lambda one: -abs(float(one.right) - float(one.said)))
    return sorted(made, key=lambda one: -one.count)


def _differences(kind: AnswerKind, judged: Judged) -> Iterator[tuple[str, str]]:
    answer, decision = judged.example.answer, judged.decision
    if kind is AnswerKind.LABELS:
        right = set(answer) if isinstance(answer, tuple) else set()
        said = set(decision.json) if isinstance(decision.json, list) else set()
        yield from ((label, _NOTHING) for label in sorted(right - said))
        yield from ((_NOTHING, label) for label in sorted(said - right))
    elif kind is AnswerKind.FIELDS:
        given = answer if isinstance(answer, dict) else {}
        answered = decision.json if isinstance(decision.json, dict) else {}
        for name in {**given, **answered}:
            if given.get(name) != answered.get(name):
                yield (
                    f"{name}: {given.get(name) or _NONE}",
                    f"{name}: {answered.get(name) or _NONE}",
                )
    elif kind is AnswerKind.NUMBER:
        yield shown(answer), decision.text
    else:
        yield shown(answer), decision.text or _NONE


def shown(answer: Answer) -> str:
    """Return an answer as people read it."""
    if answer is None:
        return _NONE
    if isinstance(answer, float):
        return f"{answer:g}"
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def doubtful(judged: Sequence[Judged]) -> list[Judged]:
    """Return wrongly answered examples whose own answer is improbable, the least probable first."""
    found = [one for one in judged if not one.is_right and one.plausibility < _PLAUSIBLE]
    return sorted(found, key=lambda one: one.plausibility)


def is_worth_more(curve: Sequence[CurvePoint]) -> bool:
    """Tell whether twice the examples raised the accuracy clearly, as the last two points say."""
    half, whole = curve[-2], curve[-1]
    # The same examples were judged: their difference varies less than either share.
    noise = (whole.high - whole.low) / 8
    return whole.accuracy - half.accuracy > max(_LEAST_RISE, noise)
