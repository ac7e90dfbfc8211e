"""Many nodes that share one stream of requests, with several policies to choose a node.

``share`` is a broker's ``$share`` group, round robin; ``retry`` is the same with a client that
tries up to three nodes if refused; ``two`` is a client that reads the retained ``state`` of two
random nodes and asks the less loaded one; ``two-retry`` is both. Clients are accounts that the
broker vouches for.
"""

import random
from collections.abc import Callable, Sequence

from benchmarks.simulate.node import Node
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.trace import Ask
from benchmarks.simulate.workloads import Device
from edged.scheduling.fair_share import ShareTerms

MAX_TRIES = 3
_LOAD = 0.85
_MINUTES = 5.0

Choose = Callable[[Sequence[Node], int, float, random.Random], Node]


def fleet_asks(num_nodes: int, seed: int, device: Device) -> list[Ask]:
    """Return five minutes of requests at 85 % load of all nodes, with a rush in the middle."""
    rng = random.Random(f"fleet {seed}")  # noqa: S311 - generated requests, no secret
    asks, at_s = [], 0.0
    while at_s < _MINUTES * 60:
        ask = Ask(
            at_s,
            f"client-{rng.randrange(8 * num_nodes)}",
            rng.choice(("interactive", "normal", "normal", "background")),
            prompt_tokens=rng.randint(30, 300),
            max_tokens=64,
            output_tokens=round(rng.triangular(4, 80, 40)),
            timeout_s=rng.choice((10.0, 20.0, 30.0)),
            noise=rng.lognormvariate(0.0, 0.1),
        )
        asks.append(ask)
        rush = 2.0 if 0.4 < at_s / (_MINUTES * 60) < 0.5 else 1.0  # noqa: PLR2004 - one minute
        at_s += (
            rng.expovariate(1.0)
            * ask.work_s(device.cost, device.num_slots)
            / (_LOAD * rush * num_nodes)
        )
    return asks


def run_fleet(policy: str, num_nodes: int, seed: int, device: Device) -> list[Outcome]:
    """Send the requests to the nodes by a policy; a ``KeyError`` for an unknown one."""
    choose = POLICIES[policy]
    rng = random.Random(f"fleet {policy} {seed}")  # noqa: S311
    asks = fleet_asks(num_nodes, seed, device)
    # Devices of one type differ, for example in temperature.
    nodes = [_node(rng.uniform(0.8, 1.4), device) for _ in range(num_nodes)]
    tries = MAX_TRIES if policy.endswith("retry") else 1
    refused: list[Outcome] = []
    for number, ask in enumerate(asks):
        for attempt in range(tries):
            node = choose(nodes, number + attempt * 7, ask.at_s, rng)
            if node.offer(ask):
                break
            refusal = node.outcomes.pop(_last_refusal(node))
        else:
            refused.append(refusal)
    for node in nodes:
        node.run_until(float("inf"))
    return [*refused, *(outcome for node in nodes for outcome in node.outcomes)]


def _node(slowdown: float, device: Device) -> Node:
    terms = ShareTerms(is_identity_required=True)
    return Node(device.cost, lambda _: slowdown, device.num_slots, share_terms=terms)


def _last_refusal(node: Node) -> int:
    """Find the refusal of the latest request; others that ended at that time may follow it."""
    ends = [outcome.end for outcome in node.outcomes]
    return len(ends) - 1 - ends[::-1].index(End.REFUSED)


def _in_turn(nodes: Sequence[Node], number: int, _now_s: float, _rng: random.Random) -> Node:
    return nodes[number % len(nodes)]


def _of_two(nodes: Sequence[Node], _number: int, now_s: float, rng: random.Random) -> Node:
    one, other = rng.choice(nodes), rng.choice(nodes)
    for node in (one, other):
        node.run_until(now_s)
    return one if one.backlog <= other.backlog else other


POLICIES: dict[str, Choose] = {
    "share": _in_turn,
    "retry": _in_turn,
    "two": _of_two,
    "two-retry": _of_two,
}
