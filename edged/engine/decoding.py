"""One answer while it is decoded: its tokens, its slot, and how the next token is chosen.

Rule: no model here. An exception of a sampler or a constraint ends this answer alone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.engine.drafts import Drafter
from edged.engine.sampling import Sampler
from edged.engine.slots import Claim, TokenIds
from edged.engine.steps import Constraint, DecodeInput, DecodingFailure, Token


class Decoding:
    """An answer that has a slot of the cache.

    Args:
        prompt: token ids.
        claim: its slot.
        sampler: chooses tokens.
        limit: tokens of prompt and answer together, at most.
        constraint: the format of the answer.
        drafter: drafts its next tokens.
    """

    def __init__(
        self,
        prompt: TokenIds,
        claim: Claim,
        sampler: Sampler,
        limit: int,
        constraint: Constraint | None,
        drafter: Drafter | None = None,
    ) -> None:
        self.prompt = prompt
        self.slot = claim.slot
        self.num_cached = claim.num_cached
        self.num_prefilled = claim.num_cached
        self.num_tokens = len(prompt)
        """Of prompt and answer together."""
        self.is_over = False
        """Whether no token follows."""
        self.num_answered = 0
        """The last tokens of the prompt that are an interrupted answer."""
        self.drafter = drafter
        self.level = 0
        """Priority: of several prompts, a chunk of the lowest level is run first."""
        self._last_id = -1
        self._sampler = sampler
        self._limit = limit
        self._constraint = constraint

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
        return self.drafter.draft(self._limit - self.num_tokens - 1)

    def choose(
        self, logits: NDArray[np.float32], stop_token_ids: Sequence[int]
    ) -> Token | DecodingFailure:
        """Choose the next token from the logits ``[vocabulary]``, which are overwritten."""
        try:
            token_id = self._choose(logits)
            is_complete = self._constraint is not None and self._constraint.is_complete
        except Exception as error:  # noqa: BLE001 - ends this answer; the others go on
            self.is_over = True
            return DecodingFailure(error)
        is_stop = token_id in stop_token_ids
        self._last_id = token_id
        self.num_tokens += 1
        if self.drafter is not None:
            self.drafter.push(token_id)
        self.is_over = is_stop or is_complete or self.num_tokens == self._limit
        return Token(token_id, is_stop)

    def _choose(self, logits: NDArray[np.float32]) -> int:
        if self._constraint is None:
            return self._sampler.choose(logits)
        self._constraint.allowed(logits)
        token_id = self._sampler.choose(logits)
        self._constraint.advance(token_id)
        return token_id
