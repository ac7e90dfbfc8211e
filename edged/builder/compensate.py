"""Round a weight so that the errors cancel on real activations (GPTQ, arXiv 2210.17323).

Each input's rounding error is made good by the inputs not yet rounded, as far as activations move
together. At 8 bits it is cheap: no search, one pass over the inputs. At 4 bits each block's scale
is searched too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_WEIGHT_STEPS = 127
_PAIR_STEPS = 128
"""What two weights beside each other may add up to with one sign: 255 times it fits 16 bits."""
_DAMPING = 0.01
_BLOCK = 32

Floats = NDArray[np.float32]


def output_scales(weight: Floats) -> Floats:
    """Return the scale of each of the N columns of a finite [K, N] weight; 0 for a column of zeros.

    It leaves room for inputs 2i and 2i + 1 to add up to at most 128 steps of one sign.
    """
    largest: Floats = np.abs(weight).max(axis=0)
    even, odd = weight[0::2], weight[1::2]
    for sign in (1, -1):
        first = np.maximum(sign * even[: len(odd)], 0)
        second = np.maximum(sign * odd, 0)
        largest = np.maximum(largest, (first + second).max(axis=0, initial=0.0))
    scales: Floats = (largest / np.float32(_WEIGHT_STEPS)).astype(np.float32)
    # The engine flushes denormals to zero, so a denormal scale is one that is not there.
    scales[scales < np.finfo(np.float32).tiny] = 0.0
    return scales


def round_compensated(
    weight: Floats, scales: Floats, moments: NDArray[np.floating] | None
) -> NDArray[np.int8]:
    """Round a [K, N] weight to steps of its columns' scales.

    Inputs 2i and 2i + 1 stay within 128 steps of one sign.

    Args:
        weight: finite.
        scales: [N], as ``output_scales`` gives them.
        moments: [K, K] of the activations, in the weight's own basis; None rounds to nearest.
    """
    divisors = np.where(scales == 0.0, np.float32(np.inf), scales)
    exact = np.array(weight / divisors, np.float32)
    steps = np.empty(weight.shape, np.int8)
    if moments is None:
        steps[0::2] = np.rint(exact[0::2])
        steps[1::2] = np.clip(np.rint(exact[1::2]), *_bounds(steps[0::2][: len(exact) // 2]))
        return steps
    spread = _compensation(moments)
    for start in range(0, len(exact), _BLOCK):
        stop = min(start + _BLOCK, len(exact))
        errors = np.empty((stop - start, exact.shape[1]), np.float32)
        for k in range(start, stop):
            rounded = np.rint(exact[k])
            low, high = _bounds(steps[k - 1]) if k % 2 else _FULL
            np.clip(rounded, low, high, out=rounded)
            steps[k] = rounded
            errors[k - start] = (exact[k] - rounded) / spread[k, k]
            exact[k + 1 : stop] -= spread[k, k + 1 : stop, None] * errors[k - start]
        exact[stop:] -= spread[start:stop, stop:].T @ errors
    return steps


@dataclass(frozen=True, slots=True)
class BlockSteps:
    """A matrix of K inputs and N outputs in 4 bits."""

    steps: NDArray[np.int8]
    """[K, N], in [-8, 7]"""
    scales: Floats
    """[K / 32, N]; some are negative"""


def round_blocks(weight: Floats, moments: NDArray[np.floating] | None) -> BlockSteps:
    """Round a [K, N] weight of whole blocks of 32 inputs to 4 bits, a scale for each block.

    Args:
        weight: finite.
        moments: [K, K] of the activations; None rounds to nearest.
    """
    exact = np.array(weight, np.float32)
    steps = np.empty(weight.shape, np.int8)
    scales = np.empty((len(weight) // _BLOCK, weight.shape[1]), np.float32)
    spread = None if moments is None else _compensation(moments)
    for index, start in enumerate(range(0, len(exact), _BLOCK)):
        stop = start + _BLOCK
        scales[index] = _search_scale(exact[start:stop])
        errors = np.empty((_BLOCK, exact.shape[1]), np.float32)
        for k in range(start, stop):
            steps[k] = _four_bits(exact[k], scales[index])
            if spread is not None:
                errors[k - start] = (exact[k] - steps[k] * scales[index]) / spread[k, k]
                exact[k + 1 : stop] -= spread[k, k + 1 : stop, None] * errors[k - start]
        if spread is not None:
            exact[stop:] -= spread[start:stop, stop:].T @ errors
    return BlockSteps(steps, scales)


def _search_scale(block: Floats) -> Floats:
    """Return the scale of each column of a block that rounds it best; 0 for a column of zeros."""
    rows = np.abs(block).argmax(axis=0)
    # The largest value has the sign of which there is one step more.
    widest = np.take_along_axis(block, rows[None], axis=0)[0] / np.float32(-8)
    best, least = widest, np.full(len(widest), np.inf, np.float32)
    for factor in _FACTORS:
        scale = widest * factor
        loss = np.square(block - _four_bits(block, scale) * scale).sum(axis=0)
        best = np.where(loss < least, scale, best)
        least = np.minimum(loss, least)
    # The engine flushes denormals to zero, so a denormal scale is one that is not there.
    return np.where(np.abs(best) < np.finfo(np.float32).tiny, np.float32(0), best)


def _four_bits(values: Floats, scale: Floats) -> Floats:
    steps = values / np.where(scale == 0.0, np.float32(np.inf), scale)
    return np.clip(np.rint(steps), -8, 7)


_FACTORS = np.linspace(1.1, 0.75, 8, dtype=np.float32)
_FULL = np.float32(-_WEIGHT_STEPS), np.float32(_WEIGHT_STEPS)


def _bounds(before: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """Return the steps that may stand beside ``before`` in a pair."""
    steps = before.astype(np.float32)
    high = np.minimum(_WEIGHT_STEPS, _PAIR_STEPS - np.maximum(steps, 0))
    low = np.maximum(-_WEIGHT_STEPS, -_PAIR_STEPS - np.minimum(steps, 0))
    return low.astype(np.float32), high.astype(np.float32)


def _compensation(moments: NDArray[np.floating]) -> Floats:
    """Return the upper Cholesky factor of the inverse of the damped moments."""
    damped = moments.astype(np.float64)
    diagonal = np.einsum("kk->k", damped)
    diagonal += _DAMPING * diagonal.mean() + np.finfo(np.float32).tiny
    # For a flipped matrix the lower factor is the upper one of the matrix itself.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    return np.ascontiguousarray(upper, np.float32)
