"""The result of a check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """Works, but could be better, or could not be checked."""
    FAILURE = "failure"
    """Does not work, or violates a guarantee."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    """Name of the check, for scripts."""
    level: Level
    said: str
    """One line for a person."""
    advice: str | None = None
    """What to do; None only if ``level`` is ``ok``."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Measurements, with units in the names."""

    def members(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return {
            "check": self.check,
            "level": self.level.value,
            "said": self.said,
            "advice": self.advice,
            "figures": dict(self.figures),
        }


def good(check: str, said: str, **figures: object) -> Finding:
    """Return a finding without a problem."""
    return Finding(check, Level.OK, said, None, figures)


def warning(check: str, said: str, advice: str, **figures: object) -> Finding:
    """Return a finding that should be looked at."""
    return Finding(check, Level.WARNING, said, advice, figures)


def failure(check: str, said: str, advice: str, **figures: object) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(check, Level.FAILURE, said, advice, figures)
