"""``python -m benchmarks.simulate.shares``: an honest client beside others that flood the device.

Rule: deterministic: the same seed gives exactly the same loads.
"""

import argparse
import heapq
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from benchmarks.simulate.node import Node
from benchmarks.simulate.outcome import End, Outcome
from benchmarks.simulate.report import table
from benchmarks.simulate.trace import REFERENCE, Ask, Workload
from edged.cli import run
from edged.errors import ExitCode, UsageError
from edged.scheduling.fair_share import ShareTerms
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.schedulability import Work

HONEST = "honest"
FACTORS = (1, 10, 100)
TERMS = ShareTerms()
_MAX_ASKS = 25
_MIN_ASKS = 10
_LENGTH = 3000
"""Requests of a load, about, as long as the honest client has its least number in it."""
_NOISE_SIGMA = 0.05
_OVER_SHARE = 1.3
_MIN_RETRY_S = 1.0
_COLUMNS = ("beside", "asked", "answered", "late", "cut", "of its weight", "answers", "engine time")


@dataclass(frozen=True, slots=True)
class Load:
    """One random load, and the device for it."""

    workload: Workload
    device: CostEstimate
    max_waiting: int
    weights: dict[str, float]
    is_patient: bool
    """Whether the honest client asks for more than its share, and again when it is refused."""

    @property
    def share(self) -> float:
        """The honest client's part of the device by weight."""
        names = {ask.client for ask in self.workload.asks}
        return self.weights[HONEST] / sum(self.weights.get(name, 1.0) for name in names)

    def own_s(self, ask: Ask) -> float:
        """Return how long a request is predicted to take alone."""
        return _own_s(ask, self.device)


@dataclass(frozen=True, slots=True)
class Played:
    """What a load came to."""

    num_asked: int
    """By the honest client, with each retry, and without its first one: its length is not known."""
    num_answered: int
    num_late: int
    """Answers to it after their deadlines."""
    num_cut: int
    """Answers to it that ended at their deadlines: the prediction was wrong."""
    of_weight: float
    """Its answers as a part of its share of all, or of what it asked for if that is less."""
    num_sum: int
    """Answers in time, of all clients."""
    sum_s: float
    """Engine time of these, each alone."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a client asks."""

    num_prompt: int
    """And up to twice as many; so are the tokens of the answer."""
    num_output: int
    priorities: tuple[str, ...]
    spare_s: tuple[float, float]
    """From and to: time of a request beyond its own."""

    @classmethod
    def draw(cls, rng: random.Random, least_s: float) -> "_Kind":
        """Return a random kind, whose requests have so much spare time at least."""
        classes = ("interactive",), ("normal",), ("background",), ("interactive", "normal")
        least_s += rng.choice((0.0, 0.0, 2.0, 10.0))
        spare_s = (least_s, least_s + rng.choice((0.1, 5.0, 20.0, 200.0)))
        prompt, output = rng.choice((20, 60, 200)), rng.choice((8, 32, 96))
        return cls(prompt, output, rng.choice(classes), spare_s)

    def ask(self, rng: random.Random, at_s: float, client: str, device: CostEstimate) -> Ask:
        """Return a request."""
        output = rng.randint(self.num_output, 2 * self.num_output)
        ask = Ask(
            at_s,
            client,
            rng.choice(self.priorities),
            rng.randint(self.num_prompt, 2 * self.num_prompt),
            output,
            output,
            noise=rng.lognormvariate(0.0, _NOISE_SIGMA),
        )
        return replace(ask, timeout_s=_own_s(ask, device) + rng.uniform(*self.spare_s))


def one_account(rng: random.Random, factor: int) -> Load:
    """Return a load with one account that sends so many times what the device can serve.

    The honest client asks for less than its share.
    """
    return _load(rng, 1, factor, rng.uniform(0.3, 1.0))


def many_accounts(rng: random.Random, factor: int) -> Load:
    """Return a load with so many accounts, which send several times of that together.

    The honest client asks for more than its share.
    """
    return _load(rng, factor, rng.uniform(1.5, 5.0), _OVER_SHARE)


def _load(rng: random.Random, num_others: int, load: float, of_share: float) -> Load:
    """Return a load in which the honest client asks first, and the others from then on.

    What was promised to one that was alone is never revoked, and says nothing about shares.
    """
    speed = rng.choice((0.25, 1.0))
    device = REFERENCE.scaled(speed, speed, margin=REFERENCE.margin)
    num_slots = rng.choice((1, 2, 4))
    weight = rng.choice((0.5, 1.0, 1.0, 2.0))
    share = weight / (weight + num_others)
    kind, other = _Kind.draw(rng, TERMS.lend_s), _Kind.draw(rng, 0.0)
    kinds = [other if rng.random() < 0.5 else _Kind.draw(rng, 0.0) for _ in range(num_others)]  # noqa: PLR2004 - half of them are the same
    mean_s = sum(other.ask(rng, 0.0, "", device).work_s(device, num_slots) for _ in range(50)) / 50
    asks: list[Ask] = []
    at_s = 0.0
    while len(asks) < _MIN_ASKS or (len(asks) < _MAX_ASKS and at_s * load / mean_s < _LENGTH):
        asks.append(kind.ask(rng, at_s, HONEST, device))
        pause = rng.uniform(1.0, 1.5) if of_share < 1 else 1.0
        at_s += pause * _own_s(asks[-1], device) / share / of_share
    for number, other in enumerate(kinds):
        name, part = f"other-{number}", load / num_others
        for ask in _flood(rng, other, name, device, num_slots):
            if ask.at_s / part >= at_s:
                break
            asks.append(replace(ask, at_s=ask.at_s / part))
    asks.sort(key=lambda ask: ask.at_s)
    size, weights = rng.choice((4, 8, 16)), {HONEST: weight}
    return Load(Workload("shares", asks, num_slots), device, size, weights, of_share > 1)


