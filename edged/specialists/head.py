"""A head: from the features of a prompt to the probabilities of its labels.

It is linear discriminant analysis for few examples (Fisher 1936; shrinkage as in Ledoit and Wolf
2004). The features are whitened by the scatter within the labels, and reduced to the directions in
which the labels differ; directions in which they differ no more than chance would have it are left
out (Ioffe 2006). What counts there is the angle between a prompt and each label's mean, seen from
the centre of all: means of few examples are wrong in length most of all, and some labels would
draw prompts from their neighbours. So ten examples a label are enough for thousands of features.

Rule: numpy only; arrays in, arrays out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_SMALLEST_STD = 1e-6
_SMALLEST_VARIANCE = 1e-9
_SMALLEST_LENGTH = 1e-12


@dataclass(frozen=True, slots=True)
class Strength:
    """How far the head trusts what the examples show; chosen by cross-validation."""

    shrinkage: float
    """Of the scatter within the labels towards a multiple of the identity, 0 to 1."""
    noise: float
    """Variance within a label along a whitened direction; above 1, as whitening fits the examples
    more closely than it fits other prompts. It says how little labels may differ by chance."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """Mean and spread of each feature."""

    mean: Floats
    """``[features]``."""
    std: Floats
    """``[features]``, above 0."""

    @classmethod
    def of(cls, features: Floats) -> "Scaler":
        """Measure ``features``, ``[examples, features]``."""
        std = np.maximum(features.std(axis=0), _SMALLEST_STD)
        return cls(features.mean(axis=0), std.astype(np.float32))

    def apply(self, features: Floats) -> Floats:
        """Return the features with mean 0 and spread 1."""
        return (features - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class Head:
    """A fitted head for ``C`` labels in ``K`` directions."""

    projection: Floats
    """``[features, K]``, of scaled features."""
    offset: Floats
    """``[K]``, what the projection of the labels' centre is."""
    label_directions: Floats
    """``[C, K]`` of length 1: where each label lies, seen from the centre."""
    temperature: float = 1.0

    def project(self, scaled: Floats) -> Floats:
        """Return the coordinates ``[examples, K]`` of scaled features."""
        return scaled @ self.projection - self.offset

    def scores(self, scaled: Floats) -> Doubles:
        """Return ``[examples, C]``, high where a label fits."""
        points = self.project(scaled).astype(np.float64)
        lengths = np.maximum(np.linalg.norm(points, axis=1, keepdims=True), _SMALLEST_LENGTH)
        # A prompt far from the centre is a sure one, but not in proportion to its length.
        return np.asarray(points @ self.label_directions.T / np.sqrt(lengths))

    def probabilities(self, scaled: Floats) -> Doubles:
        """Return ``[examples, C]``, each row of sum 1."""
        return softmax(self.scores(scaled) / self.temperature)

    def familiarity(self, scaled: Floats) -> Doubles:
        """Return ``[examples]``, low for what is none of the labels.

        What is like no example lies between the labels, and most of it where they do not differ.
        """
        lengths = np.maximum(np.linalg.norm(scaled, axis=1), _SMALLEST_LENGTH)
        return np.asarray(self.scores(scaled).max(axis=1) / np.sqrt(lengths), np.float64)


