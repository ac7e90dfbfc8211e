"""What the generation loop yields, and what it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from edged.engine.decoding import Decoding


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the model is run on this device."""

    max_model_len: int
    """Prompt and answer together; cut to what the model was made for."""
    num_threads: int | None = None
    """None takes the CPUs that this process may use."""
    prefill_chunk_tokens: int = 64
    """Prompt tokens run before the consumer can stop the request again."""
    num_slots: int = 1
    """Answers that are made at the same time."""
    num_prefixes: int = 0
    """Beginnings of prompts that are kept for good, each with a place in the cache."""
    is_guessing: bool = True
    """Whether tokens may be guessed, where that changes no answer."""
    has_flash: bool | None = None
    """Whether attention may be computed in tiles; None does so for a cache in fp32, where it is
    faster on most processors, and not for one in int8."""
    model_path: Path | None = None
    """A prepared copy of the bundle's graph; None takes the bundle's own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One token of one sequence, to be run together with others."""

    slot: int
    token_id: int
    position: int


@dataclass(frozen=True, slots=True)
class Prefilled:
    """One chunk of the prompt is in the cache."""

    num_tokens: int
    """Prompt tokens done so far, reused ones included."""
    cached_tokens: int
    """Of these, the tokens whose keys and values were there before."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the answer."""

    token_id: int
    is_stop: bool
    """Whether it is one of the model's stop tokens, and so not part of the text."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer cannot go on, for a reason of its own: its sampler or its format raised."""

    error: Exception


Step = Prefilled | Token | Failed
"""What a run of the model did for one answer."""


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of the model."""

    outcomes: Mapping["Decoding", Sequence[Step]]
    """What it did for each answer that had a part in it, in order."""
    num_rows: int = 0
    """Tokens that were run, guessed ones among them; 0 for a piece of a prompt."""
    num_pairs: int = 0
    """For each of these the tokens before it, summed up."""


class Constraint(Protocol):
    """What the answer is held to, token by token."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        ...

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Overwrite the logits ``[vocabulary]`` of all tokens that may not come next with -inf."""
        ...

    def advance(self, token_id: int) -> None:
        """Take in the chosen token."""
        ...
