"""Time and energy of a forward pass, attributed to the answers that had a part in it.

Rule: no clock and no I/O but the counter; an energy figure always names its source.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from edged.engine.decoding import ForwardPass
from edged.engine.steps import Prefilled
from edged.node.generation import Generation
from edged.protocol.request import Energy, EnergySource


@dataclass(frozen=True, slots=True)
class EnergyMeter:
    """Measure energy where the processor has a counter, and estimate it elsewhere.

    Args:
        read_joules: The processor's energy counter; None without one.
        watts_per_thread: Declared power of a busy thread above idle; None if not declared.
        num_threads: Threads that compute.
    """

    read_joules: Callable[[], float | None] = lambda: None
    watts_per_thread: float | None = None
    num_threads: int = 1

    def of_pass(
        self, seconds: float, before_j: float | None, after_j: float | None
    ) -> Energy | None:
        """Return the energy of one pass, with the counter before and after it, if there is one.

        None when neither measured nor declared.
        """
        # The counter wraps around about once an hour; then the estimate has to do.
        if before_j is not None and after_j is not None and after_j > before_j:
            return Energy(after_j - before_j, EnergySource.RAPL)
        if self.watts_per_thread is None:
            return None
        return Energy(self.watts_per_thread * self.num_threads * seconds, EnergySource.MODEL)


def add(one: Energy | None, other: Energy | None) -> Energy | None:
    """Return the energy of two parts of one answer, labelled with the weaker source."""
    if one is None or other is None:
        return one or other
    is_measured = one.source is other.source is EnergySource.RAPL
    source = EnergySource.RAPL if is_measured else EnergySource.MODEL
    return Energy(one.joules + other.joules, source)


def account(
    ran: ForwardPass, seconds: float, energy: Energy | None, generations: Iterable[Generation]
) -> None:
    """Attribute one forward pass to its generations; others are left as they are."""
    share = None
    if energy is not None:
        share = replace(energy, joules=energy.joules / max(len(ran.outcomes), 1))
    for run in generations:
        if run.decoding is None or run.decoding not in ran.outcomes:
            continue
        run.energy = add(run.energy, share)
        steps = ran.outcomes[run.decoding]
        # A pass of an option is no token of a prompt or an answer: it says what neither costs.
        if not steps:
            continue
        # Energy is divided, time is not: each generation waited for the whole pass.
        if not ran.num_rows:
            run.spent.prefill_s += seconds
            beside = (step.num_beside for step in steps if isinstance(step, Prefilled))
            run.spent.num_coprefilled_tokens += sum(beside)
            continue
        run.spent.decode_s += seconds
        run.spent.decode_runs += 1
        run.spent.num_cobatched_tokens += ran.num_rows - 1
        own_pairs = run.decoding.num_tokens - len(steps)
        run.spent.num_cobatched_pairs += ran.num_pairs - own_pairs
