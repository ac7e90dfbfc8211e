"""What is taught: examples with their features, and the specialist that they become.

Labels and fields get a head each (``head``); several labels and numbers get a regression
(``linear``). Whatever the answers are, the thresholds of "unsure" and "unfamiliar" come from what
the examples of other folds say of each example.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.specialists.decision import number
from edged.specialists.examples import Answer, AnswerKind, Example
from edged.specialists.features import VIEWS, Layout
from edged.specialists.folder import (
    FORMAT,
    MAX_DECIMALS,
    BaseModel,
    Description,
    HeadDescription,
    Result,
    Scale,
    Specialist,
    TaughtHead,
)
from edged.specialists.gate_examples import GateExamples, max_gate_examples
from edged.specialists.head import Doubles, Floats, Integers, Scaler, folds
from edged.specialists.linear import Linear, Regression, held_out
from edged.specialists.training import (
    NUM_FOLDS,
    Examples,
    probability_scale,
    teach,
    unfamiliar_below,
    unsure_below,
)

Note = Callable[[float], None]

SEED = 0
# Variance of the noise in units of the prior's.
_NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
_NONE = "none of these"
# Into which numbers are divided for the gate, each with as many examples.
_NUM_STEPS = 8
_NOT_MEASURED = Result(0.0, 0.0, 1.0, 0.0, 0, 0.0, 0.0, 0.0, None)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a specialist is made of."""

    name: str
    base: BaseModel
    layout: Layout
    kind: AnswerKind
    precision: float
    """Share of the answers that must be right where it is not unsure."""
    tolerance: float
    """Of a number; see ``Scale``."""
    examples: Sequence[Example]
    features: Floats
    """``[examples, features]``."""
    names: Mapping[str, Floats] | None
    """``[features]`` of the labels' own texts, by ``words``; None where they say nothing."""

    def part(self, indices: Sequence[int]) -> "Lesson":
        """Return the lesson of some of the examples."""
        chosen = [self.examples[index] for index in indices]
        return replace(self, examples=chosen, features=self.features[np.array(indices, int)])

    @property
    def summary(self) -> str:
        """What the answers are, for people."""
        if self.kind is AnswerKind.NUMBER:
            numbers = [_float(example.answer) for example in self.examples]
            return f"numbers from {min(numbers):g} to {max(numbers):g}"
        if self.kind is AnswerKind.FIELDS:
            names = dict.fromkeys(n for one in self.examples for n in _fields_of(one.answer))
            return f"JSON of the fields {', '.join(names)}"
        if self.kind is AnswerKind.LABELS:
            count = len({label for one in self.examples for label in _tuple(one.answer)})
            return f"any of {count} labels"
        labels = {one.answer for one in self.examples if isinstance(one.answer, str)}
        has_none = any(one.answer is None for one in self.examples)
        return f"one of {len(labels)} labels{', or none of these' if has_none else ''}"

    @property
    def weights(self) -> Doubles:
        """Weights of the examples."""
        return np.array([example.weight for example in self.examples])

    @property
    def groups(self) -> list[str]:
        """Groups of the examples."""
        return [example.group for example in self.examples]


@dataclass(frozen=True, slots=True)
class _Heads:
    """Fitted heads, and what the examples of other folds say of each example."""

    heads: tuple[TaughtHead, ...]
    confidence: Doubles
    is_right: "np.typing.NDArray[np.bool_]"
    familiarity: Doubles
    scale: Scale | None = None


def words(label: str | None) -> str:
    """Return what a label says, in words: an example of it for nothing."""
    if label is None:
        return _NONE
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", label)
    return " ".join(re.sub(r"[_.-]", " ", split).split()).lower() or label


def label_names(kind: AnswerKind, examples: Sequence[Example]) -> list[str]:
    """Return the texts of the labels whose features a lesson needs."""
    if kind in {AnswerKind.LABELS, AnswerKind.NUMBER}:
        return []
    return sorted({words(one) for example in examples for one in _labels_in(example.answer)})


def _labels_in(answer: Answer) -> Sequence[str | None]:
    if isinstance(answer, dict):
        return [*answer.values(), None]
    return [answer] if isinstance(answer, str) or answer is None else []


def key_of(answer: Answer) -> str:
    """Return a text that is the same for equal answers."""
    return json.dumps(answer, sort_keys=True, ensure_ascii=False)


