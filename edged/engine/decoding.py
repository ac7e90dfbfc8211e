"""One answer while it is decoded: its tokens, its slot, and how the next token is chosen.

Rule: no model here. An exception of a sampler or a constraint ends this answer alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edged.engine.drafts import Drafter
from edged.engine.sampling import Sampler, log_probability
from edged.engine.slots import TokenIds
from edged.engine.steps import DecodeInput, Prefilled, Step, Token
from edged.specialists.scoring import OptionScorer

# Forced tokens of one pass, at most: a deadline and a cancel wait for its end.
MAX_FORCED = 15


class Constraint(Protocol):
    """The format of an answer, enforced token by token."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""

    @property
    def forced(self) -> Sequence[int]:
        """The next tokens, as far as there is one way to go on; often none."""

    @property
    def is_ending(self) -> bool:
        """Whether the answer is whole after the forced tokens."""

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Overwrite the logits ``[vocabulary]`` of all tokens that may not come next with -inf."""

    def advance(self, token_id: int) -> None:
        """Append the chosen or the forced token."""


class HiddenReader(Protocol):
    """Reads the hidden states of a prompt instead of an answer to it."""

    @property
    def num_before(self) -> int:
        """First tokens of the prompt whose hidden states are not read."""

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take the hidden states ``[tokens, width]`` of the next tokens; valid during the call."""


