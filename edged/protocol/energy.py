"""The energy of an answer: measured where the processor has a counter, otherwise modelled.

Rule: no clock and no I/O; a figure always names its source.
"""

from dataclasses import dataclass
from enum import StrEnum


class EnergySource(StrEnum):
    """Source of a figure."""

    RAPL = "rapl"
    """The processor's energy counter: includes everything else that ran on it."""
    MODEL = "model"
    """Time x threads x the declared watts per thread."""


@dataclass(frozen=True, slots=True)
class Energy:
    """The energy of one answer."""

    joules: float
    source: EnergySource


def add(one: Energy | None, other: Energy | None) -> Energy | None:
    """Return the energy of two parts of one answer, labelled with the weaker source."""
    if one is None or other is None:
        return one or other
    is_measured = one.source is other.source is EnergySource.RAPL
    source = EnergySource.RAPL if is_measured else EnergySource.MODEL
    return Energy(one.joules + other.joules, source)


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """Energy of a computation.

    Args:
        watts_per_thread: Declared power of a busy thread above idle; None if not declared.
        num_threads: Threads that compute.
    """

    watts_per_thread: float | None
    num_threads: int

    def of_run(
        self, seconds: float, before_j: float | None = None, after_j: float | None = None
    ) -> Energy | None:
        """Return the energy of one run; None when neither measured nor declared.

        Args:
            seconds: Duration of the run.
            before_j: The energy counter before it, if there is one; it wraps around.
            after_j: The energy counter after it.
        """
        if before_j is not None and after_j is not None and after_j > before_j:
            return Energy(after_j - before_j, EnergySource.RAPL)
        if self.watts_per_thread is None:
            return None
        return Energy(self.watts_per_thread * self.num_threads * seconds, EnergySource.MODEL)