def taught(lesson: Lesson, note: Note) -> Specialist:
    """Return the specialist that the examples make, not measured yet; blocks for seconds.

    Args:
        lesson: With two labels at least.
        note: Reports the share that is done, 0 to 1.
    """
    fit = {AnswerKind.LABEL: _single, AnswerKind.FIELDS: _fields}.get(lesson.kind, _linear)
    made = fit(lesson, note)
    is_measure = np.array([example.is_measure for example in lesson.examples])
    description = Description(
        *(FORMAT, lesson.name, lesson.kind, lesson.base),
        *(lesson.layout.num_layers, lesson.layout.hidden_size),
        tuple(one.description for one in made.heads),
        made.scale,
        unsure_below(made.confidence[is_measure], made.is_right[is_measure], lesson.precision),
        unfamiliar_below(made.familiarity),
        _NOT_MEASURED,
        "",
    )
    chosen = _spread_evenly(lesson.examples)[: max_gate_examples(lesson.layout)]
    features, labels = lesson.features[chosen], _similar(lesson, chosen)
    return Specialist(description, made.heads, GateExamples.of(lesson.layout, features, labels))


def _spread_evenly(examples: Sequence[Example]) -> list[int]:
    """Return the examples' indices: the first of each answer, then the second of each."""
    seen: dict[str, int] = {}
    rank = []
    for index, example in enumerate(examples):
        key = key_of(example.answer)
        seen[key] = seen.get(key, 0) + 1
        rank.append((seen[key], index))
    return [index for _, index in sorted(rank)]


def _similar(lesson: Lesson, chosen: Sequence[int]) -> Integers:
    """Return a number for each of these examples: the same for equal answers, or near numbers."""
    if lesson.kind is AnswerKind.NUMBER:
        numbers = np.array([_float(lesson.examples[index].answer) for index in chosen])
        steps = np.quantile(numbers, np.linspace(0, 1, _NUM_STEPS + 1)[1:-1])
        return np.searchsorted(steps, numbers)
    keys = [key_of(lesson.examples[index].answer) for index in chosen]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return np.array([order[key] for key in keys])


def _single(lesson: Lesson, note: Note) -> _Heads:
    answers = [None if one.answer is None else str(one.answer) for one in lesson.examples]
    return _label_head(lesson, None, answers, note)


def _fields(lesson: Lesson, note: Note) -> _Heads:
    answers = [_fields_of(example.answer) for example in lesson.examples]
    names = list(dict.fromkeys(name for answer in answers for name in answer))
    made = []
    for index, name in enumerate(names):
        values = [answer.get(name) for answer in answers]

        def part(share: float, index: int = index) -> None:
            note((index + share) / len(names))

        made.append(_label_head(lesson, name, values, part))
    return _Heads(
        tuple(one.heads[0] for one in made),
        np.prod([one.confidence for one in made], axis=0),
        np.all([one.is_right for one in made], axis=0),
        np.mean([one.familiarity for one in made], axis=0),
    )


def _label_head(
    lesson: Lesson, field: str | None, answers: Sequence[str | None], note: Note
) -> _Heads:
    labels: list[str | None] = [*sorted({answer for answer in answers if answer is not None})]
    labels += [None] if None in answers else []
    index = {label: position for position, label in enumerate(labels)}
    targets = np.array([index[answer] for answer in answers])
    names = None
    if lesson.names is not None:
        names = np.stack([lesson.names[words(label)] for label in labels])
    examples = Examples(lesson.features, targets, lesson.weights, lesson.groups, names)
    found = teach(examples, lesson.layout, note, SEED)
    description = HeadDescription(field, tuple(labels), found.view, found.head.temperature)
    return _Heads(
        (TaughtHead(description, found.scaler, found.head),),
        found.held_out.max(axis=1),
        found.held_out.argmax(axis=1) == targets,
        found.familiarity,
    )


@dataclass(frozen=True, slots=True)
class _Fit:
    """A regression, and what the examples of other folds say of each example."""

    description: HeadDescription
    scaler: Scaler
    head: Linear
    noise: float
    values: Doubles
    spread: Doubles
    familiarity: Doubles


