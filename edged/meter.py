"""What a run of the model took, written down to the answers that had a part in it.

Rule: no clock; time and the energy counter are read by the caller.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from edged.energy import Energy, EnergyModel, add
from edged.engine import Ran, Sequence
from edged.generation import Generation


@dataclass(frozen=True, slots=True)
class Meter:
    """What energy is known from."""

    read_joules: Callable[[], float | None]
    """The processor's counter; None without one."""
    model: EnergyModel


def account(
    ran: Ran, seconds: float, energy: Energy | None, runs: Mapping[Sequence, Generation]
) -> None:
    """Write one run of the model down to its answers, its energy in equal parts.

    Args:
        ran: what was run.
        seconds: how long it took.
        energy: what it took; None where that is not known.
        runs: the answers in the making, by their sequences.
    """
    share = energy and replace(energy, joules=energy.joules / max(len(ran.outcomes), 1))
    for sequence, steps in ran.outcomes.items():
        run = runs[sequence]
        run.energy = add(run.energy, share)
        if not ran.num_rows:
            run.spent.prefill_s += seconds
            continue
        run.spent.decode_s += seconds
        run.spent.decode_runs += 1
        run.spent.rows_beside += ran.num_rows - 1
        own_pairs = sequence.num_tokens - len(steps)
        run.spent.pairs_beside += ran.num_pairs - own_pairs
