"""A clairvoyant upper bound: the most that any order of the requests could deliver on time.

Earliest deadline first, dropping what is late and counting every second of work, whole answers or
not, keeps an engine busy with live work for as long as any order can; that much time, filled with
the answers that have the most tokens to the second, in fractions, is more than any real order can
deliver on time. It is a bound, not a schedule.

An answer counts as what it takes of the engine at best: its share of steps with a full batch. No
step is cheaper than the shares of those in it, so the shares of all answers fit into the time.
"""

import heapq

from benchmarks.simulate.trace import Ask, Workload
from edged.scheduling.latency_model import CostEstimate

_LOOKS = 16
"""Times between arrival and deadline at which the device's speed is looked at."""


def best_busy_s(workload: Workload, device: CostEstimate) -> float:
    """Return a bound of the seconds of work that can end on time."""
    return busy_s(_priced(workload, device))


def best_tokens(workload: Workload, device: CostEstimate) -> float:
    """Return a bound of the tokens that can be delivered on time."""
    asks = _priced(workload, device)
    left_s = busy_s(asks)
    tokens = 0.0
    for _, _, work_s, value in sorted(asks, key=lambda it: it[2] / it[3]):
        share = min(1.0, left_s / work_s) if work_s else 1.0
        tokens += share * value
        left_s -= share * work_s
    return tokens


_Work = tuple[float, float, float, int]
"""Arrival, deadline, seconds of work, tokens."""


def _priced(workload: Workload, device: CostEstimate) -> list[_Work]:
    """Price each request at what it takes at best."""
    return [
        (ask.at_s, ask.deadline_s, least_work_s(ask, workload, device), ask.wanted_tokens)
        for ask in workload.asks
    ]


def least_work_s(ask: Ask, workload: Workload, device: CostEstimate) -> float:
    """Tell what an answer takes at best: in a full batch, while the device is at its fastest."""
    steps = range(_LOOKS + 1)
    times = (ask.at_s + ask.timeout_s * step / _LOOKS for step in steps)
    return ask.work_s(device, workload.num_slots) * min(map(workload.slowdown, times))


def busy_s(works: list[_Work]) -> float:
    """Return the most seconds that any order can spend on requests that are not late yet."""
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