def checked_prompt(
    prompt_ids: Sequence[int], max_tokens: int, longest: int, vocab_size: int
) -> TokenIds:
    """Return the token ids of a prompt, of which there are at most ``longest``.

    Raises:
        ValueError: there are none, or too many; one is unknown; or ``max_tokens`` is below 1.
    """
    prompt = np.asarray(prompt_ids, np.int64)
    if not 0 < len(prompt) <= longest:
        raise ValueError(f"{len(prompt)} prompt tokens do not fit 1 to {longest}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}; an answer has at least 1")
    if prompt.min() < 0 or prompt.max() >= vocab_size:
        raise ValueError(f"a prompt token is outside the vocabulary of {vocab_size}")
    return prompt


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
    reader: HiddenReader | None = None
    scorer: OptionScorer | None = None
    """Reads options behind the prompt instead of an answer."""
    level: int = 0
    """Priority: of several prompts, a chunk of the lowest level is run first."""
    is_over: bool = False
    """Whether no token follows."""
    num_foreign: int = 0
    """Of the reused tokens, those that only others have asked before."""
    is_weighed: bool = False
    """Whether each token says how probable it was."""
    lead: float = 0.0
    """By how many passes of one token it is earlier than with one token a pass."""

    def __post_init__(self) -> None:
        self.num_prefilled = self.num_cached
        self.num_tokens = len(self.prompt)
        """Of prompt and answer together."""
        self._last_id = -1
        self._log_probability = 0.0

    @property
    def is_prefilled(self) -> bool:
        """Whether the whole prompt is in the cache."""
        return self.num_prefilled == len(self.prompt)

    @property
    def num_unread(self) -> int:
        """First tokens of the next chunk whose hidden states are not read."""
        return 0 if self.reader is None else max(self.reader.num_before - self.num_prefilled, 0)

    @property
    def is_read(self) -> bool:
        """Whether all is in the cache that is not chosen token by token."""
        return self.is_prefilled and self.scorer is None

    @property
    def next_behind(self) -> tuple[int, Sequence[int]] | None:
        """Where the next tokens of an option begin behind the prompt, and which they are."""
        return self.scorer.next_pass if self.scorer is not None and self.is_prefilled else None

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

    def rewind(self, start: int) -> None:
        """Have tokens from a position on run again, though they are in the cache."""
        self.num_prefilled = start
        self.num_foreign -= min(max(self.num_cached - start, 0), self.num_foreign)
        self.num_cached = min(self.num_cached, start)

    def read(self, rows: NDArray[np.float32], num_tokens: int, num_beside: int) -> Prefilled:
        """Take the next chunk's hidden states ``[tokens - num_unread, width]``, if they are read.

        Args:
            rows: valid during the call.
            num_tokens: of the chunk.
            num_beside: further tokens in its run.
        """
        self.num_prefilled += num_tokens
        if self.reader is not None:
            self.reader.add(rows)
            self.is_over = self.is_prefilled
        return Prefilled(self.num_prefilled, self.num_cached, num_beside, self.num_foreign)

    def begin(self, logits: NDArray[np.float32], stop_token_ids: Sequence[int]) -> list[Step]:
        """Choose the first token from the logits ``[vocabulary]`` of a prompt, if it is whole."""
        if self.is_over or not self.is_prefilled:
            return []
        if self.scorer is None:
            return self.choose(logits, stop_token_ids)
        self.score(logits[None])
        return []

    def forced(self) -> list[int]:
        """Return the tokens after the next one that are known without the model, often none."""
        known = () if self.constraint is None else self.constraint.forced
        return list(islice(known, min(self._room, MAX_FORCED)))

    def draft(self) -> list[int]:
        """Return a draft of the tokens after the next one, often none."""
        return [] if self.drafter is None else self.drafter.draft(self._room)

    @property
    def _room(self) -> int:
        # The pass chooses one token more, and positions end at the limit.
        return self.limit - self.num_tokens - 1

    def score(self, logits: NDArray[np.float32]) -> None:
        """Take the logits ``[tokens, vocabulary]`` of the prompt's end, or of an option."""
        if self.scorer is not None:
            self.scorer.add(logits)
            self.is_over = self.scorer.next_pass is None

    def choose(self, logits: NDArray[np.float32], stop_token_ids: Sequence[int]) -> list[Step]:
        """Choose the next token from the logits ``[vocabulary]``, which are overwritten.

        Where the format leaves one way to go on, no logits are looked at.

        Returns:
            The token; with all that follow where they are forced and end the answer, or the
            exception that ended it.
        """
        steps: list[Step] = []
        constraint = self.constraint
        try:
            steps.append(self._push(self._next_id(logits), stop_token_ids))
            # Nothing is chosen after them: they need no pass.
            while constraint is not None and constraint.is_ending and not self.is_over:
                steps.append(self._push(self._next_id(logits), stop_token_ids))
        except Exception as error:  # noqa: BLE001 - ends this answer; the others go on
            self.is_over = True
            steps.append(error)
        return steps

    def _next_id(self, logits: NDArray[np.float32]) -> int:
        constraint = self.constraint
        self._log_probability = 0.0  # of what is forced
        if constraint is None:
            return self._chosen(logits)
        if constraint.forced:
            token_id = constraint.forced[0]
            self.sampler.skip(token_id)
        else:
            constraint.allowed(logits)
            token_id = self._chosen(logits)
        constraint.advance(token_id)
        return token_id

    def _chosen(self, logits: NDArray[np.float32]) -> int:
        if not self.is_weighed:
            return self.sampler.choose(logits)
        before = logits.copy()  # the sampler overwrites them
        token_id = self.sampler.choose(logits)
        self._log_probability = log_probability(before, token_id)
        return token_id

    def _push(self, token_id: int, stop_token_ids: Sequence[int]) -> Token:
        is_stop = token_id in stop_token_ids
        self._last_id = token_id
        self.num_tokens += 1
        if self.drafter is not None:
            self.drafter.push(token_id)
        is_complete = self.constraint is not None and self.constraint.is_complete
        self.is_over = is_stop or is_complete or self.num_tokens == self.limit
        return Token(token_id, is_stop, self._log_probability)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One run of the model."""

    outcomes: Mapping[Decoding, Sequence[Step]]
    """The steps of each answer in the batch, in order."""
    num_rows: int = 0
    """Tokens decoded, drafted ones included; 0 for a prefill chunk."""
    num_pairs: int = 0
    """Query-key pairs of attention: the positions before each decoded token, added up."""
