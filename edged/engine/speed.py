"""Measure the latency of a loaded model on this device.

Rule: real forward passes of the real graph, within a bounded time however slow the device is.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edged.engine.steps import DecodeInput
from edged.scheduling.latency_fit import MeasuredRun, fit_cost
from edged.scheduling.latency_model import CostEstimate, RequestTimings

if TYPE_CHECKING:
    from edged.engine.graph import Graph

# With the pass that is running at that time, about 2 s.
_DECODE_STEPS = 6
_SMALLEST_PREFILL = 8
_LIMIT_S = 1.8
# The latency model takes the median of its last five: three of them decide.
_NUM_PROBES = 3
_PROBE_PROMPT, _PROBE_ANSWER = 32, 4


class _Stopwatch:
    """Times forward passes of a graph, over synthetic tokens in its first slots."""

    def __init__(self, graph: "Graph", clock: Callable[[], float]) -> None:
        self._graph = graph
        self._clock = clock
        self._started_s = clock()

    def remaining_s(self, limit_s: float) -> float:
        return self._started_s + limit_s - self._clock()

    def prefill(self, num_tokens: int, context: int) -> MeasuredRun:
        token_ids = np.arange(context, context + num_tokens, dtype=np.int64)
        before_s = self._clock()
        self._graph.forward(token_ids % self._graph.vocab_size, context)
        return MeasuredRun(num_tokens, context, self._clock() - before_s)

    def decode(self, num_rows: int, context: int) -> MeasuredRun:
        """Run one token of each of the first slots, a few times; return the median run."""
        rows = [DecodeInput(slot, 1, context) for slot in range(num_rows)]
        runs: list[MeasuredRun] = []
        while not runs or (len(runs) < _DECODE_STEPS and self.remaining_s(_LIMIT_S) > 0):
            before_s = self._clock()
            self._graph.decode(rows)
            runs.append(MeasuredRun(1, context, self._clock() - before_s, num_rows))
        return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def measure_cost(
    graph: "Graph",
    num_slots: int,
    chunk_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> CostEstimate:
    """Time synthetic tokens in the first ``num_slots`` slots, and fit a latency model to them.

    Prefill grows by doubling up to a chunk, then chunk by chunk into a longer context; decode is
    timed in that context, in a short one, and in a short one with all slots. A slow device is
    measured with fewer passes.
    """
    watch = _Stopwatch(graph, clock)
    prefills = _prefills(watch, chunk_tokens, graph.max_model_len)
    longest = max(run.context + run.num_tokens for run in prefills)
    for slot in range(1, num_slots):
        graph.copy(0, slot, _SMALLEST_PREFILL)
    wanted = [(1, longest), (1, _SMALLEST_PREFILL), (num_slots, _SMALLEST_PREFILL)]
    decodes: list[MeasuredRun] = []
    for num_rows, context in dict.fromkeys(wanted):
        if not decodes or watch.remaining_s(_LIMIT_S) > 0:
            decodes.append(watch.decode(num_rows, context))
    return fit_cost(prefills, decodes, chunk_tokens)


def _prefills(watch: _Stopwatch, chunk_tokens: int, max_model_len: int) -> list[MeasuredRun]:
    largest = min(chunk_tokens, max_model_len - _DECODE_STEPS)
    end = max_model_len - _DECODE_STEPS - largest
    smallest = min(_SMALLEST_PREFILL, largest)
    watch.prefill(smallest, 0)  # the first pass allocates
    # Doubled up to a chunk, then chunk after chunk.
    passes = [(smallest << n, 0) for n in range(largest.bit_length()) if smallest << n < largest]
    passes += [(largest, context) for context in range(0, max(end, 0) + 1, largest)]
    runs: list[MeasuredRun] = []
    for num_tokens, context in passes:
        if runs and 3 * runs[-1].seconds > watch.remaining_s(_LIMIT_S / 2):
            break
        run = watch.prefill(num_tokens, context)
        if run.seconds < watch.remaining_s(_LIMIT_S / 2):
            # The faster of two: disturbances only make a pass slower.
            run = min(run, watch.prefill(num_tokens, context), key=lambda timed: timed.seconds)
        runs.append(run)
    return runs


def time_requests(
    graph: "Graph",
    slot: int,
    chunk_tokens: int,
    goes_on: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
) -> list[RequestTimings]:
    """Time a few short requests in a slot, which is overwritten.

    ``goes_on`` is asked before each pass; the request at which it says no is left out.
    """
    num_tokens = min(_PROBE_PROMPT, chunk_tokens, graph.max_model_len - _PROBE_ANSWER)
    token_ids = np.arange(num_tokens, dtype=np.int64) % graph.vocab_size
    inputs = [DecodeInput(slot, 1, num_tokens + step) for step in range(_PROBE_ANSWER)]
    found: list[RequestTimings] = []
    for _ in range(_NUM_PROBES):
        spent = RequestTimings(num_prefilled=num_tokens, decode_runs=len(inputs))
        for decoded in (None, *inputs):
            if not goes_on():
                return found
            before_s = clock()
            if decoded is None:
                graph.forward(token_ids, 0, slot=slot)
                spent.prefill_s = clock() - before_s
            else:
                graph.decode([decoded])
                spent.decode_s += clock() - before_s
        found.append(spent)
    return found
