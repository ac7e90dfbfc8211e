"""Draft the next tokens of an answer from earlier text of the same request.

An answer often repeats its prompt: names, figures, the keys of a table (prompt lookup decoding,
Saxena 2023; "assisted generation" in transformers). A draft is verified in one forward pass, and
only tokens that the model would have chosen anyway are accepted, so the answer is the same.

Rule: no clock. Drafting pauses by itself while too few tokens are accepted.
"""

from collections.abc import Iterable

# Tokens of one draft, at most.
MAX_DRAFT = 7
# The draft is the continuation of the latest occurrence of the last three tokens.
_NGRAM = 3
_MIN_DRAFT = 3
_START_CREDIT = 2.0
_MAX_CREDIT = 4.0
_FIRST_PAUSE = 16
_MAX_PAUSE = 256


class Drafter:
    """Drafts for one answer.

    ``token_cost`` is what a drafted token adds to a forward pass, as a fraction of a pass of one.
    """

    def __init__(self, prompt: Iterable[int], token_cost: float) -> None:
        self._cost = token_cost
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """For each n-gram the position after its latest occurrence."""
        # Credit is in tokens saved; when it is spent, drafting pauses for so many tokens.
        self._credit = _START_CREDIT
        self._length = _MIN_DRAFT
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        for token_id in prompt:
            self.push(token_id)

    def push(self, token_id: int) -> None:
        """Append the next token of prompt or answer."""
        if len(self._tokens) >= _NGRAM:
            self._after[tuple(self._tokens[-_NGRAM:])] = len(self._tokens)
        self._tokens.append(token_id)
        self._pause = max(self._pause - 1, 0)

    def draft(self, max_tokens: int) -> list[int]:
        """Return a draft of at most ``max_tokens`` tokens, often none."""
        if self._pause:
            return []
        start = self._after.get(tuple(self._tokens[-_NGRAM:]))
        length = min(self._length, max_tokens)
        return [] if start is None else self._tokens[start : start + length]

    def learn(self, num_drafted: int, num_accepted: int) -> None:
        """Lengthen the next draft after full acceptance, or pause after too many rejections."""
        is_right = num_accepted == num_drafted
        self._length = min(2 * self._length, MAX_DRAFT) if is_right else _MIN_DRAFT
        gain = num_accepted - self._cost * num_drafted
        self._credit = min(self._credit + gain, _MAX_CREDIT)
        if num_accepted:
            self._next_pause = _FIRST_PAUSE
        if self._credit < 0:
            self._pause, self._credit = self._next_pause, 0.0
            self._next_pause = min(2 * self._next_pause, _MAX_PAUSE)
