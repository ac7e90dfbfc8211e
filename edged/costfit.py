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
_ROW_PRIOR = 0.04
"""What a further sequence costs a decode run, in tokens: the weights are read for all at once."""
_ROW_WEIGHT = 0.03
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
    num_rows: int = 1
    """Sequences that it was a run of, each with these tokens and this context."""

    @property
    def num_pairs(self) -> float:
        """Pairs of a token of one sequence and one before it."""
        return self.num_tokens * (self.context + self.num_tokens / 2)


def fit_cost(prefills: Sequence[Run], decodes: Sequence[Run], chunk_tokens: int) -> Cost:
    """Fit the price list to measured runs, each with the same weight whatever its length.

    A few runs on a busy device tell the terms apart badly, so the fit leans on what decoders of
    this size have in common (ridge regression towards a prior).

    Args:
        prefills: runs of many tokens; at least one.
        decodes: runs of one token; at least one of a single sequence. Those of several tell what
            a further sequence costs; without them that is not known, and 0.
        chunk_tokens: prompt tokens of one run in production.
    """
    prefill = _fit(prefills, _PREFILL_PRIOR)
    single = [run for run in decodes if run.num_rows == 1]
    decode = _fit(single, _DECODE_PRIOR)
    rows = [run for run in decodes if run.num_rows > 1]
    return Cost(
        prefill_token_s=prefill[0],
        prefill_pair_s=prefill[1],
        run_s=prefill[2],
        decode_token_s=decode[0],
        decode_pair_s=decode[1],
        decode_row_s=_row_s(rows, single, token_s=decode[0], pair_s=decode[1]),
        chunk_tokens=chunk_tokens,
    )


def _row_s(runs: Sequence[Run], single: Sequence[Run], token_s: float, pair_s: float) -> float:
    """Return what a further row costs; between nothing and a run of its own.

    Each run is held against the single one in the nearest context: what a row costs is less than
    what the fit of a token may be off by.
    """
    if not runs:
        return 0.0
    prior_s = _ROW_PRIOR * token_s
    # Ridge regression with one unknown: what a row costs, in units of the prior.
    above, below = _ROW_WEIGHT**2, _ROW_WEIGHT**2
    for run in runs:
        alone = min(single, key=lambda other: abs(other.context - run.context))
        alone_s = max(alone.seconds + (run.num_pairs - alone.num_pairs) * pair_s, 1e-9)
        num_more = run.num_rows - 1
        rows_s = run.seconds - alone_s - num_more * run.num_pairs * pair_s
        share = num_more * prior_s / alone_s
        above += share * rows_s / alone_s
        below += share**2
    return float(min(max(above / below, 0.0) * prior_s, token_s))


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
