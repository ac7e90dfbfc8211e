"""Figures from outcomes: answers on time, waiting times, fairness."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.simulate.bound import best_busy_s, best_tokens, least_work_s
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Workload
from edged.protocol.request import Priority
from edged.scheduling.latency_model import CostEstimate

Figures = dict[str, Any]


def figures(
    outcomes: Sequence[Outcome], workload: Workload, device: CostEstimate, *, has_bound: bool = True
) -> Figures:
    """Summarise one run; shares and ratios from 0 to 1, times in seconds.

    ``goodput`` is the engine time of answers on time, ``goodput_tokens`` their tokens, each as a
    share of the upper bound; None without a bound, which exists for one device only.
    """
    good = [outcome for outcome in outcomes if outcome.end is End.ON_TIME]
    taken_in = [outcome for outcome in outcomes if outcome.end is not End.REFUSED]
    hours = max(workload.asks[-1].at_s, 1.0) / 3600
    tokens = sum(outcome.ask.wanted_tokens for outcome in good)
    busy_s = sum(least_work_s(o.ask, workload, device) for o in good)
    return {
        "asked": len(outcomes),
        **{end.value.replace(" ", "_"): _count(outcomes, end) for end in End},
        "on_time_per_hour": len(good) / hours,
        "kept": len(good) / len(taken_in) if taken_in else None,
        "goodput": busy_s / max(best_busy_s(workload, device), 1e-9) if has_bound else None,
        "goodput_tokens": tokens / best_tokens(workload, device) if has_bound else None,
        "jain": jain(_shares(outcomes).values()),
        "classes": {
            level.name.lower(): _class_figures(outcomes, level, workload, device)
            for level in Priority
            if any(outcome.ask.level is level for outcome in outcomes)
        },
    }


def jain(shares: Iterable[float]) -> float:
    """Return Jain's index of fairness: 1 when all have the same share (Jain et al., 1984)."""
    values = list(shares)
    squares = len(values) * sum(value**2 for value in values)
    return sum(values) ** 2 / squares if squares else 1.0


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the nearest-rank percentile; None without values."""
    if not values:
        return None
    return sorted(values)[max(math.ceil(percent / 100 * len(values)), 1) - 1]


def _count(outcomes: Sequence[Outcome], end: End) -> int:
    return sum(outcome.end is end for outcome in outcomes)


def _shares(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the share of its entitlement that each client got.

    A client is entitled to its requested tokens or to an even share of the device, whichever is
    less.
    """
    asked: defaultdict[str, float] = defaultdict(float)
    got: defaultdict[str, float] = defaultdict(float)
    for outcome in outcomes:
        asked[outcome.ask.client] += outcome.ask.wanted_tokens
        if outcome.end is End.ON_TIME:
            got[outcome.ask.client] += outcome.ask.wanted_tokens
    even = _even_share(list(asked.values()), sum(got.values()))
    return {client: min(got[client] / min(asked[client], even), 1.0) for client in asked}


def _even_share(asked: list[float], supply: float) -> float:
    """Return the max-min fair share: the level up to which every client can be served."""
    left = sorted(asked)
    while left and left[0] * len(left) <= supply:
        supply -= left.pop(0)
    return supply / len(left) if left and supply > 0 else math.inf if not left else 1e-9


def _class_figures(
    outcomes: Sequence[Outcome], level: Priority, workload: Workload, device: CostEstimate
) -> Figures:
    mine = [outcome for outcome in outcomes if outcome.ask.level is level]
    answered = [outcome for outcome in mine if outcome.ttft_s is not None]
    alone = [
        o.ask.noise * workload.slowdown(o.ask.at_s) * device.prefill_s(o.ask.prompt_tokens)
        for o in answered
    ]
    return {
        "asked": len(mine),
        "on_time": _count(mine, End.ON_TIME),
        "refused": _count(mine, End.REFUSED),
        "ttft_p50_s": percentile([o.ttft_s for o in answered if o.ttft_s is not None], 50),
        "ttft_p95_s": percentile([o.ttft_s for o in answered if o.ttft_s is not None], 95),
        "ttft_alone_p95_s": percentile(alone, 95),
    }
