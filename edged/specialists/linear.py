"""Bayesian linear regression: several labels at once, or a number on a scale, from features.

The weights have a normal prior (Bishop 2006, section 3.3), so a prediction has a variance: small
along the directions in which there are examples, large across them. The share of a prompt that
lies along them is its familiarity, too. All targets share one decomposition of the examples.

Rule: numpy only; arrays in, arrays out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edged.specialists.head import Doubles, Floats, Integers

# Strongest directions that are kept for the variance: 64 of 4,000 features are half a megabyte.
_MOST_DIRECTIONS = 64
_SMALLEST_SQUARE = 1e-9


@dataclass(frozen=True, slots=True)
class Linear:
    """A fitted regression of ``T`` targets."""

    weights: Floats
    """``[features, T]``, of scaled features."""
    offset: Floats
    """``[T]``."""
    known: Floats
    """``[features, K]``: directions of the examples, the shorter the less is known along them."""

    def values(self, scaled: Floats) -> Doubles:
        """Return the targets ``[examples, T]`` of scaled features."""
        return np.asarray(scaled @ self.weights + self.offset, np.float64)

    def familiarity(self, scaled: Floats) -> Doubles:
        """Return ``[examples]``, 0 to 1: the share of the features along known directions."""
        along = np.square(scaled @ self.known, dtype=np.float64).sum(axis=1)
        squares = np.square(scaled, dtype=np.float64).sum(axis=1)
        share = along / np.maximum(squares, _SMALLEST_SQUARE)
        return np.asarray(share.clip(0.0, 1.0))

    def spread(self, scaled: Floats) -> Doubles:
        """Return ``[examples]``: the variance of the weights' part, for a prior of variance 1."""
        squares = np.square(scaled, dtype=np.float64).mean(axis=1)
        return np.asarray(squares * (1 - self.familiarity(scaled)))


class Regression:
    """Examples, decomposed once for every strength of the prior.

    Args:
        scaled: Their features, ``[examples, features]``.
        targets: ``[examples, T]``.
        weights: ``[examples]``.
    """

    def __init__(self, scaled: Floats, targets: Doubles, weights: Doubles) -> None:
        roots = np.sqrt(weights / weights.mean())[:, None]
        rows = scaled.astype(np.float64) * roots
        self._centre = (targets * weights[:, None]).sum(axis=0) / weights.sum()
        centred = (targets - self._centre) * roots
        # Divided by the number of features, each prompt has a square of about 1. What is smaller
        # is decomposed: the examples' products with each other, or those of the features.
        self._size = rows.shape[1]
        is_wide = len(rows) < self._size
        squares, axes = np.linalg.eigh((rows @ rows.T if is_wide else rows.T @ rows) / self._size)
        kept = squares > max(squares.max(), _SMALLEST_SQUARE) * _SMALLEST_SQUARE
        self._squares, axes = squares[kept][::-1], axes[:, kept][:, ::-1]
        # Orthonormal, [features, r], the strongest first.
        lengths = np.sqrt(self._squares * self._size)
        self._directions = rows.T @ (axes / lengths) if is_wide else axes
        self._targets = self._directions.T @ (rows.T @ centred)

    def fit(self, noise: float) -> Linear:
        """Return the regression for a noise, in units of the prior's variance."""
        shrunk = 1 / (self._size * (self._squares + noise))
        weights = self._directions @ (self._targets * shrunk[:, None])
        lengths = np.sqrt(self._squares / (self._squares + noise))[:_MOST_DIRECTIONS]
        known = self._directions[:, :_MOST_DIRECTIONS] * lengths
        floats = (one.astype(np.float32) for one in (weights, self._centre, known))
        return Linear(*floats)


def held_out(
    scaled: Floats, targets: Doubles, weights: Doubles, fold: Integers, noises: tuple[float, ...]
) -> Iterator[tuple[float, Doubles, Doubles, Doubles]]:
    """Yield for each noise what the examples of other folds say of each example.

    Yields:
        The noise, values ``[examples, T]``, spreads ``[examples]``, familiarities ``[examples]``.
    """
    parts = []
    for index in np.unique(fold):
        kept = fold != index
        parts.append((~kept, Regression(scaled[kept], targets[kept], weights[kept])))
    for noise in noises:
        values, spread = np.zeros_like(targets), np.zeros(len(targets))
        familiarity = np.zeros(len(targets))
        for inside, regression in parts:
            head = regression.fit(noise)
            values[inside] = head.values(scaled[inside])
            spread[inside] = head.spread(scaled[inside])
            familiarity[inside] = head.familiarity(scaled[inside])
        yield noise, values, spread, familiarity