def _flood(
    rng: random.Random, kind: _Kind, client: str, device: CostEstimate, num_slots: int
) -> Iterator[Ask]:
    """Yield requests for as much as the device can serve."""
    at_s = 0.0
    while True:
        ask = kind.ask(rng, at_s, client, device)
        yield ask
        at_s += rng.expovariate(1.0) * ask.work_s(device, num_slots)


def _own_s(ask: Ask, device: CostEstimate) -> float:
    return device.margin * Work.of(ask.prompt_tokens, ask.max_tokens).alone_s(device)


def play(load: Load) -> Played:
    """Play a load on a simulated node."""
    workload = load.workload
    terms = replace(TERMS, weights=load.weights)
    node = Node(load.device, workload.slowdown, workload.num_slots, load.max_waiting, terms)
    asks = [(ask.at_s, number, ask) for number, ask in enumerate(workload.asks)]
    while asks:
        at_s, number, ask = heapq.heappop(asks)
        if node.offer(ask) or not load.is_patient or ask.client != HONEST:
            continue
        retry_s = node.outcomes[-1].retry_after_s
        if retry_s is not None:
            again = replace(ask, at_s=at_s + max(retry_s, _MIN_RETRY_S))
            if again.at_s < workload.asks[-1].at_s:
                heapq.heappush(asks, (again.at_s, number, again))
    node.run_until(float("inf"))
    return _played(load, node.outcomes)


def _played(load: Load, outcomes: Sequence[Outcome]) -> Played:
    first_s = min(ask.at_s for ask in load.workload.asks if ask.client == HONEST)
    honest = [it for it in outcomes if it.ask.client == HONEST and it.ask.at_s > first_s]
    good = [it for it in outcomes if it.end is End.ON_TIME]
    since_s = sum(load.own_s(it.ask) for it in good if it.ask.at_s > first_s)
    asked = [a for a in load.workload.asks if a.client == HONEST and a.at_s > first_s]
    asked_s = sum(map(load.own_s, asked))
    mine = [it for it in honest if it.end is End.ON_TIME]
    return Played(
        num_asked=len(honest),
        num_answered=len(mine),
        num_late=sum(it.end_s > it.ask.deadline_s + 1e-6 for it in honest),
        num_cut=sum(it.end in (End.CUT, End.EXPIRED) for it in honest),
        of_weight=sum(load.own_s(it.ask) for it in mine) / min(load.share * since_s, asked_s),
        num_sum=len(good),
        sum_s=sum(load.own_s(it.ask) for it in good),
    )


_MAKERS = {"account": one_account, "accounts": many_accounts}


def play_number(job: tuple[str, int, str]) -> Played:
    """Play a load by its name, factor and seed."""
    name, factor, seed = job
    return play(_MAKERS[name](random.Random(f"{name} {factor} {seed}"), factor))  # noqa: S311 - generated requests, no secret


def _jobs(name: str, factor: int, seed: int, count: int) -> list[tuple[str, int, str]]:
    return [(name, factor, f"{seed} {number}") for number in range(count)]


def row(name: str, factor: int, played: Sequence[Played]) -> list[str]:
    """Return the figures of some loads."""
    asked, answered = (
        sum(getattr(it, key) for it in played) for key in ("num_asked", "num_answered")
    )
    beside = f"one account, {factor} x" if name == "account" else f"{factor} accounts"
    return [
        beside,
        str(asked),
        f"{answered / asked:.1%}",
        str(sum(it.num_late for it in played)),
        str(sum(it.num_cut for it in played)),
        f"{sum(it.of_weight for it in played) / len(played):.1%}",
        str(sum(it.num_sum for it in played)),
        f"{sum(it.sum_s for it in played):.0f} s",
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--loads", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes")


def main(arguments: argparse.Namespace) -> int:
    """Play the loads, and print a table.

    Raises:
        UsageError: An option is wrong.
    """
    cells = [(name, factor) for name in _MAKERS for factor in FACTORS]
    count = arguments.loads // len(cells)
    if count < 1 or arguments.jobs < 1:
        raise UsageError(f"--loads: at least {len(cells)}; --jobs: at least 1")
    with ProcessPoolExecutor(arguments.jobs) as pool:
        rows = [
            row(
                name,
                factor,
                list(pool.map(play_number, _jobs(name, factor, arguments.seed, count))),
            )
            for name, factor in cells
        ]
    print(table(_COLUMNS, rows), end="")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(
        run("python -m benchmarks.simulate.shares", "benchmarks.simulate.shares", sys.argv[1:])
    )
