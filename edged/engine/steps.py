"""What the generation loop yields, and what it is given."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the model is run on this device."""

    max_model_len: int
    """Prompt and answer together; cut to what the model was made for."""
    num_threads: int | None = None
    """None takes the CPUs that this process may use."""
    prefill_chunk_tokens: int = 64
    """Prompt tokens run before the consumer can stop the request again."""
    model_path: Path | None = None
    """A prepared copy of the bundle's graph; None takes the bundle's own."""


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
