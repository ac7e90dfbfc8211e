"""Outcomes of simulated requests, for all policies."""

from dataclasses import dataclass
from enum import StrEnum

from benchmarks.simulate.trace import Ask


class End(StrEnum):
    """How a request ended."""

    ON_TIME = "on time"
    """Complete answer before the deadline."""
    CUT = "cut"
    """Partial answer at the deadline."""
    EXPIRED = "expired"
    """Accepted, but without a token at the deadline."""
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
    retry_after_s: float | None = None
    """When to ask again, as a refusal says."""
