"""What an answer costs on this device: seconds for prefill and decode, and how sure that is.

Rule: no clock. The list is fitted once to a short measurement; every finished request
then corrects its scale, so that a device that is throttled is followed and a single stall is not.
"""

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

DEFAULT_MARGIN = 1.1
"""How far predictions are stretched until enough requests have shown how far they must be."""
MIN_MARGIN, MAX_MARGIN = 1.03, 1.5

_DRIFT_SAMPLES = 5
"""The scale is the median of so many: two outliers change nothing, three slow ones do."""
_MARGIN_SAMPLES = 64
_MARGIN_PERCENT = 97
_MIN_SAMPLES = 8
_MAX_SCALE = 50.0
_MIN_PREFILL_TOKENS = 16
"""Fewer tokens time the overhead of a run, not the speed of prefill."""
_MIN_DECODE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """The price list of one device and one model, in seconds; not negative and finite."""

    prefill_token_s: float
    """Each prompt token; above 0."""
    decode_token_s: float
    """Each token of the answer after the first, in an empty context; above 0."""
    prefill_pair_s: float = 0.0
    """Each pair of a prompt token and one before it: attention, the quadratic term."""
    decode_pair_s: float = 0.0
    """Each pair of an answer's token and one before it."""
    decode_row_s: float = 0.0
    """Each further sequence in a decode run; its attention is ``decode_pair_s`` as ever. At most
    ``decode_token_s``: a run of several is never dearer than a run for each."""
    run_s: float = 0.0
    """Each run of the graph in prefill, however few tokens it has."""
    chunk_tokens: int = 128
    """Prompt tokens of one run."""
    margin: float = DEFAULT_MARGIN
    """What a promise stretches a prediction by; at least 1."""

    def __post_init__(self) -> None:
        values = [getattr(self, item.name) for item in fields(self)]
        is_sane = all(0 <= value < math.inf for value in values)
        is_sane = is_sane and self.decode_row_s <= self.decode_token_s
        if not is_sane or min(self.prefill_token_s, self.decode_token_s) <= 0:
            raise ValueError(f"not a cost: {self}")

    @property
    def prefill_tok_s(self) -> float:
        """Prompt tokens a second, in one full run on an empty context."""
        return self.chunk_tokens / self.prefill_s(self.chunk_tokens)

    @property
    def decode_tok_s(self) -> float:
        """Tokens of the answer a second, in an empty context."""
        return 1 / self.decode_token_s

    def prefill_s(self, num_tokens: int, num_cached: int = 0) -> float:
        """Predict the computing of ``num_tokens`` prompt tokens after ``num_cached`` others."""
        num_runs = math.ceil(num_tokens / self.chunk_tokens)
        num_pairs = num_tokens * (num_cached + num_tokens / 2)
        return (
            num_runs * self.run_s
            + num_tokens * self.prefill_token_s
            + num_pairs * self.prefill_pair_s
        )

    def decode_s(self, num_tokens: float, context: int) -> float:
        """Predict ``num_tokens`` runs of one token each, the first after ``context`` others."""
        num_pairs = num_tokens * (context + num_tokens / 2)
        return num_tokens * self.decode_token_s + num_pairs * self.decode_pair_s

    def step_s(self, contexts: Sequence[int]) -> float:
        """Predict one decode run of a token each for sequences of these lengths; at least one."""
        num_others = len(contexts) - 1
        one_s = self.decode_token_s + num_others * self.decode_row_s
        return one_s + sum(context + 0.5 for context in contexts) * self.decode_pair_s

    def first_token_s(self, num_prompt_tokens: int) -> float:
        """Predict the time from a start to the first token."""
        return self.prefill_s(num_prompt_tokens)

    def service_s(self, num_prompt_tokens: int, num_output_tokens: int) -> float:
        """Predict the time from a start to the end of an answer; prefill gives its first token."""
        num_runs = max(num_output_tokens - 1, 0)
        return self.prefill_s(num_prompt_tokens) + self.decode_s(num_runs, num_prompt_tokens)

    def tokens_within(self, seconds: float, num_prompt_tokens: int) -> int:
        """Return the longest answer whose ``service_s`` is at most ``seconds``; 0 without time."""
        left_s = seconds - self.prefill_s(num_prompt_tokens)
        if left_s < 0:
            return 0
        linear_s = self.decode_token_s + num_prompt_tokens * self.decode_pair_s
        # The positive root of pair/2 * n**2 + linear * n = left, written so that pair may be 0.
        root = math.sqrt(linear_s**2 + 2 * self.decode_pair_s * left_s)
        return 1 + math.floor(min(2 * left_s / (linear_s + root), 1e9) * (1 + 1e-12))

    def scaled(self, prefill: float, decode: float, margin: float) -> "Cost":
        """Return the list with prefill and decode so many times as dear."""
        return replace(
            self,
            prefill_token_s=self.prefill_token_s * prefill,
            prefill_pair_s=self.prefill_pair_s * prefill,
            run_s=self.run_s * prefill,
            decode_token_s=self.decode_token_s * decode,
            decode_pair_s=self.decode_pair_s * decode,
            decode_row_s=self.decode_row_s * decode,
            margin=margin,
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """What one finished request took: the runs that it took part in, and nothing between them."""

    num_prefilled: int
    """Prompt tokens computed."""
    num_cached: int
    """Prompt tokens reused."""
    prefill_s: float
    num_decoded: int
    """Tokens after the first one."""
    decode_s: float
    """All of its decode runs, whoever else was in them."""
    num_cobatched_tokens: int = 0
    """Other sequences in its decode runs, summed over the runs."""
    pairs_beside: int = 0
    """Their contexts, summed likewise."""

    def prefill_by(self, cost: Cost) -> float:
        """Predict its prefill."""
        return cost.prefill_s(self.num_prefilled, self.num_cached)

    def decode_by(self, cost: Cost) -> float:
        """Predict its decode runs."""
        own_s = cost.decode_s(self.num_decoded, self.num_prefilled + self.num_cached)
        rows_s = self.num_cobatched_tokens * cost.decode_row_s
        return own_s + rows_s + self.pairs_beside * cost.decode_pair_s


@dataclass(slots=True)
class _Drift:
    """How many times as long as fitted things take now."""

    logs: deque[float] = field(default_factory=lambda: deque(maxlen=_DRIFT_SAMPLES))

    def add(self, seconds: float, fitted_s: float) -> None:
        if 0 < seconds < math.inf and fitted_s > 0:
            self.logs.append(math.log(min(max(seconds / fitted_s, 1 / _MAX_SCALE), _MAX_SCALE)))

    @property
    def scale(self) -> float:
        return math.exp(statistics.median(self.logs)) if self.logs else 1.0


class CostModel:
    """A fitted price list, held to what requests really take.

    Args:
        fitted: the list as it was measured.
    """

    def __init__(self, fitted: Cost) -> None:
        self.fitted = fitted
        self.current = fitted
        """The list as it holds now; replaced with every observation."""
        self._prefill, self._decode = _Drift(), _Drift()
        self._ratios: deque[float] = deque(maxlen=_MARGIN_SAMPLES)

    def observe(self, measured: Measured) -> float | None:
        """Take in one finished request.

        Returns:
            The relative error of what was predicted for its tokens, before it was learned from;
            None for one too short to judge by.
        """
        taken_s = measured.prefill_s + measured.decode_s
        if not 0 < taken_s < math.inf:
            return None
        predicted_s = measured.prefill_by(self.current) + measured.decode_by(self.current)
        is_long = measured.num_decoded >= _MIN_DECODE_TOKENS
        if measured.num_prefilled >= _MIN_PREFILL_TOKENS:
            self._prefill.add(measured.prefill_s, measured.prefill_by(self.fitted))
        if is_long:
            self._decode.add(measured.decode_s, measured.decode_by(self.fitted))
            self._ratios.append(taken_s / predicted_s)
        self.current = self.fitted.scaled(self._prefill.scale, self._decode.scale, self._margin())
        return abs(predicted_s - taken_s) / taken_s if is_long else None

    def _margin(self) -> float:
        if len(self._ratios) < _MIN_SAMPLES:
            return DEFAULT_MARGIN
        rank = math.ceil(_MARGIN_PERCENT / 100 * len(self._ratios))
        return min(max(sorted(self._ratios)[rank - 1], MIN_MARGIN), MAX_MARGIN)


def cost_members(cost: Cost) -> dict[str, Any]:
    """Return the fitted figures as plain data, for a file."""
    return asdict(cost)


def read_cost(members: object) -> Cost:
    """Make a price list of plain data.

    Raises:
        ValueError: the data is not one.
    """
    if not isinstance(members, dict):
        raise ValueError("not a cost: no object")  # noqa: TRY004 - data, not an argument's type
    try:
        return Cost(**members)
    except TypeError as error:
        raise ValueError(f"not a cost: {error}") from error


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
