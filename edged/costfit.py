"""A few measured runs to a price list.

Rule: no clock. The fit must be sane whatever a busy device made of the runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edged.costmodel import Cost

_PREFILL_PRIOR = (1.0, 1 / 2000, 4.0)
"""What a token, a pair and a run cost, in tokens: attention to 2000 tokens is as dear as one
token's weights, and reading the weights as four tokens' arithmetic."""
_DECODE_PRIOR = (1.0, 1 / 4000, 0.0)
"""A run is a token here, so it has no price of its own."""
_PRIOR_WEIGHT = 0.1
_MAX_PAIRS = 5.0
"""Attention that is dearer than so many times the prior is noise."""


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run of the graph."""

    num_tokens: int
    context: int
    """Tokens before them."""
    seconds: float

    @property
    def num_pairs(self) -> float:
        """Pairs of one of them and a token before it."""
        return self.num_tokens * (self.context + self.num_tokens / 2)


def fit_cost(prefills: Sequence[Run], decodes: Sequence[Run], chunk_tokens: int) -> Cost:
    """Fit the price list to measured runs, each with the same weight whatever its length.

    A few runs on a busy device tell the terms apart badly, so the fit leans on what decoders of
    this size have in common (ridge regression towards a prior).

    Args:
        prefills: runs of many tokens; at least one.
        decodes: runs of one token; at least one.
        chunk_tokens: prompt tokens of one run in production.
    """
    prefill = _fit(prefills, _PREFILL_PRIOR)
    decode = _fit(decodes, _DECODE_PRIOR)
    return Cost(
        prefill_token_s=prefill[0],
        prefill_pair_s=prefill[1],
        run_s=prefill[2],
        decode_token_s=decode[0],
        decode_pair_s=decode[1],
        chunk_tokens=chunk_tokens,
    )


def _fit(runs: Sequence[Run], prior: tuple[float, float, float]) -> list[float]:
    """Solve for what a token, a pair and a run cost; ``prior`` is that in units of a token."""
    longest = max(runs, key=lambda run: (run.num_tokens, -run.context))
    unit_s = max(longest.seconds, 1e-9) / longest.num_tokens
    terms = np.array([[run.num_tokens, run.num_pairs, 1.0] for run in runs]) * prior * unit_s
    seconds = np.array([max(run.seconds, 1e-9) for run in runs])
    lean = _PRIOR_WEIGHT * np.eye(3)
    matrix = np.vstack([terms / seconds[:, None], lean])
    target = np.concatenate([np.ones(len(runs)), lean.sum(axis=1)])
    times_prior = np.linalg.lstsq(matrix, target, rcond=None)[0]
    found = np.clip(times_prior, [1e-3, 0, 0], [np.inf, _MAX_PAIRS, np.inf]) * prior * unit_s
    return [float(value) for value in found]
