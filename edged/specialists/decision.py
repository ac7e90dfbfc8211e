"""From the features of a prompt to an answer: what it is, how probable, or "unsure"."""

import json
import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edged.specialists.examples import AnswerKind
from edged.specialists.folder import Scale, Specialist, TaughtHead
from edged.specialists.head import Doubles, Floats, Head
from edged.specialists.linear import Linear

# Of a number a device wants an interval that is mostly right: 90 % are within these deviations.
_Z_90 = 1.644854
_SMALLEST_SIDE = 1e-6
_NUM_GUESSES = 3
_DECIMALS = 4

# A list of labels, a number, or each field's label; None for a single label.
JsonAnswer: TypeAlias = list[str] | int | float | dict[str, str | None] | None
# In the order of the labels, of fields by field; None for a number.
Probabilities: TypeAlias = list[float] | dict[str, list[float]] | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a specialist says of one prompt."""

    text: str
    """The label, empty for none of these; JSON for several labels and fields; the number."""
    choice: int | None
    """Index of a single label."""
    json: JsonAnswer
    probabilities: Probabilities
    confidence: float
    """Probability that the whole answer is right."""
    familiarity: float
    """How near the prompt is to the examples, in a measure of this specialist's own."""
    is_unsure: bool
    """Whether the answer is below a threshold."""
    guesses: tuple[tuple[str, float], ...] = ()
    """The most probable single labels."""
    interval: tuple[float, float] | None = None
    """In which nine of ten right numbers are."""


def decide(specialist: Specialist, features: NDArray[np.float32]) -> Decision:
    """Return the decision on a prompt with these ``features``; takes about a millisecond."""
    scaled = [_scaled(specialist, head, features) for head in specialist.heads]
    read = list(zip(specialist.heads, scaled, strict=True))
    familiarity = float(np.mean([head.head.familiarity(rows)[0] for head, rows in read]))
    said = specialist.description
    if said.kind is AnswerKind.FIELDS:
        answer = _fields(read)
    elif isinstance(specialist.heads[0].head, Head):
        answer = _label(specialist.heads[0], specialist.heads[0].head, scaled[0])
    else:
        answer = _linear(specialist, specialist.heads[0].head, scaled[0])
    # What is like no example is none of the labels, too.
    is_familiar = familiarity >= said.unfamiliar_below or answer.text == ""
    is_sure = answer.confidence >= said.unsure_below and is_familiar
    return Decision(
        *(answer.text, answer.choice, answer.json, answer.probabilities, answer.confidence),
        *(familiarity, not is_sure, answer.guesses, answer.interval),
    )


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer, before it is compared with the thresholds; see ``Decision``."""

    text: str
    json: JsonAnswer
    probabilities: Probabilities
    confidence: float
    choice: int | None = None
    guesses: tuple[tuple[str, float], ...] = ()
    interval: tuple[float, float] | None = None


def _scaled(specialist: Specialist, taught: TaughtHead, features: Floats) -> Floats:
    view = tuple((block[0], block[1]) for block in taught.description.view)
    return taught.scaler.apply(specialist.layout.view(features[None], view))


def _label(taught: TaughtHead, head: Head, scaled: Floats) -> Scored:
    probabilities = head.probabilities(scaled)[0]
    labels = [label or "" for label in taught.description.labels]
    best = [int(index) for index in np.argsort(-probabilities, kind="stable")[:_NUM_GUESSES]]
    guesses = tuple((labels[index], round(float(probabilities[index]), 4)) for index in best)
    confidence = float(probabilities[best[0]])
    return Scored(labels[best[0]], None, _rounded(probabilities), confidence, best[0], guesses)


def _fields(read: list[tuple[TaughtHead, Floats]]) -> Scored:
    answer: dict[str, str | None] = {}
    all_probabilities: dict[str, list[float]] = {}
    confidence = 1.0
    for taught, scaled in read:
        assert isinstance(taught.head, Head)  # noqa: S101 - as the kind says; checked when it was read
        probabilities = taught.head.probabilities(scaled)[0]
        name = str(taught.description.field)
        answer[name] = taught.description.labels[int(probabilities.argmax())]
        all_probabilities[name] = _rounded(probabilities)
        confidence *= float(probabilities.max())
    return Scored(_text(answer), answer, all_probabilities, confidence)


def _linear(specialist: Specialist, head: Linear, scaled: Floats) -> Scored:
    scale = specialist.description.scale
    if scale is not None:
        return number(scale, float(head.values(scaled)[0, 0]), float(head.spread(scaled)[0]))
    probabilities = 1 / (1 + np.exp(-head.values(scaled)[0].clip(-50.0, 50.0)))
    labels = specialist.heads[0].description.labels
    pairs = zip(labels, probabilities, strict=True)
    chosen = [label for label, probability in pairs if label and probability >= 0.5]  # noqa: PLR2004
    confidence = float(np.maximum(probabilities, 1 - probabilities).prod())
    return Scored(_text(chosen), chosen, _rounded(probabilities), confidence)


def number(scale: Scale, mean: float, spread: float) -> Scored:
    """Return the answer for a predicted number, and its spread for a prior of variance 1."""
    deviation = math.sqrt(scale.noise + scale.prior * spread)
    value = round(min(max(mean, scale.low), scale.high), scale.decimals)
    # Numbers of the scale are steps apart: what is nearer to one within the tolerance counts.
    step = 10.0**-scale.decimals
    reach = math.floor(scale.tolerance / step + 1e-6) * step + step / 2
    confidence = _below(value + reach - mean, deviation) - _below(value - reach - mean, deviation)
    sides = (mean - _Z_90 * deviation, mean + _Z_90 * deviation)
    low, high = (round(min(max(side, scale.low), scale.high), scale.decimals) for side in sides)
    answer = value if scale.decimals else int(value)
    return Scored(_text(answer), answer, None, confidence, interval=(low, high))


def deviation_of(decision: Decision) -> float:
    """Return the standard deviation of a number, by the side of its interval that is not cut."""
    value, (low, high) = float(decision.text), decision.interval or (0.0, 0.0)
    return max(high - value, value - low, _SMALLEST_SIDE) / _Z_90


def _below(difference: float, deviation: float) -> float:
    """Return the share of a normal distribution below a difference from its mean."""
    return 0.5 * (1 + math.erf(difference / (deviation * math.sqrt(2))))


def _rounded(probabilities: Doubles) -> list[float]:
    return [round(float(one), _DECIMALS) for one in probabilities]


def _text(answer: JsonAnswer) -> str:
    return json.dumps(answer, ensure_ascii=False)
