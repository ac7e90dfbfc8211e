"""How far prompts are from labels, in every direction of their features.

A head looks only along the directions in which its labels differ: of two labels that is a single
one, and along it everything is like one of them. This is the Mahalanobis distance, with the scatter
within the labels as its measure (Lee et al. 2018, arXiv 1807.03888).

Rule: numpy only; arrays in, arrays out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.specialists.head import Doubles, Floats, Integers, Scatter, reduced

# Of the largest number, so that rounding leaves a matrix its Cholesky factor.
_JITTER = 1e-9
_SMALLEST_SQUARE = 1e-9


@dataclass(frozen=True, slots=True)
class Nearness:
    """Where prompts lie between labels."""

    squares: Doubles
    """``[examples, labels]``: of the distances."""
    cosine: Doubles
    """``[examples]``: of the angle to the nearest label, seen from the centre of all."""


@dataclass(frozen=True, slots=True)
class Distances:
    """Distances of prompts to the means of labels."""

    centre: Floats
    """``[features]``: of the labels."""
    known: Floats
    """``[features, r]``: what the examples' scatter takes off the distance along their own span."""
    weight: float
    """Of a square in every other direction."""
    slopes: Floats
    """``[features, labels]``: the means around the centre, measured by the scatter."""
    lengths: Doubles
    """``[labels]``: the squares of their distances to the centre."""

    @classmethod
    def of(cls, scaled: Floats, labels: Integers, num_labels: int, shrinkage: float) -> "Distances":
        """Measure scaled features ``[examples, features]``; each label has one example at least.

        Args:
            scaled: Of the examples.
            labels: Theirs.
            num_labels: How many there are.
            shrinkage: Of the scatter towards a multiple of the identity, above 0, at most 1.
        """
        basis, rows = reduced(scaled)
        scatter = Scatter.of(rows, labels, np.ones(len(rows)), num_labels, scaled.shape[1])
        size, weight = len(scatter.within), 1 / (shrinkage * scatter.spread)
        shrunk = (1 - shrinkage) * scatter.within
        shrunk[np.diag_indices(size)] += 1 / weight
        inverse = np.linalg.inv(shrunk)
        # The inverse of the scatter is the weight times the identity, less what is known.
        known = np.linalg.cholesky(weight * (1 + _JITTER) * np.eye(size) - inverse)
        centre = scatter.means.mean(axis=0)
        around = scatter.means - centre
        slopes = around @ inverse
        return cls(
            (basis @ centre).astype(np.float32),
            (basis @ known).astype(np.float32),
            float(weight),
            (basis @ slopes.T).astype(np.float32),
            (slopes * around).sum(axis=1),
        )

    @property
    def arrays(self) -> tuple[NDArray[np.floating], ...]:
        """What it holds."""
        return self.centre, self.known, self.slopes, self.lengths

    def nearness(self, scaled: Floats) -> Nearness:
        """Return where prompts with these scaled features lie."""
        around = scaled - self.centre
        total = self.weight * np.square(around, dtype=np.float64).sum(axis=1)
        total -= np.square(around @ self.known, dtype=np.float64).sum(axis=1)
        along = (around @ self.slopes).astype(np.float64)
        sizes = np.sqrt(np.maximum(total[:, None] * self.lengths, _SMALLEST_SQUARE))
        return Nearness(total[:, None] - 2 * along + self.lengths, (along / sizes).max(axis=1))
