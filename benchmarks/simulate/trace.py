"""Workloads of simulated nodes: requests with their times, and the slowdown of the device.

A trace file has one JSON object per line; ``at_s`` is required, the other keys have defaults.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from edged.errors import UsageError
from edged.protocol.request import Priority
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.schedulability import Work

REFERENCE = CostEstimate(
    prefill_token_s=5.3e-3,
    decode_token_s=21e-3,
    prefill_pair_s=4.0e-6,
    decode_pair_s=5.5e-6,
    decode_row_s=0.8e-3,
    run_s=46e-3,
    chunk_tokens=64,
)
"""SmolLM2-135M in int8 on two busy cores, measured by the daemon; ``--cost`` takes the costs of
another device."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, with facts that only the simulation knows."""

    at_s: float
    client: str = "client"
    priority: str = "normal"
    prompt_tokens: int = 60
    max_tokens: int = 64
    output_tokens: int = 64
    """Tokens after which the model stops by itself."""
    timeout_s: float = 30.0
    noise: float = 1.0
    """Actual duration relative to the predicted one."""

    @property
    def level(self) -> Priority:
        """The priority class."""
        return Priority[self.priority.upper()]

    @property
    def deadline_s(self) -> float:
        """Deadline of the answer."""
        return self.at_s + self.timeout_s

    @property
    def wanted_tokens(self) -> int:
        """Length of the complete answer."""
        return min(self.output_tokens, self.max_tokens)

    def work_s(self, device: CostEstimate, num_slots: int) -> float:
        """Return the lowest cost of the complete answer at the initial speed of the device.

        That is its even share of forward passes with a full batch.
        """
        num_runs = max(self.wanted_tokens - 1, 0)
        alone_s = Work.of(self.prompt_tokens, self.wanted_tokens).alone_s(device)
        full_s = device.decode_token_s + (num_slots - 1) * device.decode_row_s
        saved_s = num_runs * (device.decode_token_s - full_s / num_slots)
        return self.noise * (alone_s - saved_s)


def _steady(_at_s: float) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival, on one device."""

    name: str
    asks: list[Ask]
    num_slots: int = 1
    """Answers in a batch."""
    slowdown: Callable[[float], float] = _steady
    """Factor of all durations, by time."""


def read_trace(file: Path) -> Workload:
    """Read a trace file.

    Raises:
        UsageError: It cannot be read, or a line is not a request; the message names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--trace {file}: cannot be read: {error}") from error
    asks = [_read_line(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return Workload(file.name, sorted(asks, key=lambda ask: ask.at_s))


def write_trace(asks: Iterable[Ask]) -> str:
    """Return the lines of a trace file."""
    return "".join(json.dumps(asdict(ask)) + "\n" for ask in asks)


def _read_line(file: Path, number: int, line: str) -> Ask:
    where = f"--trace {file}:{number}"
    try:
        members = json.loads(line)
        ask = Ask(**members)
        is_sane = ask.prompt_tokens > 0 and ask.max_tokens > 0 and ask.timeout_s > 0
        is_known = ask.priority.upper() in Priority.__members__
    except (ValueError, TypeError, AttributeError) as error:
        known = ", ".join(item.name for item in fields(Ask))
        raise UsageError(f"{where}: not a request ({error}); its keys are {known}") from error
    if not (is_sane and is_known):
        raise UsageError(f"{where}: tokens and timeout must be above 0, priority a known class")
    return ask
