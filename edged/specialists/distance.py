"""How far a prompt is from all labels, in every direction of its features.

A head looks only along the directions in which its labels differ: of two labels that is a single
one, and along it everything is like one of them. This is the Mahalanobis distance to the nearest
label, with the scatter within the labels as its measure (Lee et al. 2018, arXiv 1807.03888).

Rule: numpy only; arrays in, arrays out.
"""

from dataclasses import dataclass

import numpy as np

from edged.specialists.head import Doubles, Floats, Head, Scatter

# Of the largest number, so that rounding leaves a matrix its Cholesky factor.
_JITTER = 1e-9


@dataclass(frozen=True, slots=True)
class Distance:
    """Distances of prompts to the labels of a head."""

    head: Head
    centre: Floats
    """``[features]``: of the labels."""
    known: Floats
    """``[features, r]``: what the examples' scatter takes off the distance along their own span."""
    weight: float
    """Of a square in every other direction."""

    @classmethod
    def of(cls, head: Head, basis: Doubles, scatter: Scatter, shrinkage: float) -> "Distance":
        """Return the distances for examples in the coordinates of a ``basis``; see ``reduced``.

        Args:
            head: Fitted to them.
            basis: ``[features, r]``, orthonormal.
            scatter: Of the examples, in its coordinates.
            shrinkage: See ``Strength``.
        """
        size = len(scatter.within)
        weight = 1 / (shrinkage * scatter.spread)
        shrunk = (1 - shrinkage) * scatter.within
        shrunk[np.diag_indices(size)] += 1 / weight
        # The inverse of a scatter is the weight times the identity, less what is known.
        taken = (weight * (1 + _JITTER)) * np.eye(size) - np.linalg.inv(shrunk)
        known = basis @ np.linalg.cholesky(taken)
        centre = basis @ scatter.means.mean(axis=0)
        return cls(head, centre.astype(np.float32), known.astype(np.float32), float(weight))

    def squares(self, scaled: Floats) -> Doubles:
        """Return ``[examples]``: the square of the distance to the nearest label."""
        around = scaled - self.centre
        total = self.weight * np.square(around, dtype=np.float64).sum(axis=1)
        total -= np.square(around @ self.known, dtype=np.float64).sum(axis=1)
        points, means = self.head.project(scaled).astype(np.float64), self.head.means
        # |p - m|² - |p|², for the nearest label; the distance to the centre has the rest.
        nearest = np.square(means, dtype=np.float64).sum(axis=1) - 2 * points @ means.T
        return np.asarray(total + nearest.min(axis=1))