def _linear(lesson: Lesson, note: Note) -> _Heads:
    if lesson.kind is AnswerKind.NUMBER:
        return _number(lesson, note)
    answers = [set(_tuple(example.answer)) for example in lesson.examples]
    labels = sorted(set().union(*answers))
    is_chosen = np.array([[label in answer for label in labels] for answer in answers])
    fit = _regression(lesson, labels, 2.0 * is_chosen - 1.0, note)
    slope, shift = probability_scale(fit.values, is_chosen)
    head = replace(
        fit.head,
        weights=fit.head.weights * np.float32(slope),
        offset=fit.head.offset * np.float32(slope) + np.float32(shift),
    )
    probabilities = 1 / (1 + np.exp(-(fit.values * slope + shift)))
    return _Heads(
        (TaughtHead(fit.description, fit.scaler, head),),
        np.maximum(probabilities, 1 - probabilities).prod(axis=1),
        ((probabilities >= 0.5) == is_chosen).all(axis=1),  # noqa: PLR2004
        fit.familiarity,
    )


def _number(lesson: Lesson, note: Note) -> _Heads:
    targets = np.array([_float(example.answer) for example in lesson.examples])
    fit = _regression(lesson, [], targets[:, None], note)
    # The variances are such that the errors are as large as they say.
    squares = np.square(fit.values[:, 0] - targets) / (fit.noise + fit.spread)
    prior = max(float(np.average(squares, weights=lesson.weights)), 1e-9)
    scale = _scale_of(targets, lesson.tolerance, fit.noise * prior, prior)
    pairs = zip(fit.values[:, 0], fit.spread, strict=True)
    answers = [number(scale, float(value), float(spread)) for value, spread in pairs]
    errors = np.array([float(one.text) for one in answers]) - targets
    return _Heads(
        (TaughtHead(fit.description, fit.scaler, fit.head),),
        np.array([one.confidence for one in answers]),
        np.abs(errors) <= scale.tolerance + 1e-9,
        fit.familiarity,
        scale,
    )


def default_tolerance(examples: Sequence[Example]) -> float:
    """Return a tenth of the range of the numbers, and one step at least; 0 without numbers."""
    numbers = np.array([one.answer for one in examples if isinstance(one.answer, float)])
    if not len(numbers):
        return 0.0
    return max(float(np.ptp(numbers)) / 10, 10.0 ** -decimals_of(numbers))


def decimals_of(numbers: Doubles) -> int:
    """Return how many decimals the numbers have at most."""
    for decimals in range(MAX_DECIMALS):
        if np.abs(numbers - numbers.round(decimals)).max() < 10.0**-MAX_DECIMALS / 2:
            return decimals
    return MAX_DECIMALS


def _scale_of(numbers: Doubles, tolerance: float, noise: float, prior: float) -> Scale:
    """Return the scale that the numbers of the examples are on."""
    low, high = float(numbers.min()), float(numbers.max())
    return Scale(low, high, decimals_of(numbers), tolerance, noise, prior)


def _fields_of(answer: Answer) -> dict[str, str | None]:
    return answer if isinstance(answer, dict) else {}


def _tuple(answer: Answer) -> tuple[str, ...]:
    return answer if isinstance(answer, tuple) else ()


def _float(answer: Answer) -> float:
    return answer if isinstance(answer, float) else 0.0


def _regression(lesson: Lesson, labels: Sequence[str], targets: Doubles, note: Note) -> _Fit:
    keys = [key_of(example.answer) for example in lesson.examples]
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    fold = folds([order[key] for key in keys], lesson.groups, NUM_FOLDS, SEED)
    best = np.inf
    for index, view in enumerate(VIEWS):
        scaler = Scaler.of(lesson.layout.view(lesson.features, view))
        scaled = scaler.apply(lesson.layout.view(lesson.features, view))
        for noise, *others in held_out(scaled, targets, lesson.weights, fold, _NOISES):
            squares = np.square(others[0] - targets).mean(axis=1)
            if (loss := float(np.average(squares, weights=lesson.weights))) < best:
                best, chosen = loss, (view, scaler, noise, others)
        note((index + 1) / (len(VIEWS) + 1))
    view, scaler, noise, (values, spread, familiarity) = chosen
    scaled = scaler.apply(lesson.layout.view(lesson.features, view))
    head = Regression(scaled, targets, lesson.weights).fit(noise)
    note(1.0)
    description = HeadDescription(None, tuple(labels), view, 1.0)
    return _Fit(description, scaler, head, noise, values, spread, familiarity)
