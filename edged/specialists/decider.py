"""What decides a request that specialists answer: a contract of node and specialists.

Rule: loads no library, as what is decided about a request needs none.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from edged.protocol.request import Answer, FinishReason

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edged.specialists.adapter import Adapter

# Tokens of an option in one pass: each gives a row of logits, and others may have the next pass.
MAX_PASS_TOKENS = 16


class Reader(Protocol):
    """Takes what a run gives instead of an answer."""

    @property
    def num_before(self) -> int:
        """First tokens of the prompt that give nothing."""

    def add(self, rows: "NDArray[np.float32]") -> None:
        """Take the hidden states ``[tokens, width]`` of the next tokens; of options, logits."""

    def features(self) -> "NDArray[Any]":
        """Return what was read, when all tokens were added."""


class Answers(Protocol):
    """What the texts of a specialist that writes say; for one request."""

    @property
    def adapter(self) -> "Adapter":
        """What is added to the model while an answer is written."""

    def answer(self, text: str, log_probability: float, reason: FinishReason) -> Answer:
        """Return the answer that a text is, which ended for this reason."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the model."""

    prompt_ids: Sequence[int]
    new_reader: Callable[[], Reader] | None = None
    """None: an answer is written."""
    options: Sequence[Sequence[int]] = ()
    """Tokens that are run behind the prompt, one option at a time from the same place."""
    answers: Answers | None = None
    """Of the specialist that writes the answer; None where the plain model does."""
    constraint: Any = None
    """The engine's ``Constraint`` of what is written; None where anything may be."""
    max_tokens: int | None = None
    """Of what is written, at most; None: as many as the request allows."""

    @property
    def num_positions(self) -> int:
        """Tokens that are in the cache at a time, at most."""
        # The last token of an option is never run.
        return len(self.prompt_ids) + max((len(option) - 1 for option in self.options), default=0)


Read: TypeAlias = Reader | Answer
"""What a run gave: what was read, or what was written."""


class Decider(Protocol):
    """Decides one request, run by run."""

    @property
    def runs(self) -> Sequence[Run]:
        """All runs that it may take."""

    @property
    def num_needed(self) -> int:
        """How many of them, from the first on, any answer needs."""

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        """Return the next run, or the answer; ``readers`` are what the runs so far gave.

        Unless it ``may_go_on``, it returns an answer as soon as ``num_needed`` runs were made.
        """


def features_of(read: Read) -> "NDArray[Any]":
    """Return the features of a run that was read."""
    assert not isinstance(read, Answer)  # noqa: S101 - the decider knows its runs
    return read.features()


@dataclass(frozen=True, slots=True)
class Said:
    """What a specialist answered to a prompt."""

    answer: Any
    """A label, None for none of them, or the answer's JSON."""
    is_unsure: bool
    """Whether it was a guess."""


@dataclass(frozen=True, slots=True)
class SpecialistAnswer:
    """A part of an answer that a specialist was asked for."""

    specialist: str | None
    """Who said it; None where none fits, or the plain model wrote it."""
    said: Said
    is_passed_on: bool
    """Whether one was unsure, and another one answered."""


def specialist_answers(answer: Answer) -> list[SpecialistAnswer]:
    """Return what specialists were asked for: a decision, or one for each such question."""
    own = {"text": answer.text, "json": answer.json, "finish_reason": answer.finish_reason}
    parts = [own | answer.detail, *answer.detail.get("answers", {}).values()]
    return [_specialist_answer(part) for part in parts if "specialist" in part]


def _specialist_answer(part: Mapping[str, Any]) -> SpecialistAnswer:
    json = part.get("json")
    said = Said((part["text"] or None) if json is None else json, _is_unsure(part))
    is_passed_on = bool(part.keys() & {"escalated_from", "escalated_to"})
    return SpecialistAnswer(part["specialist"], said, is_passed_on)


def _is_unsure(part: Mapping[str, Any]) -> bool:
    return bool(part["finish_reason"] == FinishReason.UNSURE)
