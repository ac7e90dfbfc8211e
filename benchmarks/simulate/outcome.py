"""How simulated requests ended, whatever the policy was."""

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.simulate.trace import Ask


class End(StrEnum):
    """What became of a request."""

    ON_TIME = "on time"
    """The whole answer, before the deadline."""
    CUT = "cut"
    """Ended at the deadline with what there was."""
    EXPIRED = "expired"
    """Ended at the deadline with nothing, after it had been taken in."""
    REFUSED = "refused"
    """Refused at once."""
    LATE = "late"
    """Answered after the deadline."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request and its end."""

    ask: Ask
    end: End
    end_s: float
    ttft_s: float | None = None
    """From arrival to the first token; None without one."""
