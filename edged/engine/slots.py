"""Which sequence each slot of the cache holds, and where a new prompt is best put.

A slot whose answer is over keeps its tokens: it is the prefix cache. A prompt that begins with the
tokens of any slot, busy or not, takes their keys and values over.

Rule: no model here; only what is held where, and what to copy.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def _held(tokens: Iterable[int] = ()) -> "array[int]":
    """Return tokens in a row that grows by one in no time."""
    return array("q", tokens)


@dataclass(slots=True)
class _Slot:
    tokens: "array[int]" = field(default_factory=_held)
    """Whose keys and values it holds."""
    num_prompt: int = 0
    """Of these, from the first, those that were run as a prompt."""
    is_busy: bool = False
    is_pinned: bool = False
    used: int = 0
    """When it was last claimed; rising."""
    num_touched: int = 0
    """Positions that have memory."""

    @property
    def is_free(self) -> bool:
        return not (self.is_busy or self.is_pinned)


@dataclass(frozen=True, slots=True)
class Claim:
    """A place for a prompt."""

    slot: int
    source: int
    """The slot whose first ``num_cached`` tokens are the prompt's; it may be the same one."""
    num_cached: int


class Slots:
    """Keep account of the slots.

    Args:
        num_slots: sequences that have a place.
        num_prefixes: of these, the last ones, for what is kept for good.
    """

    def __init__(self, num_slots: int, num_prefixes: int = 0) -> None:
        self._slots = [
            _Slot(is_pinned=index >= num_slots - num_prefixes) for index in range(num_slots)
        ]
        self._clock = 0

    @property
    def num_touched(self) -> int:
        """Positions for which every slot has memory already."""
        return min((s.num_touched for s in self._slots if not s.is_pinned), default=0)

    def claim(
        self, prompt: Tokens, *, is_fresh: bool = False, num_strict: int | None = None
    ) -> Claim:
        """Choose a slot for a prompt; it is busy until ``free``.

        The last token of a prompt is never cached: it is run for its logits. A slot is overwritten
        where it stands if more of it is kept than lost, and else the one used longest ago is; what
        it holds of an answer counts only where a next prompt could take it over.

        Args:
            prompt: at least one token.
            is_fresh: whether nothing may be taken over.
            num_strict: takes over only what was run as it would be now: so many tokens as a prompt,
                and those behind them as an answer.

        Raises:
            RuntimeError: no slot is free.
        """
        free = [index for index, slot in enumerate(self._slots) if slot.is_free]
        if not free:
            raise RuntimeError("no slot is free; end an answer first")
        wanted = prompt[: 0 if is_fresh else -1]
        shared = [_usable(slot, _shared(slot, wanted), num_strict) for slot in self._slots]
        # Of equals a free slot: nothing need be copied.
        source = max(range(len(shared)), key=lambda i: (shared[i], self._slots[i].is_free))
        num_cached = shared[source]
        num_prompt, num_held = self._slots[source].num_prompt, len(self._slots[source].tokens)
        num_useful = num_held if num_strict is None else num_prompt
        is_kept = source in free and num_useful <= 2 * num_cached
        target = source if is_kept else min(free, key=lambda i: self._slots[i].used)
        self._clock += 1
        slot = self._slots[target]
        slot.is_busy, slot.used, slot.tokens = True, self._clock, _held(prompt[:num_cached])
        slot.num_prompt = min(num_prompt, num_cached)
        slot.num_touched = max(slot.num_touched, num_cached)
        return Claim(target, source, num_cached)

    def extend(
        self, index: int, token_ids: Tokens | Sequence[int], *, is_prompt: bool = False
    ) -> None:
        """Note that a slot holds more tokens now, and how they were run."""
        slot = self._slots[index]
        if is_prompt and slot.num_prompt == len(slot.tokens):
            slot.num_prompt += len(token_ids)
        slot.tokens.extend(token_ids)
        slot.num_touched = max(slot.num_touched, len(slot.tokens))

    def free(self, index: int) -> None:
        """Note that a slot's answer is over; its tokens stay for those to come."""
        self._slots[index].is_busy = False

    def pin(self, tokens: Tokens) -> int:
        """Return a slot for tokens that stay: prompts take them over, none overwrites them.

        Raises:
            RuntimeError: there is none left.
        """
        for index, slot in enumerate(self._slots):
            if slot.is_pinned and not len(slot.tokens):
                slot.tokens, slot.num_prompt = _held(tokens), len(tokens)
                return index
        raise RuntimeError("no slot is left for a prefix")

    def unpin(self, index: int) -> None:
        """Note that a slot does not hold what it was pinned for."""
        self._slots[index].tokens = _held()

    def forget(self) -> list[int]:
        """Forget the tokens of all free slots; return the slots that held memory."""
        found = [i for i, slot in enumerate(self._slots) if slot.is_free and slot.num_touched]
        for index in found:
            self._slots[index] = _Slot(used=self._slots[index].used)
        return found


def _shared(slot: _Slot, wanted: Tokens) -> int:
    """Return how many tokens a slot and a prompt have in common at the beginning."""
    held = np.asarray(slot.tokens)
    length = min(len(held), len(wanted))
    differs = np.flatnonzero(held[:length] != wanted[:length])
    return int(differs[0]) if len(differs) else length


def _usable(slot: _Slot, num_shared: int, num_strict: int | None) -> int:
    """Return how many of the shared tokens may be taken over; see ``Slots.claim``."""
    if num_strict is None or slot.num_prompt == num_strict:
        return num_shared
    return min(num_shared, slot.num_prompt, num_strict)
