"""The memory read bandwidth of this machine, with all threads.

Rule: measured in the same run as the figures it is compared with: on a shared machine it varies.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 256 << 20
"""In total: larger than any cache, small enough for a device with 1 GiB."""
_PASSES = 5


def measure_bandwidth(num_threads: int, num_bytes: int = _BYTES) -> float:
    """Read a buffer with every thread and return the best pass in bytes/s; blocks.

    The maximum of bytes is the cheapest of ten numpy reductions compared on x86-64, so the limit is
    the memory bus and not the arithmetic.
    """
    parts = np.array_split(np.ones(num_bytes, np.uint8), num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        best_s = min(_pass_s(pool, parts) for _ in range(_PASSES))
    return num_bytes / best_s


def _pass_s(pool: ThreadPoolExecutor, parts: list[np.ndarray]) -> float:
    started_s = time.perf_counter()
    list(pool.map(np.max, parts))
    return time.perf_counter() - started_s
