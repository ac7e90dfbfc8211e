"""Choose the next token from logits.

Rule: numpy only, and no order of a whole vocabulary. The same seed, parameters and logits give the
same token.
"""

import math

import numpy as np
from numpy.typing import NDArray

from edged.protocol.request import SamplingParams

# Lower temperatures are taken as 0: they differ in nothing but would overflow (as in vLLM).
_GREEDY_BELOW = 1e-5


class Sampler:
    """Choose the tokens of one answer.

    Filters apply in the order of vLLM: penalty, temperature, ``min_p``, ``top_k``, ``top_p``. The
    penalty is for tokens of the prompt and of the answer.

    Args:
        params: of the request.
        prompt_ids: the prompt, and of an answer that was paused the tokens before the pause.
        num_chosen: those of the answer; a seeded one goes on as if it had not been paused.
    """

    def __init__(
        self, params: SamplingParams, prompt_ids: NDArray[np.int64], num_chosen: int = 0
    ) -> None:
        self._params = params
        self._is_greedy = params.temperature < _GREEDY_BELOW
        self._is_penalised = params.repetition_penalty != 1.0
        self._seen = np.unique(prompt_ids) if self._is_penalised else prompt_ids[:0]
        # Each token takes one number.
        self._random = np.random.Generator(np.random.PCG64(params.seed).advance(num_chosen))

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Return the next token; the logits ``[vocabulary]`` are overwritten.

        Raises:
            ValueError: no logit is finite: the model is broken, or the constraint allows no token.
        """
        if self._is_penalised:
            self._penalise(logits)
        best = int(logits.argmax())  # the index of a NaN, if there is one
        if not math.isfinite(logits.item(best)):
            raise ValueError("no token can be chosen: the logits hold no finite maximum")
        token_id = best if self._is_greedy else self._draw(logits, logits[best])
        self._push(token_id)
        return token_id

    def skip(self, token_id: int) -> None:
        """Append a token that is known without logits; it takes a random number, as any other."""
        if not self._is_greedy:
            self._random.random()
        self._push(token_id)

    def _push(self, token_id: int) -> None:
        if self._is_penalised:
            self._seen = np.union1d(self._seen, token_id)

    def _penalise(self, logits: NDArray[np.float32]) -> None:
        seen = logits[self._seen]
        penalty = np.float32(self._params.repetition_penalty)
        logits[self._seen] = np.where(seen > 0, seen / penalty, seen * penalty)

    def _draw(self, logits: NDArray[np.float32], best: np.float32) -> int:
        params = self._params
        scores = (logits - best) / np.float32(params.temperature)
        token_ids = _most_likely(scores, params.top_k, params.min_p)
        weights = np.exp(scores[token_ids], dtype=np.float64)
        if params.top_p < 1:
            kept = _nucleus(weights, params.top_p, len(scores))
            token_ids, weights = token_ids[kept], weights[kept]
        cumulated = weights.cumsum()
        point = self._random.random() * cumulated[-1]
        return int(token_ids[min(cumulated.searchsorted(point, side="right"), len(cumulated) - 1)])


def log_probability(logits: NDArray[np.float32], token_id: int) -> float:
    """Return how probable a token is among all whose logits ``[vocabulary]`` are finite."""
    weights = np.exp(logits - logits[token_id])
    return -math.log(weights.sum(dtype=np.float64))


def _most_likely(scores: NDArray[np.float32], top_k: int, min_p: float) -> NDArray[np.intp]:
    """Return the ids, ascending, that ``top_k`` and ``min_p`` keep; ties at the edge are kept.

    ``scores`` are log-probabilities up to a constant, with a maximum of 0.
    """
    floor = np.float32(-np.inf)
    if 0 < top_k < len(scores):
        floor = np.partition(scores, -top_k)[-top_k]
    if min_p > 0:
        floor = max(floor, np.log(np.float32(min_p)))
    return np.flatnonzero(scores >= floor)


def _nucleus(weights: NDArray[np.float64], top_p: float, vocab_size: int) -> NDArray[np.intp]:
    """Return the indices, ascending, of the smallest set whose share reaches ``top_p``."""
    total = weights.sum()
    # All weights below (1 - top_p) / vocab_size of the total add up to less than 1 - top_p, so the
    # set is complete without them, and only the few above need to be sorted.
    large = np.flatnonzero(weights >= total * (1 - top_p) / vocab_size)
    weights = weights[large]
    # At a high temperature those are all: to sort the values takes a third of the time that their
    # order takes.
    falling = np.sort(weights)[::-1]
    count = int(falling.cumsum().searchsorted(total * top_p, side="left")) + 1
    if count >= len(large):
        return large
    least = falling[count - 1]
    kept = weights > least
    kept[np.flatnonzero(weights == least)[: count - kept.sum()]] = True  # the first of equal ones
    found: NDArray[np.intp] = large[kept]
    return found