def softmax(scores: Doubles) -> Doubles:
    """Return probabilities along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Scatter:
    """The labels' means, and the examples' scatter around them, of scaled features."""

    means: Doubles
    """``[C, features]``."""
    counts: Doubles
    """``[C]``: examples, by weight."""
    within: Doubles
    """``[features, features]``, pooled."""
    spread: float
    """Mean variance of a feature."""

    @classmethod
    def of(
        cls, rows: Doubles, labels: Integers, weights: Doubles, num_labels: int, num_features: int
    ) -> "Scatter":
        """Measure the coordinates of examples, of ``num_features``; each label has one at least."""
        counts = np.bincount(labels, weights, num_labels).astype(np.float64)
        sums = np.zeros((num_labels, rows.shape[1]))
        np.add.at(sums, labels, rows * weights[:, None])
        means = sums / counts[:, None]
        around = (rows - means[labels]) * np.sqrt(weights)[:, None]
        freedom = max(weights.sum() - num_labels, 1.0)
        within = around.T @ around / freedom
        return cls(means, counts, within, max(np.trace(within) / num_features, _SMALLEST_VARIANCE))


class Directions:
    """The directions in which the labels differ, for one shrinkage.

    Args:
        scatter: of the examples.
        shrinkage: see ``Strength``.
    """

    def __init__(self, scatter: Scatter, shrinkage: float) -> None:
        size = len(scatter.within)
        shrunk = (1 - shrinkage) * scatter.within
        shrunk[np.diag_indices(size)] += shrinkage * scatter.spread
        self._counts = scatter.counts
        self._centre = scatter.means.mean(axis=0)
        centred = scatter.means - self._centre
        solved = np.linalg.solve(shrunk, centred.T)
        squares, axes = np.linalg.eigh(centred @ solved)
        # One direction fewer than labels; those without any difference are left out.
        kept = squares > max(squares.max(), 1.0) * _SMALLEST_VARIANCE
        lengths = np.sqrt(squares[kept])
        self._projection = solved @ axes[:, kept] / lengths
        self._means = axes[:, kept] * lengths
        self._between = squares[kept] / max(len(scatter.means) - 1, 1)

    def head(self, noise: float) -> Head:
        """Return the head for a noise, without a temperature; see ``Strength``."""
        between = np.maximum(self._between - noise / self._counts.mean(), _SMALLEST_VARIANCE)
        means = self._means * (between / (between + noise / self._counts[:, None]))
        lengths = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), _SMALLEST_LENGTH)
        return Head(
            self._projection.astype(np.float32),
            (self._centre @ self._projection).astype(np.float32),
            (means / lengths).astype(np.float32),
        )


def fit(
    scaled: Floats, labels: Integers, weights: Doubles, num_labels: int, strength: Strength
) -> Head:
    """Fit a head to scaled features ``[examples, features]``."""
    basis, rows = reduced(scaled)
    scatter = Scatter.of(rows, labels, weights, num_labels, scaled.shape[1])
    head = Directions(scatter, strength.shrinkage).head(strength.noise)
    projection = (basis @ head.projection).astype(np.float32)
    return replace(head, projection=projection)


def reduced(scaled: Floats) -> tuple[Doubles, Doubles]:
    """Return an orthonormal basis ``[features, r]`` of the examples, and their coordinates.

    With fewer examples than features everything a head needs lies in what they span. (The shrunk
    scatter is isotropic outside of it, and the labels' means have no part there.)
    """
    rows = scaled.astype(np.float64)
    if len(rows) >= rows.shape[1]:
        return np.eye(rows.shape[1]), rows
    squares, axes = np.linalg.eigh(rows @ rows.T)
    kept = squares > squares.max() * _SMALLEST_VARIANCE
    lengths = np.sqrt(squares[kept])
    coordinates = axes[:, kept] * lengths
    return rows.T @ (axes[:, kept] / lengths), coordinates


def folds(labels: Sequence[int], groups: Sequence[str], count: int, seed: int) -> Integers:
    """Deal examples into folds: labels evenly, and a group never into two folds."""
    random = np.random.default_rng(seed)
    fold = np.zeros(len(labels), np.int64)
    members: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    names = list(members)
    random.shuffle(names)
    filled = np.zeros((max(labels) + 1, count))
    for name in names:
        # Into the fold that has the fewest of its labels so far.
        present = [labels[index] for index in members[name]]
        load = filled[present].sum(axis=0) + 1e-3 * filled.sum(axis=0)
        place = int(load.argmin())
        for index in members[name]:
            fold[index] = place
            filled[labels[index], place] += 1
    return fold
