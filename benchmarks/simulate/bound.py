"""A clairvoyant upper bound on what any order of the requests can deliver on time.

Earliest deadline first with late requests dropped and partial answers counted keeps an engine busy
with work that is not late for as long as any order can. That time, filled with fractions of the
answers that have the most tokens per second, is more than any real order delivers. It is a bound,
not a schedule.

An answer counts with its lowest cost: its share of steps with a full batch. No step costs less than
the shares of the answers in it.
"""

import heapq

from benchmarks.simulate.trace import Ask, Workload
from edged.scheduling.latency_model import CostEstimate

_LOOKS = 16
"""Number of samples of the device's speed between arrival and deadline."""


def best_busy_s(workload: Workload, device: CostEstimate) -> float:
    """Return a bound on the seconds of work that can end on time."""
    return busy_s(_works(workload, device))


def best_tokens(workload: Workload, device: CostEstimate) -> float:
    """Return a bound on the tokens that can be delivered on time."""
    asks = _works(workload, device)
    remaining_s = busy_s(asks)
    tokens = 0.0
    for _, _, work_s, value in sorted(asks, key=lambda it: it[2] / it[3]):
        share = min(1.0, remaining_s / work_s) if work_s else 1.0
        tokens += share * value
        remaining_s -= share * work_s
    return tokens


_Work = tuple[float, float, float, int]
"""Arrival, deadline, seconds of work, tokens."""


def _works(workload: Workload, device: CostEstimate) -> list[_Work]:
    """Return the lowest cost of each request."""
    return [
        (ask.at_s, ask.deadline_s, least_work_s(ask, workload, device), ask.wanted_tokens)
        for ask in workload.asks
    ]


def least_work_s(ask: Ask, workload: Workload, device: CostEstimate) -> float:
    """Return the lowest cost of an answer: in a full batch, at the highest speed of the device."""
    steps = range(_LOOKS + 1)
    times = (ask.at_s + ask.timeout_s * step / _LOOKS for step in steps)
    return ask.work_s(device, workload.num_slots) * min(map(workload.slowdown, times))


def busy_s(works: list[_Work]) -> float:
    """Return the most seconds that any order can spend on requests before their deadlines."""
    ready: list[tuple[float, float]] = []
    now_s, done_s, place = 0.0, 0.0, 0
    works = sorted(works)
    while place < len(works) or ready:
        if not ready:
            now_s = max(now_s, works[place][0])
        while place < len(works) and works[place][0] <= now_s:
            heapq.heappush(ready, (works[place][1], works[place][2]))
            place += 1
        next_s = works[place][0] if place < len(works) else float("inf")
        while ready and now_s < next_s:
            deadline_s, work_s = heapq.heappop(ready)
            spent_s = max(min(work_s, deadline_s - now_s, next_s - now_s), 0.0)
            now_s, done_s = now_s + spent_s, done_s + spent_s
            if work_s > spent_s and deadline_s > now_s:
                heapq.heappush(ready, (deadline_s, work_s - spent_s))
    return done_s
