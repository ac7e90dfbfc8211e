"""What the generation loop is given, and what each forward pass of the model returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edged.engine.decoding import Decoding


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the model is run on this device."""

    max_model_len: int
    """Prompt and answer together; reduced to the model's own limit."""
    num_threads: int | None = None
    """None takes the CPUs that this process may use."""
    prefill_chunk_tokens: int = 64
    """Prompt tokens run before the consumer can stop the request again."""
    num_slots: int = 1
    """Answers decoded at the same time."""
    num_prefixes: int = 0
    """Prompt prefixes that are kept permanently, each in a slot of its own."""
    is_guessing: bool = True
    """Whether tokens may be drafted (speculative decoding), where that changes no answer."""
    has_flash: bool | None = None
    """Whether attention is computed in tiles; None does so for an fp32 cache, where it is faster on
    most processors, and not for an int8 cache."""
    model_path: Path | None = None
    """A prepared copy of the bundle's graph; None takes the bundle's own."""


class InterruptedRunError(RuntimeError):
    """A run was interrupted on request; what it wrote into the cache must not be used."""


@dataclass(frozen=True, slots=True)
class DecodeInput:
    """One token of one sequence, to be run in a batch."""

    slot: int
    token_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """One chunk of the prompt is in the cache."""

    num_tokens: int
    """Prompt tokens in the cache so far, reused ones included."""
    cached_tokens: int
    """Of these, the tokens whose keys and values were reused."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the answer."""

    token_id: int
    is_stop: bool
    """Whether it is one of the model's stop tokens, and so not part of the text."""


@dataclass(frozen=True, slots=True)
class DecodingFailure:
    """The answer cannot go on because its own sampler or constraint raised."""

    error: Exception


# What one forward pass did for one answer.
Step = Prefilled | Token | DecodingFailure


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One run of the model."""

    outcomes: Mapping["Decoding", Sequence[Step]]
    """The steps of each answer in the batch, in order."""
    num_rows: int = 0
    """Tokens decoded, drafted ones included; 0 for a prefill chunk."""
    num_pairs: int = 0
    """Query-key pairs of attention: the positions before each decoded token, added up."""


class Constraint(Protocol):
    """The format of an answer, enforced token by token."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        ...

    def allowed(self, logits: "NDArray[np.float32]") -> None:
        """Overwrite the logits ``[vocabulary]`` of all tokens that may not come next with -inf."""
        ...

    def advance(self, token_id: int) -> None:
        """Append the chosen token."""
        ...
