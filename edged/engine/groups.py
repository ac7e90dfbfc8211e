"""Which prompts one run reads.

Several prompts in one run take less time than one after the other: a run's own cost is paid once,
and products of more rows are faster. They lie in adjacent slots, begin at one position, and are
padded to the longest. A prompt of which a little more is in the cache runs that again.

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
        waiting: all prompts that are not whole in the cache; those of another level, of which
            something else is read, or that go on far from there, are left for a later run.
        chunk_tokens: tokens of one prompt in a run, at most.
        max_tokens: tokens of all of them with their padding, at most.

    Returns:
        In the order of their slots.
    """
    like, spans = _kind(first), {}
    for one in waiting:
        if _kind(one) == like:
            begin = one.num_prefilled
            spans[one.slot] = begin, begin + len(one.chunk(chunk_tokens)[0])
    low, high, (start, end) = first.slot, first.slot, spans[first.slot]
    for step in (1, -1):
        slot = first.slot + step
        while slot in spans:
            num_before, (begin, stop) = high - low + 1, spans[slot]
            padded = (num_before + 1) * (max(end, stop) - min(start, begin))
            alone = num_before * (end - start) + stop - begin
            if padded > min(max_tokens, alone + _RUN_TOKENS):
                break
            low, high, start, end = (
                min(low, slot),
                max(high, slot),
                min(start, begin),
                max(end, stop),
            )
            slot += step
    return sorted((d for d in waiting if low <= d.slot <= high), key=lambda d: d.slot)


def _kind(decoding: Decoding) -> tuple[int, ...]:
    """Return what is equal for prompts of one run."""
    if decoding.reader is not None:
        return decoding.level, decoding.num_prefilled, decoding.num_unread
    # What is computed again of an answer, or run behind a prompt, runs alone.
    is_prompt = decoding.chunk(1)[1]
    return (decoding.level,) if is_prompt else (decoding.level, -1, decoding.slot)
