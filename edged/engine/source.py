"""The engine as its consumer sees it.

Rule: a protocol only, so that a test can stand in for a model.
"""

from collections.abc import Sequence as Items
from typing import Protocol

from edged.engine.sequence import Sequence
from edged.engine.steps import Constraint, Ran
from edged.request import SamplingParams


class StepSource(Protocol):
    """The part of ``Engine`` that makes answers."""

    @property
    def num_touched(self) -> int:
        """Positions for which every slot has memory already; see ``Engine.num_touched``."""
        ...

    def start(
        self,
        prompt_ids: Items[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
        num_answered: int = 0,
    ) -> Sequence:
        """Begin an answer; see ``Engine.start``."""
        ...

    def step(self) -> Ran:
        """Run the model once; see ``Engine.step``."""
        ...

    def end(self, sequence: Sequence) -> None:
        """Give an answer's place back; see ``Engine.end``."""
        ...

    def interrupt(self, sequence: Sequence) -> None:
        """Break off a piece of a prompt that is being run; see ``Engine.interrupt``."""
        ...

    def release(self) -> None:
        """Give the memory of the prefix cache back; see ``Engine.release``."""
        ...
