"""How often a specialist is right, on examples that were used to choose nothing.

Every figure comes from whole specialists, each taught without some of the examples (features,
strength, thresholds and all) and asked about these. What is written in the end is taught from all
of them, so it is a little better than what is reported.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edged.specialists.decision import Decision, decide, deviation_of
from edged.specialists.examples import Answer, AnswerKind, Example
from edged.specialists.features import Floats
from edged.specialists.folder import Result, Specialist
from edged.specialists.head import Integers, folds
from edged.specialists.lesson import Lesson, Note, key_of, taught
from edged.specialists.measures import calibration_error, interval

# Examples up to which so many parts are held out in turn; of more, one fifth is enough.
_PARTS = ((300, 10), (1000, 5))
_FIFTH = 5
# Other folds than those that are used inside.
_SEED = 1
_CURVE_SHARES = (0.25, 0.5)
_CURVE_PARTS = 5
# Share of the time of measuring that goes by before the curve, about.
_JUDGING = 0.7


@dataclass(frozen=True, slots=True)
class Judged:
    """One example, and what a specialist says of it that was taught without it."""

    example: Example
    decision: Decision
    is_right: bool
    plausibility: float
    """Probability of the example's answer; of a number in proportion to the most probable one."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Accuracy of specialists that were taught from some of the examples."""

    num_examples: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a lesson."""

    judged: Sequence[Judged]
    """Each example that was held out."""
    curve: Sequence[CurvePoint]


@dataclass(frozen=True, slots=True)
class LabelCounts:
    """How often a label was right, said, and both."""

    label: str
    num_right: int
    num_said: int
    num_examples: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.num_right / max(self.num_said + self.num_examples, 1)


def judge(specialist: Specialist, example: Example, features: Floats) -> Judged:
    """Compare what a specialist says of an example with the example's answer."""
    decision = decide(specialist, features)
    right = is_right(specialist, decision, example.answer)
    return Judged(example, decision, right, _plausibility(specialist, decision, example.answer))


def is_right(specialist: Specialist, decision: Decision, answer: Answer) -> bool:
    """Tell whether a decision is right in every part.

    Where nothing was taught to be none of the labels, "unsure" is right for it.
    """
    said = specialist.description
    if said.scale is not None:
        return isinstance(answer, float) and said.scale.is_right(float(decision.text), answer)
    if said.kind is AnswerKind.LABELS:
        return decision.json == list(answer if isinstance(answer, tuple) else ())
    if said.kind is AnswerKind.FIELDS:
        expected = _chosen(answer)
        return isinstance(decision.json, dict) and _chosen(decision.json) == expected
    if answer is None and None not in specialist.heads[0].description.labels:
        return decision.is_unsure
    return decision.text == (answer or "")


def _chosen(answer: object) -> dict[str, str]:
    pairs = answer.items() if isinstance(answer, dict) else ()
    return {name: label for name, label in pairs if label is not None}


def _plausibility(specialist: Specialist, decision: Decision, answer: Answer) -> float:
    heads, said = specialist.heads, decision.probabilities
    if decision.interval is not None:
        error = abs(float(decision.text) - (answer if isinstance(answer, float) else 0.0))
        return math.exp(-0.5 * (error / deviation_of(decision)) ** 2)
    if isinstance(said, dict):
        right = _chosen(answer)
        product = 1.0
        for head in heads:
            field = str(head.description.field)
            product *= _of(head.description.labels, said[field], right.get(field))
        return product
    probabilities = said or []
    labels = heads[0].description.labels
    if specialist.description.kind is AnswerKind.LABELS:
        chosen = answer if isinstance(answer, tuple) else ()
        pairs = zip(labels, probabilities, strict=True)
        return float(np.prod([one if label in chosen else 1 - one for label, one in pairs]))
    return _of(labels, probabilities, answer)


def _of(labels: Sequence[str | None], probabilities: Sequence[float], label: object) -> float:
    return dict(zip(labels, probabilities, strict=True)).get(label, 0.0)  # type: ignore[call-overload,no-any-return]


def measured(lesson: Lesson, note: Note) -> Measured:
    """Teach without some of the examples, and ask about these; blocks for seconds.

    Args:
        lesson: All of the examples.
        note: Reports the share of the work that is done.
    """
    parts = held_out_parts(lesson)
    judged = list(judged_parts(lesson, parts, 1.0, lambda share: note(share * _JUDGING)))
    curve = learning_curve(lesson, parts, judged, lambda s: note(_JUDGING + s * (1 - _JUDGING)))
    return Measured([one for part in judged for one in part], curve)


