"""Latency model: predicted seconds of prefill and decode on this device, corrected online.

The estimate is fitted once to a short measurement (``latency_fit``); every finished request then
corrects its scale, so that a throttled device is followed and a single stall is not.
"""

import math
import statistics
from collections import deque
from dataclasses import dataclass, field, fields, replace

# Safety factor of predictions until enough requests have shown their error.
DEFAULT_MARGIN = 1.1
MIN_MARGIN, MAX_MARGIN = 1.03, 1.5

# The scale is the median of so many: two outliers change nothing, three slow ones do.
_DRIFT_SAMPLES = 5
# Of fewer than three, one that much slower changes nothing: else a device that was busy at its
# first answer refuses what it has time for, and learns nothing better from what it refuses.
_FEWEST_SAMPLES, _STALL = 3, math.log(1.5)
_MAX_SCALE = 50.0
_MARGIN_SAMPLES = 64
_MARGIN_PERCENT = 97
_MIN_SAMPLES = 8
# Fewer tokens time the overhead of a run, not the speed of prefill.
_MIN_PREFILL_TOKENS = 16
_MIN_DECODE_TOKENS = 4


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Costs of one model on one device, in seconds; not negative and finite."""

    prefill_token_s: float
    """Each prompt token; above 0."""
    decode_token_s: float
    """Each token of the answer after the first, in an empty context; above 0."""
    prefill_pair_s: float = 0.0
    """Each pair of a prompt token and one before it: attention, the quadratic term."""
    decode_pair_s: float = 0.0
    """Each pair of an answer's token and one before it."""
    decode_row_s: float = 0.0
    """Each further sequence in a decode run, without its attention (``decode_pair_s``). At most
    ``decode_token_s``: a batched run never costs more than its rows one by one."""
    run_s: float = 0.0
    """Each run of the graph in prefill, however few tokens it has."""
    chunk_tokens: int = 128
    """Prompt tokens of one run."""
    margin: float = DEFAULT_MARGIN
    """Safety factor that promises apply to predictions; at least 1."""

    def __post_init__(self) -> None:
        values = [getattr(self, item.name) for item in fields(self)]
        is_sane = all(0 <= value < math.inf for value in values)
        is_sane = is_sane and self.decode_row_s <= self.decode_token_s
        if not is_sane or min(self.prefill_token_s, self.decode_token_s) <= 0:
            raise ValueError(f"not a cost: {self}")

    @property
    def prefill_tok_s(self) -> float:
        """Prompt tokens per second, in one full run on an empty context."""
        return self.chunk_tokens / self.prefill_s(self.chunk_tokens)

    @property
    def decode_tok_s(self) -> float:
        """Tokens of the answer per second, in an empty context."""
        return 1 / self.decode_token_s

    def prefill_s(self, num_tokens: int, num_cached: int = 0) -> float:
        """Predict the prefill of ``num_tokens`` prompt tokens after ``num_cached`` others."""
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

    def scaled(self, prefill_factor: float, decode_factor: float, margin: float) -> "CostEstimate":
        """Return a copy with prefill and decode costs scaled, and this margin."""
        return replace(
            self,
            prefill_token_s=self.prefill_token_s * prefill_factor,
            prefill_pair_s=self.prefill_pair_s * prefill_factor,
            run_s=self.run_s * prefill_factor,
            decode_token_s=self.decode_token_s * decode_factor,
            decode_pair_s=self.decode_pair_s * decode_factor,
            decode_row_s=self.decode_row_s * decode_factor,
            margin=margin,
        )


@dataclass(slots=True)
class RequestTimings:
    """Measured engine time of one request, without the time between its runs."""

    num_prefilled: int = 0
    """Prompt tokens computed."""
    num_cached: int = 0
    """Prompt tokens reused."""
    prefill_s: float = 0.0
    """All of its prefill runs, whoever else was in them."""
    decode_runs: int = 0
    """Runs after the prefill, which gives the first token; each gives a token, or several if some
    were drafted."""
    decode_s: float = 0.0
    """All of its decode runs, whoever else was in them."""
    num_cobatched_tokens: int = 0
    """The other tokens in its decode runs: of other sequences, or drafted."""
    num_cobatched_pairs: int = 0
    """Attention pairs of those tokens: the positions before each, added up."""
    num_coprefilled_tokens: int = 0
    """The other tokens in its prefill runs: of other prompts, or padding."""

    def predicted_prefill_s(self, cost: CostEstimate) -> float:
        """Predict its prefill, the other prompts in its runs included."""
        # Those begin where this one does, and are about as long.
        context = self.num_cached + self.num_prefilled / 2
        token_s = cost.prefill_token_s + context * cost.prefill_pair_s
        own_s = cost.prefill_s(self.num_prefilled, self.num_cached)
        return own_s + self.num_coprefilled_tokens * token_s

    def predicted_decode_s(self, cost: CostEstimate) -> float:
        """Predict its decode runs, the other sequences in them included."""
        own_s = cost.decode_s(self.decode_runs, self.num_prefilled + self.num_cached)
        rows_s = self.num_cobatched_tokens * cost.decode_row_s
        return own_s + rows_s + self.num_cobatched_pairs * cost.decode_pair_s


@dataclass(slots=True)
class _Drift:
    """Ratio of current durations to fitted ones."""

    logs: deque[float] = field(default_factory=lambda: deque(maxlen=_DRIFT_SAMPLES))

    def add(self, seconds: float, fitted_s: float) -> None:
        if 0 < seconds < math.inf and fitted_s > 0:
            self.logs.append(math.log(min(max(seconds / fitted_s, 1 / _MAX_SCALE), _MAX_SCALE)))

    @property
    def scale(self) -> float:
        logs = list(self.logs)
        if len(logs) < _FEWEST_SAMPLES:
            logs = [log for log in logs if log < _STALL] or [0.0]
        return math.exp(statistics.median(logs))


class LatencyModel:
    """An estimate, ``fitted`` at start and corrected by every finished request."""

    def __init__(self, fitted: CostEstimate) -> None:
        self.fitted = fitted
        self.current = fitted
        """The current estimate; replaced at every observation."""
        self._prefill, self._decode = _Drift(), _Drift()
        self._ratios: deque[float] = deque(maxlen=_MARGIN_SAMPLES)

    def observe(self, timings: RequestTimings) -> float | None:
        """Learn from one finished request.

        Returns:
            The relative error of its prediction before that; None if it was too short to tell.
        """
        taken_s = timings.prefill_s + timings.decode_s
        if not 0 < taken_s < math.inf:
            return None
        current = self.current
        predicted_s = timings.predicted_prefill_s(current) + timings.predicted_decode_s(current)
        is_long = timings.decode_runs >= _MIN_DECODE_TOKENS
        if timings.num_prefilled >= _MIN_PREFILL_TOKENS:
            self._prefill.add(timings.prefill_s, timings.predicted_prefill_s(self.fitted))
        if is_long:
            self._decode.add(timings.decode_s, timings.predicted_decode_s(self.fitted))
            self._ratios.append(taken_s / predicted_s)
        self.current = self.fitted.scaled(self._prefill.scale, self._decode.scale, self._margin())
        return abs(predicted_s - taken_s) / taken_s if is_long else None

    def _margin(self) -> float:
        if len(self._ratios) < _MIN_SAMPLES:
            return DEFAULT_MARGIN
        rank = math.ceil(_MARGIN_PERCENT / 100 * len(self._ratios))
        return min(max(sorted(self._ratios)[rank - 1], MIN_MARGIN), MAX_MARGIN)
