"""``--measure``: a workload on a real node, compared with its simulation.

Rule: both get the same requests. The lengths of the answers, which only the model knows, and the
expected speed at each time are taken from the node's replies and states.
"""

import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.simulate.figures import Figures, figures
from benchmarks.simulate.live import LiveNode
from benchmarks.simulate.node import run_edf
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Ask, Workload
from edged.scheduling.latency_model import CostEstimate

GOAL = 0.10
"""Largest relative difference of simulated and measured on-time goodput."""


def measure(node: LiveNode, workload: Workload, cost: CostEstimate) -> dict[str, Figures]:
    """Play a workload on a node in real time, then simulate it; blocks.

    Args:
        node: The node.
        workload: The requests.
        cost: Its measured costs.
    """
    outcomes = node.play(workload.asks)
    asks = _asks_with_lengths(outcomes)
    outcomes = [replace(o, ask=ask) for o, ask in zip(outcomes, asks, strict=True)]
    speed = _Speed(node.states)
    now = cost.scaled(
        cost.prefill_tok_s * speed.prefill_token_s,
        cost.decode_tok_s * speed.decode_token_s,
        cost.margin,
    )
    played = replace(workload, asks=asks, slowdown=speed.slowdown)
    simulated = run_edf(played, now, max_waiting=node.info["limits"]["queue"])
    errors = {key: node.state[key] for key in ("prediction_error_p50", "prediction_error_p95")}
    return {
        "measured": figures(outcomes, played, now) | errors | {"late_by_s": _late_by_s(outcomes)},
        "simulated": figures(simulated.outcomes, played, now),
    }


def verdict(runs: dict[str, Figures]) -> str:
    """Return the difference of goodput, and the errors of the node's predictions."""
    measured, simulated = runs["measured"]["goodput"], runs["simulated"]["goodput"]
    apart = abs(measured - simulated) / simulated if simulated else 0.0
    word = "within" if apart <= GOAL else "beyond"
    errors = [runs["measured"][f"prediction_error_p{percent}"] for percent in (50, 95)]
    shown = ["-" if error is None else f"{error:.0%}" for error in errors]
    late_s = runs["measured"]["late_by_s"]
    return (
        f"on-time goodput: measured {measured:.3f}, simulated {simulated:.3f} of the bound;"
        f" {apart:.1%} apart, {word} {GOAL:.0%}\n"
        f"the node's predictions were off by {shown[0]} (median), {shown[1]} (95th percentile)"
        + (f"\nthe latest reply came {late_s:.2f} s after its deadline" if late_s else "")
    )


def _late_by_s(outcomes: Sequence[Outcome]) -> float:
    """Return the largest lateness of a reply; 0 if none was late."""
    late = (o.end_s - o.ask.deadline_s for o in outcomes if o.end is End.LATE)
    return max(late, default=0.0)


class _Speed:
    """The expected speed in the states of a node: the mean, and by time."""

    def __init__(self, states: Sequence[tuple[float, dict[str, Any]]]) -> None:
        prefill, decode = (
            [1 / float(state[key]) for _, state in states]
            for key in ("expected_prefill_tok_s", "expected_decode_tok_s")
        )
        self.prefill_token_s, self.decode_token_s = (
            statistics.mean(prefill),
            statistics.mean(decode),
        )
        self._times = [at_s for at_s, _ in states]
        self._factors = [
            (one / self.prefill_token_s + other / self.decode_token_s) / 2
            for one, other in zip(prefill, decode, strict=True)
        ]

    def slowdown(self, at_s: float) -> float:
        """Return the factor of all durations at a time, relative to the mean."""
        return self._factors[max(bisect_right(self._times, at_s) - 1, 0)]


def _asks_with_lengths(outcomes: Sequence[Outcome]) -> list[Ask]:
    """Return the requests; unanswered ones get the lengths of random answered ones."""
    lengths = [o.ask.output_tokens for o in outcomes if o.ttft_s is not None] or [1]
    rng = random.Random(0)  # noqa: S311 - a choice, no secret
    return [
        o.ask if o.ttft_s is not None else replace(o.ask, output_tokens=rng.choice(lengths))
        for o in outcomes
    ]
