"""What an answer took in energy: measured where the processor tells, else a model that says so.

Rule: no clock and no I/O; a figure never stands without its source.
"""

from dataclasses import dataclass
from enum import StrEnum


class EnergySource(StrEnum):
    """Where a figure comes from."""

    RAPL = "rapl"
    """The processor's own counter: everything that ran on it meanwhile, not the answer alone."""
    MODEL = "model"
    """Time and threads times the watts that the operator declared."""


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of one answer."""

    joules: float
    source: EnergySource


def add(one: Energy | None, other: Energy | None) -> Energy | None:
    """Return the energy of two stretches of one answer; the weaker source names both."""
    if one is None or other is None:
        return one or other
    is_measured = one.source is other.source is EnergySource.RAPL
    source = EnergySource.RAPL if is_measured else EnergySource.MODEL
    return Energy(one.joules + other.joules, source)


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """Account for energy.

    Args:
        watts_per_thread: What a busy thread draws beyond idle, as declared; None declares nothing.
        num_threads: Threads that compute.
    """

    watts_per_thread: float | None
    num_threads: int

    def of_run(
        self, seconds: float, before_j: float | None = None, after_j: float | None = None
    ) -> Energy | None:
        """Return what a run took; None where nothing tells.

        Args:
            seconds: How long it computed.
            before_j: The counter before it, where there is one; it wraps around.
            after_j: The counter after it.
        """
        if before_j is not None and after_j is not None and after_j > before_j:
            return Energy(after_j - before_j, EnergySource.RAPL)
        if self.watts_per_thread is None:
            return None
        return Energy(self.watts_per_thread * self.num_threads * seconds, EnergySource.MODEL)
