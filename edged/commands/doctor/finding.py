"""What a check found."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WARNING = "warning"
    """Works, but not as well as it could, or could not be looked at."""
    FAILURE = "failure"
    """Does not work, or does not keep a promise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """Its name, for scripts."""
    level: Level
    said: str
    """One line for a person."""
    advice: str | None = None
    """What to do; always there unless ``level`` is ``ok``."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, with units in the names."""

    def members(self) -> dict[str, Any]:
        """Give the finding for JSON."""
        return {
            "check": self.check,
            "level": self.level.value,
            "said": self.said,
            "advice": self.advice,
            "figures": dict(self.figures),
        }


def good(check: str, said: str, **figures: object) -> Finding:
    """Make a finding that needs no advice."""
    return Finding(check, Level.OK, said, None, figures)


def warning(check: str, said: str, advice: str, **figures: object) -> Finding:
    """Make a finding that somebody should look at some day."""
    return Finding(check, Level.WARNING, said, advice, figures)


def failure(check: str, said: str, advice: str, **figures: object) -> Finding:
    """Make a finding that somebody must act on."""
    return Finding(check, Level.FAILURE, said, advice, figures)
