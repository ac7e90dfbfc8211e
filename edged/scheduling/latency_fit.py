"""Fit the cost estimate to a few measured runs of the model, by ridge regression towards a prior.

A module of its own, because only the start of the daemon measures, and only this needs numpy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edged.scheduling.latency_model import CostEstimate

# Cost of a token, an attention pair and a run, in tokens: attention to 2000 tokens costs as much
# as one token's arithmetic, and reading the weights as much as that of four.
_PREFILL_PRIOR = (1.0, 1 / 2000, 4.0)
# The same for decode, where each run is a token and has no cost of its own.
_DECODE_PRIOR = (1.0, 1 / 4000, 0.0)
# Cost of a further sequence in a decode run, in tokens: the weights are read once for all.
_ROW_PRIOR = 0.04
# An attention cost of more than so many times the prior is noise.
_ROW_WEIGHT = 0.03
_PRIOR_WEIGHT = 0.1
_MAX_PAIRS = 5.0


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """One measured run of the graph."""

    num_tokens: int
    context: int
    """Tokens before them."""
    seconds: float
    num_rows: int = 1
    """Sequences in the run, each with these tokens and this context."""

    @property
    def num_pairs(self) -> float:
        """Attention pairs of one sequence: a token of the run and one before it."""
        return self.num_tokens * (self.context + self.num_tokens / 2)


def fit_cost(
    prefills: Sequence[MeasuredRun], decodes: Sequence[MeasuredRun], chunk_tokens: int
) -> CostEstimate:
    """Fit the costs to measured runs, each with the same weight whatever its length.

    There is at least one prefill, and one decode of a single sequence. Those of several sequences
    give ``decode_row_s``, which is 0 without them.
    """
    prefill = _fit(prefills, _PREFILL_PRIOR)
    single = [run for run in decodes if run.num_rows == 1]
    decode = _fit(single, _DECODE_PRIOR)
    batched = [run for run in decodes if run.num_rows > 1]
    return CostEstimate(
        prefill_token_s=prefill[0],
        prefill_pair_s=prefill[1],
        run_s=prefill[2],
        decode_token_s=decode[0],
        decode_pair_s=decode[1],
        decode_row_s=_row_s(batched, single, token_s=decode[0], pair_s=decode[1]),
        chunk_tokens=chunk_tokens,
    )


def _row_s(
    batched: Sequence[MeasuredRun], single: Sequence[MeasuredRun], token_s: float, pair_s: float
) -> float:
    """Return the cost of a further row, at least 0 and at most that of a run of its own."""
    if not batched:
        return 0.0
    prior_s = _ROW_PRIOR * token_s
    # Ridge regression with one unknown: the cost of a row, in units of the prior.
    above, below = _ROW_WEIGHT**2, _ROW_WEIGHT**2
    for run in batched:
        # Compared with a measured run, not with the fit: its error exceeds the cost of a row.
        alone = min(single, key=lambda other: abs(other.context - run.context))
        alone_s = max(alone.seconds + (run.num_pairs - alone.num_pairs) * pair_s, 1e-9)
        num_more = run.num_rows - 1
        rows_s = run.seconds - alone_s - num_more * run.num_pairs * pair_s
        share = num_more * prior_s / alone_s
        above += share * rows_s / alone_s
        below += share**2
    return float(min(max(above / below, 0.0) * prior_s, token_s))


def _fit(runs: Sequence[MeasuredRun], prior: tuple[float, float, float]) -> list[float]:
    """Solve for the cost of a token, a pair and a run; ``prior`` is in units of a token."""
    longest = max(runs, key=lambda run: (run.num_tokens, -run.context))
    unit_s = max(longest.seconds, 1e-9) / longest.num_tokens
    terms = np.array([[run.num_tokens, run.num_pairs, 1.0] for run in runs]) * prior * unit_s
    seconds = np.array([max(run.seconds, 1e-9) for run in runs])
    # A few runs on a busy device tell the terms apart badly; the prior is what decoders share.
    ridge = _PRIOR_WEIGHT * np.eye(3)
    matrix = np.vstack([terms / seconds[:, None], ridge])
    target = np.concatenate([np.ones(len(runs)), ridge.sum(axis=1)])
    times_prior = np.linalg.lstsq(matrix, target, rcond=None)[0]
    found = np.clip(times_prior, [1e-3, 0, 0], [np.inf, _MAX_PAIRS, np.inf]) * prior * unit_s
    return [float(value) for value in found]
