"""Which of the folders of a store serves, and by which steps that changes.

Each step is one change that is whole after a power cut, or has not happened. So a change may be cut
between any two of its steps; ``repair`` says what is then left to do.

Rule: pure. In every state between two steps, ``current`` is a folder that was accepted, or one on
trial whose fallback was.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any


class Place(Enum):
    """What a step changes."""

    CURRENT = "current"
    """Link to the folder that serves."""
    PREVIOUS = "previous"
    """Link to the one that served before and may serve again."""
    TRIAL = "trial.json"
    """Says that ``current`` was not accepted yet, and what to go back to."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A folder that serves and was not accepted yet."""

    candidate: str
    fallback: str
    """What served before, and was accepted."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change."""

    place: Place
    value: "str | Trial | None"
    """Id of a folder; None for nothing."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a store says; ids of folders."""

    current: str | None = None
    previous: str | None = None
    trial: Trial | None = None

    @property
    def is_on_trial(self) -> bool:
        """Whether what serves was not accepted yet."""
        return self.trial is not None and self.current == self.trial.candidate

    @property
    def needed(self) -> frozenset[str]:
        """The folders that must stay."""
        trial = () if self.trial is None else (self.trial.candidate, self.trial.fallback)
        return frozenset(one for one in (self.current, self.previous, *trial) if one is not None)

    def after(self, step: Step) -> "StoreState":
        """Return the state after a step."""
        value: Any = step.value
        match step.place:
            case Place.CURRENT:
                return replace(self, current=value)
            case Place.PREVIOUS:
                return replace(self, previous=value)
            case Place.TRIAL:
                return replace(self, trial=value)


def begin(state: StoreState, candidate: str) -> list[Step]:
    """Return the steps that have a folder serve on trial; the first of a store has none.

    Raises:
        ValueError: There is a trial already; it is ended by ``commit`` or ``roll_back``.
    """
    if state.trial is not None:
        raise ValueError("another one is on trial")
    if state.current is None:
        return [Step(Place.CURRENT, candidate)]
    if state.current == candidate:
        return []
    return [
        Step(Place.TRIAL, Trial(candidate, state.current)),
        Step(Place.CURRENT, candidate),
    ]


def commit(state: StoreState) -> list[Step]:
    """Return the steps that accept what is on trial; none where nothing is."""
    if state.trial is None or not state.is_on_trial:
        return []
    return [Step(Place.PREVIOUS, state.trial.fallback), Step(Place.TRIAL, None)]


def roll_back(state: StoreState) -> list[Step]:
    """Return the steps back to what served before.

    Raises:
        ValueError: There is nothing to go back to.
    """
    if state.trial is not None:
        back = [Step(Place.CURRENT, state.trial.fallback)] if state.is_on_trial else []
        return [*back, Step(Place.TRIAL, None)]
    if state.previous is None:
        raise ValueError("nothing served before")
    return [Step(Place.CURRENT, state.previous), Step(Place.PREVIOUS, state.current)]


def repair(state: StoreState) -> list[Step]:
    """Return the steps that end what a power cut left half done; none where nothing is."""
    trial = state.trial
    if trial is not None and state.current != trial.candidate:
        # Before it served, or after it was taken back.
        return [Step(Place.TRIAL, None)]
    if trial is not None and state.previous == trial.fallback:
        # It was being accepted.
        return [Step(Place.TRIAL, None)]
    if state.previous is not None and state.previous == state.current:
        # Taken back without a trial; what was taken back is not gone back to.
        return [Step(Place.PREVIOUS, None)]
    return []
