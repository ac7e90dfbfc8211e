"""``--measure``: a workload on a real node, compared with its simulation.

Rule: both get the same requests. What only the model knows, the length of its answers, is taken
from its replies; so is the speed, as the node itself expects it in the meantime.
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
"""How far simulated and measured on-time goodput may be apart."""


def measure(node: LiveNode, workload: Workload, cost: CostEstimate) -> dict[str, Figures]:
    """Play a workload on a node, then simulate it; blocks as long as the workload is.

    Args:
        node: the node.
        workload: what it is asked.
        cost: its latency model.
    """
    outcomes = node.play(workload.asks)
    asks = _as_they_were(outcomes)
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
    """Say how far the two are apart, and the node's predictions from what happened."""
    measured, simulated = runs["measured"]["goodput"], runs["simulated"]["goodput"]
    apart = abs(measured - simulated) / simulated if simulated else 0.0
    word = "within" if apart <= GOAL else "beyond"
    errors = [runs["measured"][f"prediction_error_p{percent}"] for percent in (50, 95)]
    told = ["-" if error is None else f"{error:.0%}" for error in errors]
    late_s = runs["measured"]["late_by_s"]
    return (
        f"on-time goodput: measured {measured:.3f}, simulated {simulated:.3f} of the bound;"
        f" {apart:.1%} apart, {word} {GOAL:.0%}\n"
        f"the node's predictions were off by {told[0]} (median), {told[1]} (95th percentile)"
        + (f"\nthe latest reply came {late_s:.2f} s after its deadline" if late_s else "")
    )


def _late_by_s(outcomes: Sequence[Outcome]) -> float:
    """Return by how much the latest reply was late; 0 when none was."""
    late = (o.end_s - o.ask.deadline_s for o in outcomes if o.end is End.LATE)
    return max(late, default=0.0)


class _Speed:
    """How fast the node was, by its own states: on average, and at each time."""

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
        """Tell how many times as long as on average everything took."""
        return self._factors[max(bisect_right(self._times, at_s) - 1, 0)]


def _as_they_were(outcomes: Sequence[Outcome]) -> list[Ask]:
    """Give the requests that were not answered the lengths of some that were."""
    lengths = [o.ask.output_tokens for o in outcomes if o.ttft_s is not None] or [1]
    rng = random.Random(0)  # noqa: S311 - a choice, no secret
    return [
        o.ask if o.ttft_s is not None else replace(o.ask, output_tokens=rng.choice(lengths))
        for o in outcomes
    ]
