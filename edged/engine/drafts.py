"""Guess the next tokens of an answer from what stands in it and its prompt already.

An answer often repeats its prompt: names, figures, the keys of a table (prompt lookup decoding,
Saxena 2023; "assisted generation" in transformers). A guess is checked in one run of the model, and
only what the model would have chosen anyway is taken, so the answer is the same.

Rule: no clock. Guessing stops by itself for a while where the guesses are wrong too often.
"""

from collections.abc import Iterable

MAX_DRAFT = 7
"""Tokens guessed at a time, at most."""
_NGRAM = 3
"""What stood after the last three tokens when they stood together before is the guess."""
_MIN_DRAFT = 3
_START_CREDIT = 2.0
_MAX_CREDIT = 4.0
_FIRST_PAUSE = 16
_MAX_PAUSE = 256


class Drafter:
    """Guesses for one answer.

    Args:
        prompt: its token ids.
        token_cost: what a guessed token adds to a run, as a share of a run of one token.
    """

    def __init__(self, prompt: Iterable[int], token_cost: float) -> None:
        self._cost = token_cost
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        """Where it went on after three tokens in a row, the last time."""
        self._credit = _START_CREDIT
        self._length = _MIN_DRAFT
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        for token_id in prompt:
            self.push(token_id)

    def push(self, token_id: int) -> None:
        """Take in the next token of prompt or answer."""
        if len(self._tokens) >= _NGRAM:
            self._after[tuple(self._tokens[-_NGRAM:])] = len(self._tokens)
        self._tokens.append(token_id)
        self._pause = max(self._pause - 1, 0)

    def draft(self, max_tokens: int) -> list[int]:
        """Return a guess of at most ``max_tokens`` tokens; none where there is nothing to go by."""
        if self._pause:
            return []
        place = self._after.get(tuple(self._tokens[-_NGRAM:]))
        length = min(self._length, max_tokens)
        return [] if place is None else self._tokens[place : place + length]

    def learn(self, num_drafted: int, num_right: int) -> None:
        """Note how a guess ended: lengthen the next one, or stop guessing for a while."""
        is_right = num_right == num_drafted
        self._length = min(2 * self._length, MAX_DRAFT) if is_right else _MIN_DRAFT
        gain = num_right - self._cost * num_drafted
        self._credit = min(self._credit + gain, _MAX_CREDIT)
        if num_right:
            self._next_pause = _FIRST_PAUSE
        if self._credit < 0:
            self._pause, self._credit = self._next_pause, 0.0
            self._next_pause = min(2 * self._next_pause, _MAX_PAUSE)
