"""A head: from the features of a prompt to the probabilities of its labels.

It is probabilistic linear discriminant analysis (Ioffe 2006; Prince and Elder 2007). The features
are whitened by the scatter within the labels, and reduced to the directions in which the labels
differ. There each label has a normal distribution whose mean is known the better the more examples
it has; directions in which the labels hardly differ say little. So ten examples a label are enough
for thousands of features, and the probabilities need next to no calibration.

Rule: numpy only; arrays in, arrays out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

_SMALLEST_STD = 1e-6
_SMALLEST_VARIANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Strength:
    """How far the head trusts what the examples show; chosen by cross-validation."""

    shrinkage: float
    """Of the scatter within the labels towards a multiple of the identity, 0 to 1."""
    noise: float
    """Variance within a label along a whitened direction; above 1, as whitening fits the examples
    more closely than it fits other prompts."""


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
    means: Floats
    """``[C, K]``: the labels' means, shrunk by what is not known of them."""
    variances: Floats
    """``[C, K]``: of a prompt around the mean of its label."""
    temperature: float = 1.0

    def project(self, scaled: Floats) -> Floats:
        """Return the coordinates ``[examples, K]`` of scaled features."""
        return scaled @ self.projection - self.offset

    def log_likelihoods(self, scaled: Floats) -> Doubles:
        """Return ``[examples, C]``, of scaled features."""
        points = self.project(scaled).astype(np.float64)
        variances = self.variances.astype(np.float64)
        # The square is multiplied out: a product of matrices instead of an array for each label.
        weights = 1 / variances
        squares = points**2 @ weights.T - 2 * points @ (self.means * weights).T
        squares += (self.means**2 * weights).sum(axis=1)
        return np.asarray(-0.5 * (squares + np.log(variances).sum(axis=1)))

    def probabilities(self, scaled: Floats) -> Doubles:
        """Return ``[examples, C]``, each row of sum 1."""
        return softmax(self.log_likelihoods(scaled) / self.temperature)

    def familiarity(self, scaled: Floats) -> Doubles:
        """Return ``[examples]``: the cosine to the nearest label, low for what is none of them."""
        points = self.project(scaled)
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        directions = self.means / np.maximum(
            np.linalg.norm(self.means, axis=1, keepdims=True), _SMALLEST_VARIANCE
        )
        cosines = points @ directions.T / np.maximum(lengths, _SMALLEST_VARIANCE)
        return np.asarray(cosines.max(axis=1), np.float64)


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

    def head(self, noise: float, temperature: float = 1.0) -> Head:
        """Return the head for a noise; see ``Strength``."""
        counts = self._counts[:, None]
        between = np.maximum(self._between - noise / self._counts.mean(), _SMALLEST_VARIANCE)
        means = self._means * (between / (between + noise / counts))
        variances = noise + between * noise / (counts * between + noise)
        return Head(
            self._projection.astype(np.float32),
            (self._centre @ self._projection).astype(np.float32),
            means.astype(np.float32),
            variances.astype(np.float32),
            temperature,
        )


def fit(
    scaled: Floats, labels: Integers, weights: Doubles, num_labels: int, strength: Strength
) -> Head:
    """Fit a head to scaled features ``[examples, features]``."""
    basis, rows = reduced(scaled)
    scatter = Scatter.of(rows, labels, weights, num_labels, scaled.shape[1])
    head = Directions(scatter, strength.shrinkage).head(strength.noise)
    projection = (basis @ head.projection).astype(np.float32)
    return Head(projection, head.offset, head.means, head.variances)


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
