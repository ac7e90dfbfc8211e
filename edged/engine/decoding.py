"""One answer while it is decoded: its tokens, its slot, and how the next token is chosen.

Rule: no model here. An exception of a sampler or a constraint ends this answer alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.engine.drafts import Drafter
from edged.engine.sampling import Sampler
from edged.engine.slots import TokenIds
from edged.engine.steps import Constraint, DecodeInput, DecodingFailure, Token


@dataclass(eq=False)
class Decoding:
    """An answer that has a slot of the cache."""

    prompt: TokenIds
    sampler: Sampler
    slot: int
    num_cached: int
    """Tokens of the prompt whose keys and values were reused."""
    limit: int
    """Tokens of prompt and answer together, at most."""
    constraint: Constraint | None = None
    drafter: Drafter | None = None
    num_answered: int = 0
    """The last tokens of the prompt that are an interrupted answer."""
    level: int = 0
    """Priority: of several prompts, a chunk of the lowest level is run first."""
    is_over: bool = False
    """Whether no token follows."""

    def __post_init__(self) -> None:
        self.num_prefilled = self.num_cached
        self.num_tokens = len(self.prompt)
        """Of prompt and answer together."""
        self._last_id = -1

    @property
    def is_prefilled(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self.num_prefilled == len(self.prompt)

    @property
    def next_input(self) -> DecodeInput:
        """The token to be run next: the last one that was chosen."""
        return DecodeInput(self.slot, self._last_id, self.num_tokens - 1)

    def chunk(self, num_tokens: int) -> tuple[TokenIds, bool]:
        """Return the next prefill chunk, and whether it belongs to the prompt itself."""
        start, end = self.num_prefilled, len(self.prompt) - self.num_answered
        is_prefill = start < end
        # No chunk has tokens of both: the decode branch recomputes what it computed before.
        end = end if is_prefill else len(self.prompt)
        return self.prompt[start : min(start + num_tokens, end)], is_prefill

    def draft(self) -> list[int]:
        """Return a draft of the tokens after the next one."""
        if self.drafter is None:
            return []
        # The pass chooses one token more than was drafted, and positions end at the limit.
        return self.drafter.draft(self.limit - self.num_tokens - 1)

    def choose(
        self, logits: NDArray[np.float32], stop_token_ids: Sequence[int]
    ) -> Token | DecodingFailure:
        """Choose the next token from the logits ``[vocabulary]``, which are overwritten."""
        constraint, is_complete = self.constraint, False
        try:
            if constraint is not None:
                constraint.allowed(logits)
            token_id = self.sampler.choose(logits)
            if constraint is not None:
                constraint.advance(token_id)
                is_complete = constraint.is_complete
        except Exception as error:  # noqa: BLE001 - ends this answer; the others go on
            self.is_over = True
            return DecodingFailure(error)
        is_stop = token_id in stop_token_ids
        self._last_id = token_id
        self.num_tokens += 1
        if self.drafter is not None:
            self.drafter.push(token_id)
        self.is_over = is_stop or is_complete or self.num_tokens == self.limit
        return Token(token_id, is_stop)
