"""Round a weight so that its errors cancel on real activations (GPTQ, arXiv 2210.17323).

Each input's rounding error is compensated in the inputs that are not rounded yet, by the
correlation of their activations.
"""

import numpy as np
from numpy.typing import NDArray

_WEIGHT_STEPS = 127
# The largest sum of two adjacent weights of one sign: 255 times it fits 16 bits.
_PAIR_STEPS = 128
_DAMPING = 0.01
_BLOCK = 32

Floats = NDArray[np.float32]


def column_scales(weight: Floats) -> Floats:
    """Return the scale of each of the N columns of a finite [K, N] weight; 0 for a column of zeros.

    With it inputs 2i and 2i + 1 of one sign add up to at most 128 steps.
    """
    largest: Floats = np.abs(weight).max(axis=0)
    even, odd = weight[0::2], weight[1::2]
    for sign in (1, -1):
        first = np.maximum(sign * even[: len(odd)], 0)
        second = np.maximum(sign * odd, 0)
        largest = np.maximum(largest, (first + second).max(axis=0, initial=0.0))
    scales: Floats = (largest / np.float32(_WEIGHT_STEPS)).astype(np.float32)
    # The engine flushes denormals to zero, so a denormal scale would be 0.
    scales[scales < np.finfo(np.float32).tiny] = 0.0
    return scales


def gptq_round(
    weight: Floats, scales: Floats, moments: NDArray[np.floating] | None
) -> NDArray[np.int8]:
    """Round a [K, N] weight to multiples of its columns' scales, in [-127, 127].

    Inputs 2i and 2i + 1 of one sign add up to at most 128 steps.

    Args:
        weight: finite.
        scales: [N], from ``column_scales``.
        moments: [K, K] of the activations, rotated as the weight is; None rounds to nearest.
    """
    divisors = np.where(scales == 0.0, np.float32(np.inf), scales)
    targets = np.array(weight / divisors, np.float32)
    steps = np.empty(weight.shape, np.int8)
    if moments is None:
        steps[0::2] = np.rint(targets[0::2])
        steps[1::2] = np.clip(np.rint(targets[1::2]), *_bounds(steps[0::2][: len(targets) // 2]))
        return steps
    factor = _compensation(moments)
    for start in range(0, len(targets), _BLOCK):
        stop = min(start + _BLOCK, len(targets))
        errors = np.empty((stop - start, targets.shape[1]), np.float32)
        for k in range(start, stop):
            rounded = np.rint(targets[k])
            low, high = _bounds(steps[k - 1]) if k % 2 else _FULL
            np.clip(rounded, low, high, out=rounded)
            steps[k] = rounded
            errors[k - start] = (targets[k] - rounded) / factor[k, k]
            targets[k + 1 : stop] -= factor[k, k + 1 : stop, None] * errors[k - start]
        targets[stop:] -= factor[start:stop, stop:].T @ errors
    return steps


_FULL = np.float32(-_WEIGHT_STEPS), np.float32(_WEIGHT_STEPS)


def _bounds(before: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """Return the least and the largest steps allowed in a pair with ``before``."""
    steps = before.astype(np.float32)
    high = np.minimum(_WEIGHT_STEPS, _PAIR_STEPS - np.maximum(steps, 0))
    low = np.maximum(-_WEIGHT_STEPS, -_PAIR_STEPS - np.minimum(steps, 0))
    return low.astype(np.float32), high.astype(np.float32)


def _compensation(moments: NDArray[np.floating]) -> Floats:
    """Return the upper Cholesky factor of the inverse of the damped moments."""
    damped = moments.astype(np.float64)
    diagonal = np.einsum("kk->k", damped)
    diagonal += _DAMPING * diagonal.mean() + np.finfo(np.float32).tiny
    # With H = L L' for the flipped matrix, the inverse of L is the factor, flipped.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    return np.ascontiguousarray(_lower_inverse(lower)[::-1, ::-1], np.float32)


def _lower_inverse(lower: NDArray[np.floating]) -> NDArray[np.floating]:
    """Invert a lower triangular matrix by halves; a general inverse takes four times as long."""
    half = len(lower) // 2
    if half < _BLOCK:
        return np.tril(np.linalg.inv(lower))
    inverse = np.zeros_like(lower)
    first = inverse[:half, :half] = _lower_inverse(lower[:half, :half])
    second = inverse[half:, half:] = _lower_inverse(lower[half:, half:])
    inverse[half:, :half] = -second @ (lower[half:, :half] @ first)
    return inverse
