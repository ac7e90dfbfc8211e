"""Spread an activation's outliers over the features beside them: a turn made at run time.

A Hadamard matrix over blocks of features (QuaRot's online rotation, arXiv 2404.00456, in blocks) is
its own inverse, so the product computes the same when its weight is turned too; what the engine
multiplies by it is [K / block] rows of ``block`` features, a hundredth of the product's work.

Rule: only for what no offline rotation reaches; ``tune`` says what that is.
"""

import numpy as np
from numpy.typing import NDArray

BLOCK_MAX = 64
"""Larger blocks hold little better: relative noise of 4.9 against 4.3 at 128, and 33 without."""

Floats = NDArray[np.float32]


def block_size(width: int) -> int:
    """Return the largest power of two up to ``BLOCK_MAX`` that divides a width; 1 spreads nothing.

    Args:
        width: the activation's features, at least 1.
    """
    return min(width & -width, BLOCK_MAX)


def hadamard(size: int) -> Floats:
    """Return the orthogonal, symmetric [size, size] matrix of a power of two (Sylvester's)."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return np.asarray(matrix / np.sqrt(size), np.float32)


def spread_rows(rows: Floats, block: int) -> Floats:
    """Return [N, K] rows with each ``block`` of their features turned."""
    turned = rows.reshape(len(rows), -1, block) @ hadamard(block)
    return np.asarray(turned.reshape(rows.shape), np.float32)


def spread_moments(moments: NDArray[np.floating], block: int) -> NDArray[np.float64]:
    """Return the [K, K] moments of an activation that is spread; exact enough to be inverted."""
    size, turn = len(moments), hadamard(block).astype(np.float64)
    once = moments.astype(np.float64).reshape(-1, block) @ turn
    twice = np.ascontiguousarray(once.reshape(size, size).T).reshape(-1, block) @ turn
    return twice.reshape(size, size)
