"""How many tokens of each answer one decode pass runs, where more than the next one are known.

A pass of several tokens of each answer is padded to the longest, and each token in it costs a part
of a pass of its own. So it has as many as give the most tokens for its time.

Rule: no model here; nobody's answer is done later than with one token a pass. Who has nothing
forced, such as a free text, is not made to wait for others' forced text.
"""

from collections.abc import Sequence

from edged.engine.decoding import Decoding

# Rows of logits of one pass, at most, if it has more tokens than answers: memory is planned for
# them. Of each answer those are computed after whose tokens another one's end.
_MAX_LOGITS = 16


def take_ahead(
    decodings: Sequence[Decoding], token_cost: float, max_tokens: int, max_length: int
) -> list[list[int]]:
    """Return for each answer the tokens behind its last one that the next pass runs.

    Args:
        decodings: the answers of the pass, at least one; how far each is ahead is noted there.
        token_cost: what a further token adds to a pass, as a fraction of a pass of one.
        max_tokens: tokens of the pass with its padding, at most.
        max_length: tokens of one answer with their padding, at most.
    """
    forced = [decoding.forced() for decoding in decodings]
    slots = [decoding.slot for decoding in decodings]
    width = max(slots) - min(slots) + 1

    def cost(length: int) -> float:
        return 1.0 + token_cost * (width * length - 1)

    def leads(length: int) -> list[float]:
        later = cost(length) - cost(1)
        saved = [min(len(known), length - 1) * cost(1) for known in forced]
        return [d.lead + more - later for d, more in zip(decodings, saved, strict=True)]

    def is_possible(length: int) -> bool:
        num_ends = len({min(len(known), length - 1) for known in forced})
        is_small = width * length <= max_tokens and width * num_ends <= _MAX_LOGITS
        return is_small and min(leads(length)) >= 0

    def speed(length: int) -> float:
        return sum(min(1 + len(known), length) for known in forced) / cost(length)

    lengths = range(2, 1 + min(1 + max(map(len, forced)), max_length))
    best = max([1, *filter(is_possible, lengths)], key=speed)
    for decoding, lead in zip(decodings, leads(best), strict=True):
        decoding.lead = lead
    return [known[: best - 1] for known in forced]
