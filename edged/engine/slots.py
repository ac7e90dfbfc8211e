"""Which sequence each slot of the cache holds, and which slot a new prompt takes.

A slot whose answer is over keeps its tokens: it is the prefix cache. A prompt that begins with the
tokens of any slot, busy or not, reuses their keys and values.

Rule: bookkeeping only; the engine copies.
"""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.int64]


@dataclass(slots=True)
class _Slot:
    # An array, so that a token is appended in O(1).
    tokens: "array[int]" = field(default_factory=lambda: array("q"))
    """The tokens whose keys and values it holds."""
    num_prefilled: int = 0
    """How many of the first ones were run by the prefill branch."""
    is_busy: bool = False
    is_pinned: bool = False
    used: int = 0
    """The claim counter's value when it was last claimed."""
    num_touched: int = 0
    """Positions that have memory."""
    user: str | None = None
    """Who asked what it holds."""
    adapter: str | None = None
    """Key of the adapter that its keys and values were computed with."""

    @property
    def is_free(self) -> bool:
        return not (self.is_busy or self.is_pinned)


class Claim(NamedTuple):
    """The slot that a prompt has."""

    slot: int
    source: int
    """The slot whose first tokens are the prompt's: it may be the same one."""
    num_cached: int
    """How many of them are reused."""
    num_foreign: int
    """How many of these were asked by others only."""


class Slots:
    """The bookkeeping of ``num_slots`` slots for prompts, then those for permanent prefixes."""

    def __init__(self, num_slots: int, num_prefixes: int) -> None:
        self._slots = [_Slot(is_pinned=i >= num_slots) for i in range(num_slots + num_prefixes)]
        self._clock = 0

    @property
    def num_touched(self) -> int:
        """Positions for which every slot has memory already."""
        return min((s.num_touched for s in self._slots if not s.is_pinned), default=0)

    def claim(
        self,
        prompt: TokenIds,
        *,
        num_reusable: int,
        num_strict: int | None,
        user: str | None = None,
        adapter: str | None = None,
    ) -> Claim:
        """Choose a slot for a prompt of at least one token; it is busy until ``free``.

        Args:
            prompt: token ids.
            num_reusable: how many of its first tokens may be reused, at most.
            num_strict: how many tokens of the prompt the prefill branch will run; then only tokens
                are reused that the same branch has run. None reuses any.
            user: whose prompt it is. What others have asked decides how much is reused, and neither
                which slot is overwritten nor what can be told of it: else one could guess another's
                prompt, token by token.
            adapter: the key of the adapter that the prompt is run with; only what was computed with
                the same one is reused.

        Raises:
            RuntimeError: no slot is free.
        """
        free = [index for index, slot in enumerate(self._slots) if slot.is_free]
        if not free:
            raise RuntimeError("no slot is free; end an answer first")
        wanted = prompt[:num_reusable]
        shared = [
            _num_reusable(slot, wanted, num_strict) if slot.adapter == adapter else 0
            for slot in self._slots
        ]
        # Of equal slots a free one: it may need no copy.
        source = max(range(len(shared)), key=lambda i: (shared[i], self._slots[i].is_free))
        num_cached = shared[source]
        known = [each.is_pinned or each.user == user for each in self._slots]
        num_known = max((n for n, is_it in zip(shared, known, strict=True) if is_it), default=0)
        num_prefilled, num_held = self._slots[source].num_prefilled, len(self._slots[source].tokens)
        # The tokens of an answer are worth keeping only where a next prompt could reuse them.
        num_useful = num_held if num_strict is None else num_prefilled
        # A slot is overwritten in place if that keeps more of it than it loses; else the least
        # recently used one is overwritten.
        is_own = self._slots[source].user == user
        is_kept = source in free and is_own and num_useful <= 2 * num_cached
        target = source if is_kept else min(free, key=lambda i: self._slots[i].used)
        self._clock += 1
        slot = self._slots[target]
        slot.is_busy, slot.used, slot.tokens = True, self._clock, array("q", prompt[:num_cached])
        slot.num_prefilled = min(num_prefilled, num_cached)
        slot.num_touched = max(slot.num_touched, num_cached)
        slot.user, slot.adapter = user, adapter
        return Claim(target, source, num_cached, num_cached - num_known)

    def extend(
        self, index: int, token_ids: TokenIds | Sequence[int], *, is_prefill: bool = False
    ) -> None:
        """Append tokens that were run, and by which branch."""
        slot = self._slots[index]
        if is_prefill and slot.num_prefilled == len(slot.tokens):
            slot.num_prefilled += len(token_ids)
        slot.tokens.extend(token_ids)
        slot.num_touched = max(slot.num_touched, len(slot.tokens))

    def rewind(self, index: int, length: int) -> None:
        """Forget the tokens behind the first ones, which will be run again."""
        slot = self._slots[index]
        del slot.tokens[length:]
        slot.num_prefilled = min(slot.num_prefilled, length)

    def free(self, index: int) -> None:
        """Make a slot available; its tokens stay for later prompts."""
        self._slots[index].is_busy = False

    @contextmanager
    def kept(self, index: int) -> Iterator[None]:
        """Free a slot, and forget its tokens, if what is done meanwhile fails."""
        try:
            yield
        except BaseException:
            self.rewind(index, 0)
            self.free(index)
            raise

    def pin(self, tokens: TokenIds, adapter: str | None = None) -> int:
        """Return a slot for a prefix that is kept permanently, run with this adapter.

        Raises:
            RuntimeError: there is none left.
        """
        for index, slot in enumerate(self._slots):
            if slot.is_pinned and not len(slot.tokens):
                slot.tokens, slot.num_prefilled = array("q", tokens), len(tokens)
                slot.adapter = adapter
                return index
        raise RuntimeError("no slot is left for a prefix")

    def unpin(self, index: int) -> None:
        """Empty a slot that ``pin`` returned."""
        self._slots[index].tokens = array("q")

    def forget(self) -> list[int]:
        """Forget the tokens of all free slots; return those that have memory."""
        found = [i for i, slot in enumerate(self._slots) if slot.is_free and slot.num_touched]
        for index in found:
            self._slots[index] = _Slot(used=self._slots[index].used)
        return found


def _num_reusable(slot: _Slot, wanted: TokenIds, num_strict: int | None) -> int:
    """Return how many tokens of the common prefix may be reused; see ``Slots.claim``."""
    held = np.asarray(slot.tokens)
    length = min(len(held), len(wanted))
    differs = np.flatnonzero(held[:length] != wanted[:length])
    num_shared = int(differs[0]) if len(differs) else length
    if num_strict is None or slot.num_prefilled == num_strict:
        return num_shared
    return min(num_shared, slot.num_prefilled, num_strict)
