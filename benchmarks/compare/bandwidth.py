"""The speed at which this machine reads memory, all threads at once.

Rule: measured in the same run as what it is compared with: a shared machine has no fixed one.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_BYTES = 256 << 20
"""In all: larger than any cache, small enough for a device of 1 GiB."""
_PASSES = 5


def read_bandwidth(num_threads: int, num_bytes: int = _BYTES) -> float:
    """Read a buffer with every thread and return the best pass in bytes/s; blocks.

    The maximum of bytes is numpy's reduction with the least work per byte (of ten that were
    compared on x86-64), so the bus is the limit and not the arithmetic.
    """
    parts = np.array_split(np.ones(num_bytes, np.uint8), num_threads)
    with ThreadPoolExecutor(num_threads) as pool:
        best_s = min(_pass_s(pool, parts) for _ in range(_PASSES))
    return num_bytes / best_s


def _pass_s(pool: ThreadPoolExecutor, parts: list[np.ndarray]) -> float:
    started_s = time.perf_counter()
    list(pool.map(np.max, parts))
    return time.perf_counter() - started_s
