"""Which prompts one run reads for their hidden states.

Several prompts in one run take less time than one after the other: a run's own cost is paid once,
and products of more rows are faster. They lie in adjacent slots, begin at one position, and are
padded to the longest.

Rule: no model here; nobody's prompt is done later than one after the other.
"""

from collections.abc import Sequence

from edged.engine.decoding import Decoding

# A run costs as much as so many further tokens in it: 15 to 25 on two x86-64 cores. More padding
# than that would cost more than a run of its own.
_RUN_TOKENS = 16


def read_together(
    first: Decoding, waiting: Sequence[Decoding], chunk_tokens: int, max_tokens: int
) -> list[Decoding]:
    """Return the prompts that are read in one run with the first one, itself included.

    Args:
        first: the prompt that is to be read next.
        waiting: all prompts that are not whole in the cache; those without a reader, of another
            level, or that go on at another position, are left for a later run.
        chunk_tokens: tokens of one prompt in a run, at most.
        max_tokens: tokens of all of them with their padding, at most.

    Returns:
        In the order of their slots.
    """
    like = _kind(first)
    lengths = {d.slot: len(d.chunk(chunk_tokens)[0]) for d in waiting if _kind(d) == like}
    low, high, longest = first.slot, first.slot, lengths[first.slot]
    for step in (1, -1):
        slot = first.slot + step
        while slot in lengths:
            num_before, own = high - low + 1, lengths[slot]
            padded = (num_before + 1) * max(longest, own)
            if padded > min(max_tokens, num_before * longest + own + _RUN_TOKENS):
                break
            low, high, longest = min(low, slot), max(high, slot), max(longest, own)
            slot += step
    return sorted((d for d in waiting if low <= d.slot <= high), key=lambda d: d.slot)


def _kind(decoding: Decoding) -> tuple[bool, int, int, int]:
    """Return what is equal for prompts of one run."""
    is_read = decoding.reader is not None
    return is_read, decoding.level, decoding.num_prefilled, decoding.num_unread
