"""What decisions are worth: intervals and calibration."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_Z_95 = 1.959964
_NUM_BINS = 15


def interval(num_right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    share, square = num_right / count, _Z_95**2
    centre = share + square / (2 * count)
    half = _Z_95 * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    low, high = (side / (1 + square / count) for side in (centre - half, centre + half))
    return max(low, 0.0), min(high, 1.0)  # rounding may go beyond


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence."""

    count: int
    num_right: int
    confidence: float
    """Mean of theirs."""

    @property
    def share_right(self) -> float:
        """Share of them that is right."""
        return self.num_right / self.count


def reliability(confidence: Sequence[float], is_right: Sequence[bool]) -> list[Bin]:
    """Return the answers in 15 bins of confidence, without the empty ones."""
    found, right = np.array(confidence), np.array(is_right)
    bins = np.minimum((found * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    made = []
    for index in np.unique(bins):
        inside = bins == index
        made.append(Bin(int(inside.sum()), int(right[inside].sum()), float(found[inside].mean())))
    return made


def calibration_error(confidence: Sequence[float], is_right: Sequence[bool]) -> float:
    """Return the expected calibration error in 15 bins (Guo et al. 2017)."""
    bins = reliability(confidence, is_right)
    gaps = (one.count * abs(one.confidence - one.share_right) for one in bins)
    return sum(gaps) / max(len(confidence), 1)
