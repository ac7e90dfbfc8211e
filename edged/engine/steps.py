"""What the generation loop is given, and the steps of an answer that it returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edged.specialists.adapter import Adapter


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
    """The graph that takes adapters, or a prepared copy; None takes the bundle's ``model.onnx``."""
    batch_tokens: int = 0
    """Tokens of a run that reads several prompts while no answer waits for its next token, at most;
    never below a chunk."""


class InterruptedRunError(RuntimeError):
    """A run was interrupted on request; what it wrote into the cache must not be used."""


@dataclass(frozen=True, slots=True)
class DecodeInput:
    """The next tokens of one sequence, to be run in a batch."""

    slot: int
    token_id: int
    position: int
    following: Sequence[int] = ()
    """Tokens behind it that are known already."""


class PromptOrigin(NamedTuple):
    """Where a prompt comes from, and what reads it."""

    user: str | None = None
    """Whose it is; None for all without an account."""
    num_answered: int = 0
    """Its last tokens that are the answer so far of an interrupted request."""
    adapter: "Adapter | None" = None
    """What a specialist adds to the model for it."""

    @property
    def adapter_key(self) -> str | None:
        """What distinguishes the keys and values that the adapter computes."""
        return None if self.adapter is None else self.adapter.key


NO_ORIGIN = PromptOrigin()


@dataclass(frozen=True, slots=True)
class Prefilled:
    """One chunk of the prompt is in the cache."""

    num_tokens: int
    """Prompt tokens in the cache so far, reused ones included."""
    cached_tokens: int
    """Of these, the tokens whose keys and values were reused."""
    num_beside: int = 0
    """Further tokens in the same run: of other prompts, and padding."""
    num_foreign: int = 0
    """Of the reused tokens, those that only other users have asked before."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of the answer."""

    token_id: int
    is_stop: bool
    """Whether it is one of the model's stop tokens, and so not part of the text."""
    log_probability: float = 0.0
    """Of it among all tokens that could come, where an adapter wrote it."""


# What one forward pass did for one answer. After an exception, which its own sampler or constraint
# raised, it cannot go on.
Step = Prefilled | Token | Exception
