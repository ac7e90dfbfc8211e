"""One answer in the making, as the engine sees it: its tokens, its place, what chooses the next.

Rule: no model here. What its sampler or its format raises is the outcome of this answer alone.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edged.engine.drafts import Drafter
from edged.engine.sampling import Sampler
from edged.engine.slots import Claim, Tokens
from edged.engine.steps import Constraint, Failed, Ran, Row, Token
from edged.protocol.request import SamplingParams


class Decoding:
    """An answer that has a slot of the cache.

    Args:
        prompt: token ids.
        claim: its place.
        sampler: chooses tokens.
        limit: tokens of prompt and answer together, at most.
        constraint: what the answer is held to.
        drafter: what guesses its next tokens.
    """

    def __init__(
        self,
        prompt: Tokens,
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
        """Of the prompt's tokens, the last ones: an answer so far, which was interrupted."""
        self.drafter = drafter
        self.level = 0
        """How urgent it is: of several prompts, a piece of the lowest level is run first."""
        self._last_id = -1
        self._sampler = sampler
        self._limit = limit
        self._constraint = constraint

    @property
    def is_prefilled(self) -> bool:
        """Whether all of the prompt was run."""
        return self.num_prefilled == len(self.prompt)

    @property
    def row(self) -> Row:
        """The token to be run next: the last one that was chosen."""
        return Row(self.slot, self._last_id, self.num_tokens - 1)

    def chunk(self, num_tokens: int) -> tuple[Tokens, bool]:
        """Return the next piece that was not run, and whether it is of the prompt itself."""
        start, end = self.num_prefilled, len(self.prompt) - self.num_answered
        is_prompt = start < end
        end = end if is_prompt else len(self.prompt)
        return self.prompt[start : min(start + num_tokens, end)], is_prompt

    def draft(self) -> list[int]:
        """Return a guess of the tokens after the next one."""
        if self.drafter is None:
            return []
        # The run chooses one token more than was guessed, and positions end at the limit.
        return self.drafter.draft(self._limit - self.num_tokens - 1)

    def learn(self, num_drafted: int, num_right: int) -> None:
        """Note how a guess ended."""
        if self.drafter is not None:
            self.drafter.learn(num_drafted, num_right)

    def choose(self, logits: NDArray[np.float32], stop_token_ids: Sequence[int]) -> Token | Failed:
        """Choose the next token from the logits ``[vocabulary]``, which are overwritten."""
        try:
            token_id = self._choose(logits)
            is_complete = self._constraint is not None and self._constraint.is_complete
        except Exception as error:  # noqa: BLE001 - this answer's own; the others go on
            self.is_over = True
            return Failed(error)
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


def check_prompt(prompt: Tokens, max_tokens: int, max_model_len: int, vocab_size: int) -> None:
    """Refuse what cannot be answered.

    Raises:
        ValueError: the prompt is empty, fills the context, or holds an unknown token; or
            ``max_tokens`` is below 1.
    """
    if not 0 < len(prompt) < max_model_len:
        raise ValueError(f"{len(prompt)} prompt tokens do not fit 1 to {max_model_len - 1}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; an answer has at least 1")
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        raise ValueError(f"a prompt token is outside the vocabulary of {vocab_size}")


class StepSource(Protocol):
    """The part of ``Engine`` that makes answers."""

    @property
    def num_touched(self) -> int:
        """Positions for which every slot has memory already; see ``Engine.num_touched``."""

    def start(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
        num_answered: int = 0,
    ) -> Decoding:
        """Begin an answer; see ``Engine.start``."""

    def step(self) -> Ran:
        """Run the model once; see ``Engine.step``."""

    def end(self, sequence: Decoding) -> None:
        """Give an answer's place back; see ``Engine.end``."""

    def interrupt(self, sequence: Decoding) -> None:
        """Break off a piece of a prompt that is being run; see ``Engine.interrupt``."""

    def release(self) -> None:
        """Give the memory of the prefix cache back; see ``Engine.release``."""
