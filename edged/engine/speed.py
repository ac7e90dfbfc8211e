"""Measure what a loaded model costs on this device.

Rule: real runs of the real graph, within a bounded time on a device too slow for all of them.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from edged.engine.graph import Graph
from edged.engine.steps import DecodeInput
from edged.scheduling.latency_model import Cost, Run, fit_cost

_DECODE_STEPS = 6
_SMALLEST_PREFILL = 8
_LIMIT_S = 1.8
"""Together with the run that is under way when it is over, 2 s."""


class _Stopwatch:
    """Times runs of a graph, within a limit."""

    def __init__(self, graph: Graph, clock: Callable[[], float]) -> None:
        self._graph = graph
        self._clock = clock
        self._started_s = clock()

    def left_s(self, limit_s: float) -> float:
        """Return what is left until so long after the start."""
        return self._started_s + limit_s - self._clock()

    def prefill(self, num_tokens: int, context: int) -> Run:
        """Run made-up tokens in the first slot."""
        token_ids = np.arange(context, context + num_tokens, dtype=np.int64)
        before_s = self._clock()
        self._graph.forward(token_ids % self._graph.vocab_size, context)
        return Run(num_tokens, context, self._clock() - before_s)

    def decode(self, num_rows: int, context: int) -> Run:
        """Run one token of each of the first slots, a few times; return the middle one."""
        rows = [DecodeInput(slot, 1, context) for slot in range(num_rows)]
        runs: list[Run] = []
        while not runs or (len(runs) < _DECODE_STEPS and self.left_s(_LIMIT_S) > 0):
            before_s = self._clock()
            self._graph.decode(rows)
            runs.append(Run(1, context, self._clock() - before_s, num_rows))
        return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def measure_cost(
    graph: Graph,
    num_slots: int,
    chunk_tokens: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost:
    """Overwrite slots of the cache with made-up tokens and fit a price list to what that takes.

    Prefill doubles until it is a chunk, then goes on chunk by chunk into a longer context; then
    decode is timed there, in a short context, and there in all slots at once. A device too slow for
    that is measured on less.

    Args:
        graph: the loaded model.
        num_slots: how many of its slots may be overwritten, and answer at a time.
        chunk_tokens: how many prompt tokens one run takes in production.
        clock: seconds; for tests.
    """
    watch = _Stopwatch(graph, clock)
    prefills = _prefills(watch, chunk_tokens, graph.max_model_len)
    longest = max(run.context + run.num_tokens for run in prefills)
    for slot in range(1, num_slots):
        graph.copy(0, slot, _SMALLEST_PREFILL)
    wanted = [(1, longest), (1, _SMALLEST_PREFILL), (num_slots, _SMALLEST_PREFILL)]
    decodes: list[Run] = []
    for num_rows, context in dict.fromkeys(wanted):
        if not decodes or watch.left_s(_LIMIT_S) > 0:
            decodes.append(watch.decode(num_rows, context))
    return fit_cost(prefills, decodes, chunk_tokens)


def _prefills(watch: _Stopwatch, chunk_tokens: int, max_model_len: int) -> list[Run]:
    largest = min(chunk_tokens, max_model_len - _DECODE_STEPS)
    end = max_model_len - _DECODE_STEPS - largest
    watch.prefill(min(_SMALLEST_PREFILL, largest), 0)  # the first run of all allocates
    runs: list[Run] = []
    for count, context in _plan(largest, end):
        if runs and 3 * runs[-1].seconds > watch.left_s(_LIMIT_S / 2):
            break
        once = watch.prefill(count, context)
        # Of two, the quicker: what disturbs a run only ever makes it slower.
        again = watch.prefill(count, context) if once.seconds < watch.left_s(_LIMIT_S / 2) else once
        runs.append(min(once, again, key=lambda run: run.seconds))
    return runs


def _plan(largest: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield runs as (tokens, context): doubling to a chunk, then chunk after chunk."""
    count = min(_SMALLEST_PREFILL, largest)
    while count < largest:
        yield count, 0
        count *= 2
    for context in range(0, max(end, 0) + 1, largest):
        yield largest, context