def held_out_parts(lesson: Lesson) -> list[Integers]:
    """Return the examples that are held out together; no group is in two of these parts."""
    count = next((parts for most, parts in _PARTS if len(lesson.examples) <= most), _FIFTH)
    if lesson.kind is AnswerKind.FIELDS:
        count = min(count, _FIFTH)  # each part costs a head for each field
    keys = [(example.is_measure, key_of(example.answer)) for example in lesson.examples]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    fold = folds([order[key] for key in keys], lesson.groups, count, _SEED)
    parts = [np.flatnonzero(fold == index) for index in np.unique(fold)]
    if len(lesson.examples) <= _PARTS[-1][0]:
        return parts
    is_measure = np.array([example.is_measure for example in lesson.examples])
    return [max(parts, key=lambda part: int(is_measure[part].sum()))]


def judged_parts(
    lesson: Lesson, parts: Sequence[Integers], share: float, note: Note
) -> Iterator[list[Judged]]:
    """Yield for each part what is said of it after a share of the other examples.

    Args:
        lesson: All of the examples.
        parts: See ``held_out_parts``.
        share: Of the other examples that are taught.
        note: Reports the share of the work that is done.
    """
    for index, part in enumerate(parts):
        others = np.setdiff1d(np.arange(len(lesson.examples)), part)
        kept = _share_of(lesson, others, share)
        specialist = taught(lesson.part(kept), lambda _: None)
        measures = [one for one in part if lesson.examples[one].is_measure]
        yield [judge(specialist, lesson.examples[one], lesson.features[one]) for one in measures]
        note((index + 1) / len(parts))


def _share_of(lesson: Lesson, indices: Integers, share: float) -> list[int]:
    """Return a share of the examples of each answer, rounded up."""
    shuffled = np.random.default_rng(_SEED).permutation(indices)
    members: dict[str, list[int]] = {}
    for index in shuffled.tolist():
        members.setdefault(key_of(lesson.examples[index].answer), []).append(index)
    return sorted(one for all_ in members.values() for one in all_[: -int(-len(all_) * share // 1)])


def learning_curve(
    lesson: Lesson, parts: Sequence[Integers], judged: Sequence[Sequence[Judged]], note: Note
) -> list[CurvePoint]:
    """Return the accuracy after a quarter, a half and all of the examples, on the same ones.

    Args:
        lesson: All of the examples.
        parts: See ``held_out_parts``.
        judged: What ``judged_parts`` says of these after all other examples.
        note: Reports the share of the work that is done.
    """
    parts = parts[:_CURVE_PARTS]
    points = []
    for index, share in enumerate(_CURVE_SHARES):

        def part(done: float, index: int = index) -> None:
            note((index + done) / len(_CURVE_SHARES))

        points.append((share, list(judged_parts(lesson, parts, share, part))))
    points.append((1.0, [list(one) for one in judged[: len(parts)]]))
    curve = []
    for share, found in points:
        flat = [one.is_right for part in found for one in part]
        count = len(lesson.examples) - round(len(flat) / len(parts))
        low, high = interval(sum(flat), len(flat))
        curve.append(CurvePoint(round(share * count), float(np.mean(flat)), low, high))
    return curve


def result_of(judged: Sequence[Judged], precision: float) -> Result:
    """Return the figures of what was judged."""
    right = np.array([one.is_right for one in judged])
    confidence = [one.decision.confidence for one in judged]
    ece = calibration_error(confidence, [one.is_right for one in judged])
    is_answered = np.array([not one.decision.is_unsure for one in judged])
    errors = [
        abs(float(one.decision.text) - one.example.answer)
        for one in judged
        if isinstance(one.example.answer, float)
    ]
    low, high = interval(int(right.sum()), len(right))
    return Result(
        *(float(right.mean()), low, high, ece, len(right)),
        *(precision, float(is_answered.mean())),
        float(right[is_answered].mean()) if is_answered.any() else 0.0,
        float(np.mean(errors)) if errors else None,
    )


def label_counts(judged: Sequence[Judged]) -> list[LabelCounts]:
    """Return the counts of each of several labels, and of each field's labels."""
    counts: dict[str, list[int]] = {}
    for one in judged:
        right, said = _parts_of(one.example.answer), _parts_of(one.decision.json)
        for label in sorted(right | said):
            entry = counts.setdefault(label, [0, 0, 0])
            entry[0] += label in right and label in said
            entry[1] += label in said
            entry[2] += label in right
    return [LabelCounts(label, *entry) for label, entry in sorted(counts.items())]


def _parts_of(answer: object) -> set[str]:
    if isinstance(answer, dict):
        return {f"{name}: {label}" for name, label in _chosen(answer).items()}
    return set(answer) if isinstance(answer, tuple | list) else set()
