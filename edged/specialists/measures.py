"""What decisions are worth: intervals and calibration."""

import math

import numpy as np
from numpy.typing import NDArray

_Z_95 = 1.959964
_NUM_BINS = 15


def interval(num_right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    share, square = num_right / count, _Z_95**2
    centre = share + square / (2 * count)
    half = _Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    return (centre - half) / (1 + square / count), (centre + half) / (1 + square / count)


def calibration_error(confidence: NDArray[np.float64], is_right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error in 15 bins (Guo et al. 2017)."""
    bins = np.minimum((confidence * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    error = 0.0
    for index in np.unique(bins):
        inside = bins == index
        error += abs(confidence[inside].mean() - is_right[inside].mean()) * inside.mean()
    return float(error)
