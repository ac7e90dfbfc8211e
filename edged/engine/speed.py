"""Measure what a loaded model costs on this device.

Rule: real runs of the real graph, within a bounded time on a device too slow for all of them.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np

from edged.costfit import Run, fit_cost
from edged.costmodel import Cost
from edged.engine.graph import Graph

_DECODE_STEPS = 6
_SMALLEST_PREFILL = 8
_LIMIT_S = 1.8
"""Together with the run that is under way when it is over, 2 s."""


def measure_cost(
    graph: Graph, chunk_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """Overwrite the graph's cache with made-up tokens and fit a price list to what that takes.

    Prefill doubles until it is a chunk, then goes on chunk by chunk into a longer context; then
    decode is timed there and in a short context. A device too slow for that is measured on less.

    Args:
        graph: the loaded model.
        chunk_tokens: how many prompt tokens one run takes in production.
        clock: seconds; for tests.
    """
    started_s = clock()

    def timed(num_tokens: int, context: int) -> Run:
        token_ids = np.arange(context, context + num_tokens, dtype=np.int64) % graph.vocab_size
        before_s = clock()
        graph.forward(token_ids, context)
        return Run(num_tokens, context, clock() - before_s)

    largest = min(chunk_tokens, graph.max_model_len - _DECODE_STEPS)
    end = graph.max_model_len - _DECODE_STEPS - largest
    timed(min(_SMALLEST_PREFILL, largest), 0)  # the first run of all allocates
    prefills: list[Run] = []
    for count, context in _plan(largest, end):
        if prefills and clock() - started_s + 3 * prefills[-1].seconds > _LIMIT_S / 2:
            break
        once = timed(count, context)
        # Of two, the quicker: what disturbs a run only ever makes it slower.
        is_quick = clock() - started_s + once.seconds < _LIMIT_S / 2
        again = timed(count, context) if is_quick else once
        prefills.append(min(once, again, key=lambda run: run.seconds))
    longest = max(prefills, key=lambda run: run.context + run.num_tokens)
    decodes = []
    for context in (longest.context + longest.num_tokens, _SMALLEST_PREFILL):
        steps = [timed(1, context)]
        while len(steps) < _DECODE_STEPS and clock() - started_s < _LIMIT_S:
            steps.append(timed(1, context))
        decodes.append(sorted(steps, key=lambda run: run.seconds)[len(steps) // 2])
        if clock() - started_s >= _LIMIT_S:
            break
    return fit_cost(prefills, decodes, chunk_tokens)


def _plan(largest: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield runs as (tokens, context): doubling to a chunk, then chunk after chunk."""
    count = min(_SMALLEST_PREFILL, largest)
    while count < largest:
        yield count, 0
        count *= 2
    for context in range(0, max(end, 0) + 1, largest):
        yield largest, context
