"""Measure how fast this device runs a loaded model.

Rule: real runs of the real graph, within a bounded time on a device too slow for all of them.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from edged.admission import Speed
from edged.engine.graph import Graph

_DECODE_STEPS = 8
_SMALLEST_PREFILL = 8
_LIMIT_S = 2.0


def measure_speed(
    graph: Graph, chunk_tokens: int, clock: Callable[[], float] = time.perf_counter
) -> Speed:
    """Overwrite the graph's cache with made-up tokens and return the speed of a short context.

    Prefill doubles until it is a chunk, or so slow that the next one would take too long. The
    overhead is that of one decode step: a prompt of few tokens takes no less.

    Args:
        graph: the loaded model.
        chunk_tokens: how many prompt tokens one run takes in production.
        clock: seconds; for tests.
    """
    started_s = clock()

    def run_s(num_tokens: int, start: int) -> float:
        token_ids = np.arange(start, start + num_tokens, dtype=np.int64) % graph.vocab_size
        before_s = clock()
        graph.forward(token_ids, start)
        return clock() - before_s

    largest = min(chunk_tokens, graph.max_model_len - _DECODE_STEPS)
    count = min(_SMALLEST_PREFILL, largest)
    run_s(count, 0)  # the first run of all allocates
    prefill_s = run_s(count, 0)
    while count < largest and clock() - started_s + 3 * prefill_s < _LIMIT_S / 2:
        count = min(2 * count, largest)
        prefill_s = run_s(count, 0)
    decode_s = [run_s(1, count)]
    while len(decode_s) < _DECODE_STEPS and clock() - started_s < _LIMIT_S:
        decode_s.append(run_s(1, count + len(decode_s)))
    step_s = statistics.median(decode_s)
    return Speed(count / prefill_s, 1 / step_s, overhead_s=step_s)
