"""A grammar in which the beginnings of answers are as likely as a head says, too.

What an answer begins with, such as the name of a function, is its choice. While it is written, the
probabilities of the tokens that may come next are multiplied with the weight of the choices that
they lead to.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edged.engine.grammar import GrammarConstraint
from edged.engine.tokenizer import Tokenizer
from edged.specialists.choice import END, Powers, Preferences

# Where more tokens are allowed, a text is written and nothing is chosen.
_MOST_TOKENS = 128
# What a word ends with, and an answer as well.
_ENDS = (b"", b" ", b"\n")


class ChoosingConstraint:
    """A grammar's constraint that follows a head's preferences; see ``Constraint``.

    Args:
        grammar: Holds the answer to its form.
        tokenizer: Of the bundle.
    """

    def __init__(self, grammar: GrammarConstraint, tokenizer: Tokenizer) -> None:
        self._grammar, self._tokenizer = grammar, tokenizer
        self._preferences = Preferences({}, Powers(0.0, 0.0))
        self._open: list[bytes] = []
        """The choices that the text so far may become."""
        self._text = b""

    def prefer(self, preferences: Preferences) -> None:
        """Set what is preferred."""
        self._preferences = preferences
        choices = [choice.encode() for choice in preferences.shares if choice is not None]
        self._open = [choice for choice in choices if choice.startswith(self._text)]

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._grammar.is_complete

    @property
    def forced(self) -> Sequence[int]:
        """The next tokens, as far as there is one way to go on."""
        return self._grammar.forced

    @property
    def is_ending(self) -> bool:
        """Whether the answer is whole after the forced tokens."""
        return self._grammar.is_ending

    def allowed(self, logits: NDArray[np.float32]) -> None:
        """Mask the logits ``[vocabulary]`` of what may not come next, and raise the preferred."""
        self._grammar.allowed(logits)
        if not self._is_open:
            return
        ids = np.flatnonzero(logits > -np.inf)
        if len(ids) <= _MOST_TOKENS:
            weights = [self._weight(self._text + self._bytes_of(int(i))) for i in ids]
            logits[ids] += np.log(weights).astype(np.float32)

    def advance(self, token_id: int) -> None:
        """Append the chosen or the forced token."""
        self._grammar.advance(token_id)
        if self._is_open:
            text = self._text = self._text + self._bytes_of(token_id)
            self._open = [choice for choice in self._open if choice.startswith(text)]

    @property
    def _is_open(self) -> bool:
        """Whether more than one choice may still be meant."""
        return any(len(choice) > len(self._text) for choice in self._open)

    def _weight(self, text: bytes) -> float:
        """Return the weight of what a text may become, or has become."""
        found = [
            choice.decode()
            for choice in self._open
            if choice.startswith(text) or _begins_with(text, choice)
        ]
        return self._preferences.weight(found)

    def _bytes_of(self, token_id: int) -> bytes:
        # The end of an answer is the end of its choice.
        is_stop = token_id in self._tokenizer.stop_ids
        return END.encode() if is_stop else self._tokenizer.bytes_of(token_id)


def _begins_with(text: bytes, choice: bytes) -> bool:
    is_ended = choice.endswith(END.encode()) or text[len(choice) :][:1] in _ENDS
    return is_ended and text.startswith(choice)
