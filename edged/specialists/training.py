"""Fit a head to examples: what it reads, how far it trusts them, and what its answers are worth.

Everything is chosen by cross-validation inside the examples, by the likelihood of the held-out
labels: it is less noisy than their accuracy, and what it rewards is a probability that holds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from edged.specialists.features import VIEWS, Layout, View
from edged.specialists.head import (
    Directions,
    Doubles,
    Floats,
    Head,
    Integers,
    Scaler,
    Scatter,
    Strength,
    fit,
    folds,
    reduced,
    softmax,
)

NUM_FOLDS = 10
_SHRINKAGES = (0.3, 0.5, 0.7, 0.85)
_NOISES = (2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0)
# What the text of a label counts beside an example of it: it says in a few words what is meant.
_NAME_WEIGHT = 2.0
# Held-out examples that may count as unfamiliar. Of other prompts a few more will, since they are
# less like the examples than these are like each other: one in twenty.
_UNFAMILIAR_SHARE = 0.04
# As if so much of one example were any of the labels: else answers that are all right would be
# certain. With a whole example the probabilities of small sets are too low by 3 points.
_ANY_LABEL = 0.2
_NEWTON_STEPS = 30
_CLOSE = 1e-3
# Where nothing can be learnt the likeliest is the flattest: differences of a hundredth are enough.
_FLATTEST = 0.01
_SMALLEST_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples with their features."""

    features: Floats
    """``[examples, features]``, as ``Layout`` lays them out."""
    labels: Integers
    """``[examples]``, indices of labels; each label has two examples at least."""
    weights: Doubles
    groups: Sequence[str]
    """No group is split between folds."""
    names: Floats | None = None
    """``[labels, features]``: of the labels' own texts; None where they say nothing."""

    @property
    def num_labels(self) -> int:
        """Number of labels."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True, slots=True)
class Taught:
    """A head, and what cross-validation says of it."""

    view: View
    strength: Strength
    scaler: Scaler
    head: Head
    held_out: Doubles
    """``[examples, labels]``: each example's probabilities from the examples of other folds."""
    familiarity: Doubles
    """``[examples]``, likewise."""


class _Fold:
    """The examples of one view without those of one fold, and those of the fold."""

    def __init__(self, examples: Examples, rows: Doubles, size: int, held_out: Integers) -> None:
        is_held_out = np.zeros(len(examples.labels), bool)
        is_held_out[held_out] = True
        self.held_out = held_out
        kept = ~is_held_out
        num_examples = len(examples.labels)
        names = rows[num_examples:]
        labels = np.concatenate([examples.labels[kept], np.arange(len(names))])
        weights = np.concatenate([examples.weights[kept], np.full(len(names), _NAME_WEIGHT)])
        taught = np.concatenate([rows[:num_examples][kept], names])
        self.rows = rows[:num_examples][held_out].astype(np.float32)
        self.scatter = Scatter.of(taught, labels, weights, examples.num_labels, size)


def teach(examples: Examples, layout: Layout, note: Callable[[float], None], seed: int) -> Taught:
    """Choose and fit a head; blocks for seconds.

    Args:
        examples: At least two of each label.
        layout: Of their features.
        note: Reports the share that is done, 0 to 1.
        seed: Of the folds.
    """
    fold = folds(examples.labels.tolist(), examples.groups, NUM_FOLDS, seed)
    chosen: _Candidate | None = None
    for index, view in enumerate(VIEWS):
        found = min(_candidates(examples, layout, view, fold), key=lambda one: one.loss)
        if chosen is None or found.is_clearly_better(chosen):
            chosen = found
        note((index + 1) / (len(VIEWS) + 1))
    assert chosen is not None  # noqa: S101 - there are views
    view, strength, temperature = chosen.view, chosen.strength, chosen.temperature
    stacked = _stacked(examples, layout, view)
    scaler = Scaler.of(stacked)
    labels, weights = examples.labels, examples.weights
    if examples.names is not None:
        count = len(examples.names)
        labels = np.concatenate([labels, np.arange(count)])
        weights = np.concatenate([weights, np.full(count, _NAME_WEIGHT)])
    head = fit(scaler.apply(stacked), labels, weights, examples.num_labels, strength)
    head = replace(head, temperature=temperature)
    note(1.0)
    probabilities = softmax(chosen.scores / temperature)
    return Taught(view, strength, scaler, head, probabilities, chosen.familiarity)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """What could be chosen, and what it says of each example from those of other folds."""

    view: View
    strength: Strength
    temperature: float
    scores: Doubles
    familiarity: Doubles
    losses: Doubles
    """``[examples]``: negative log-likelihood of the right label, by weight."""

    @property
    def loss(self) -> float:
        """Of all examples."""
        return float(self.losses.mean())

    def is_clearly_better(self, other: "_Candidate") -> bool:
        """Return whether it is better by more than chance would have it: two standard errors."""
        gains = other.losses - self.losses
        return float(gains.mean()) > 2 * float(gains.std()) / math.sqrt(len(gains))


