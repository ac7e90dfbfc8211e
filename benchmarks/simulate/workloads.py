"""Generated workloads: a home, a factory line, overload, a flood, a throttled device.

Rule: deterministic: the same name, seed and device give exactly the same requests.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.simulate.trace import Ask, Workload
from edged.scheduling.latency_model import CostEstimate

HOURS = 4.0
_NOISE_SIGMA = 0.05
_OVERLOAD = 4.0
_FLOOD = 6.0
_CALM = 0.4
_THROTTLED = 2.5


@dataclass(frozen=True, slots=True)
class Device:
    """The device that a workload is generated for."""

    cost: CostEstimate
    num_slots: int


def make_workload(name: str, seed: int, device: Device, hours: float = HOURS) -> Workload:
    """Return the requests of a named workload; a ``KeyError`` for an unknown one."""
    maker = WORKLOADS[name]
    rng = random.Random(f"{name} {seed}")  # noqa: S311 - generated requests, no secret
    asks = sorted(maker(rng, hours * 3600, device), key=lambda ask: ask.at_s)
    if name == "throttle":
        return Workload(name, asks, device.num_slots, lambda at_s: _throttle(at_s, hours * 3600))
    return Workload(name, asks, device.num_slots)


def _throttle(at_s: float, length_s: float) -> float:
    """Return the slowdown: rising for a quarter of the time, constant for half, then none."""
    part = at_s / length_s
    if part >= 0.75:  # noqa: PLR2004 - the last quarter
        return 1.0
    return 1 + (_THROTTLED - 1) * min(part / 0.25, 1.0)


def _person(rng: random.Random, length_s: float, every_s: float, name: str) -> Iterator[Ask]:
    """Yield the requests of a person, about one every ``every_s``."""
    at_s = rng.expovariate(1 / every_s)
    while at_s < length_s:
        yield Ask(
            at_s,
            name,
            "interactive",
            prompt_tokens=rng.randint(30, 200),
            max_tokens=96,
            output_tokens=round(rng.triangular(5, 120, 40)),
            timeout_s=20.0,
            noise=_noise(rng),
        )
        at_s += rng.expovariate(1 / every_s)


def _machines(
    rng: random.Random, length_s: float, load: float, device: Device, clients: int
) -> Iterator[Ask]:
    """Yield normal and background requests of several clients at ``load`` times the capacity."""
    work_s, at_s = 0.0, 0.0
    while at_s < length_s:
        is_background = rng.random() < 0.5  # noqa: PLR2004 - half and half
        ask = Ask(
            at_s,
            f"machine-{rng.randrange(clients)}",
            "background" if is_background else "normal",
            prompt_tokens=rng.randint(40, 400),
            max_tokens=64,
            output_tokens=round(rng.triangular(4, 80, 40)),
            timeout_s=rng.choice((60.0, 120.0)) if is_background else rng.choice((15.0, 30.0)),
            noise=_noise(rng),
        )
        yield ask
        mean_s = ask.work_s(device.cost, device.num_slots)
        work_s += mean_s
        at_s += rng.expovariate(1.0) * mean_s / load


def _home(rng: random.Random, length_s: float, device: Device) -> Iterator[Ask]:
    for name in ("hall", "kitchen"):
        yield from _person(rng, length_s, 240.0, name)
    yield from _machines(rng, length_s, 0.05, device, 3)


def _factory(rng: random.Random, length_s: float, device: Device) -> Iterator[Ask]:
    """Six stations with one check each 15 s, an alarm burst each 10 min, and an operator."""
    _ = device
    for station in range(6):
        for beat in range(int(length_s // 15)):
            yield Ask(
                beat * 15 + station * 2.5 + rng.uniform(0, 0.2),
                f"station-{station}",
                prompt_tokens=rng.randint(60, 90),
                max_tokens=32,
                output_tokens=rng.randint(8, 24),
                timeout_s=10.0,
                noise=_noise(rng),
            )
    for burst in range(int(length_s // 600)):
        for alarm in range(24):
            yield Ask(
                burst * 600 + 300 + rng.uniform(0, 1),
                f"alarm-{alarm % 4}",
                "background",
                prompt_tokens=120,
                max_tokens=64,
                output_tokens=48,
                timeout_s=90.0,
                noise=_noise(rng),
            )
    yield from _person(rng, length_s, 120.0, "operator")


def _overload(rng: random.Random, length_s: float, device: Device) -> Iterator[Ask]:
    yield from _person(rng, length_s, 120.0, "person")
    yield from _machines(rng, length_s, _OVERLOAD, device, 8)


def _flooded(rng: random.Random, length_s: float, device: Device) -> Iterator[Ask]:
    """Four well-behaved clients at 40 % load, and one that floods the node."""
    yield from _person(rng, length_s, 120.0, "person")
    yield from _machines(rng, length_s, _CALM, device, 4)
    for ask in _machines(rng, length_s, _FLOOD, device, 1):
        yield Ask(ask.at_s, "flood", "normal", ask.prompt_tokens, 64, ask.output_tokens, 30.0)


def _hot(rng: random.Random, length_s: float, device: Device) -> Iterator[Ask]:
    yield from _person(rng, length_s, 120.0, "person")
    yield from _machines(rng, length_s, 0.7, device, 4)


def _noise(rng: random.Random) -> float:
    return rng.lognormvariate(0.0, _NOISE_SIGMA)


WORKLOADS: dict[str, Callable[[random.Random, float, Device], Iterator[Ask]]] = {
    "home": _home,
    "factory": _factory,
    "overload": _overload,
    "flood": _flooded,
    "throttle": _hot,
}