def _candidates(
    examples: Examples, layout: Layout, view: View, fold: Integers
) -> Iterator[_Candidate]:
    rows, size = _coordinates(examples, layout, view)
    parts = [_Fold(examples, rows, size, np.flatnonzero(fold == k)) for k in np.unique(fold)]
    for shrinkage in _SHRINKAGES:
        directions = [Directions(part.scatter, shrinkage) for part in parts]
        for noise in _NOISES:
            scores = np.zeros((len(examples.labels), examples.num_labels))
            familiarity = np.zeros(len(examples.labels))
            for part, found in zip(parts, directions, strict=True):
                head = found.head(noise)
                scores[part.held_out] = head.scores(part.rows)
                familiarity[part.held_out] = head.familiarity(part.rows)
            temperature = fitting_temperature(scores, examples.labels, examples.weights)
            losses = _losses(scores / temperature, examples)
            strength = Strength(shrinkage, noise)
            yield _Candidate(view, strength, temperature, scores, familiarity, losses)


def _losses(scores: Doubles, examples: Examples) -> Doubles:
    chosen = softmax(scores)[np.arange(len(scores)), examples.labels]
    weights = examples.weights / examples.weights.mean()
    return np.asarray(-np.log(np.maximum(chosen, 1e-12)) * weights)


def fitting_temperature(scores: Doubles, labels: Integers, weights: Doubles) -> float:
    """Return the temperature at which the right labels are the likeliest.

    Args:
        scores: ``[examples, labels]``.
        labels: The right ones, ``[examples]``.
        weights: ``[examples]``.
    """
    total = weights.sum() + _ANY_LABEL
    targets = np.full(scores.shape, _ANY_LABEL / total / scores.shape[1])
    targets[np.arange(len(labels)), labels] += weights.sum() / total
    centred = scores - (targets * scores).sum(axis=1, keepdims=True)
    sharpness = 1 / max(float(np.ptp(scores, axis=1).mean()), _SMALLEST_SPREAD)
    flattest = _FLATTEST * sharpness
    for _ in range(_NEWTON_STEPS):
        probabilities = softmax(centred * sharpness)
        means = (probabilities * centred).sum(axis=1)
        variances = (probabilities * centred**2).sum(axis=1) - means**2
        step = (weights * means).sum() / max((weights * variances).sum(), _SMALLEST_SPREAD)
        # A step that is too large ends where all probabilities are 0 or 1, and there it stays.
        following = float(np.clip(sharpness - step, sharpness / 2, sharpness * 2))
        if abs(following - sharpness) < _CLOSE * sharpness:
            break
        sharpness = following
    return 1 / max(sharpness, flattest)


def _stacked(examples: Examples, layout: Layout, view: View) -> Floats:
    parts = [examples.features] if examples.names is None else [examples.features, examples.names]
    return np.concatenate([layout.view(part, view) for part in parts])


def _coordinates(examples: Examples, layout: Layout, view: View) -> tuple[Doubles, int]:
    stacked = _stacked(examples, layout, view)
    _, rows = reduced(Scaler.of(stacked).apply(stacked))
    return rows, stacked.shape[1]


def unfamiliar_below(familiarity: Doubles) -> float:
    """Return the familiarity below which a prompt is like no example, of held-out ones."""
    return float(np.quantile(familiarity, _UNFAMILIAR_SHARE))


def unsure_below(confidence: Doubles, is_right: NDArray[np.bool_], precision: float) -> float:
    """Return the lowest confidence at which held-out answers are right often enough; 1 if none."""
    order = np.argsort(-confidence, kind="stable")
    share_right = np.cumsum(is_right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(share_right >= precision)
    return float(confidence[order[enough[-1]]]) if len(enough) else 1.0


def probability_scale(values: Doubles, is_chosen: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the slope and the shift that make held-out values log-odds (Platt 1999).

    One pair serves all labels: of some there are too few examples for one of their own.
    """
    inputs, targets = values.ravel(), is_chosen.ravel().astype(np.float64)
    # Targets a little inside of 0 and 1, as Platt has them: else perfect answers have no slope.
    targets = np.where(
        targets > 0, (targets.sum() + 1) / (targets.sum() + 2), 1 / ((1 - targets).sum() + 2)
    )
    columns = np.stack([inputs, np.ones_like(inputs)])
    found = np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        odds = (found @ columns).clip(-30.0, 30.0)
        probabilities = 1 / (1 + np.exp(-odds))
        curvature = (columns * (probabilities * (1 - probabilities))) @ columns.T
        curvature += np.eye(2) * 1e-6
        found += np.linalg.solve(curvature, columns @ (targets - probabilities))
    return float(found[0]), float(found[1])
