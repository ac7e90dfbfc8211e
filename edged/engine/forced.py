"""How much of a forced text has the same tokens whatever follows it.

A tokenizer makes tokens of each word alone: " Curtain" is " Cur" and "tain", but " Curtains" is
" Curt" and "ains". A model learned those, so no token is forced of a word that may become longer.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from edged.engine.tokenizer import Tokenizer

# Last tokens in which the end of a word is looked for, first of few: words are split in some
# microseconds a character, and who asks decides how long a forced text is.
_TAILS = (8, 64)
# What may follow, one text for each kind of character that splitters tell apart: "s" also makes one
# word with an apostrophe.
_END, _WORDS, _SYMBOLS, _OTHERS = "", ("s", "S", "1"), ("_", "'", " ", "\n", "."), ("é", "—")
_KINDS = (_END, *_WORDS, *_SYMBOLS, *_OTHERS)


class Words:
    """The ends of words in forced text.

    Args:
        tokenizer: Of the bundle.
        vocabulary: The bytes of each of its tokens; not kept.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Sequence[bytes]) -> None:
        self._tokenizer = tokenizer
        silent = {*tokenizer.control_ids, *tokenizer.stop_ids}
        firsts = [b"" if i in silent else token[:1] for i, token in enumerate(vocabulary)]
        self._kinds = np.array([_KINDS.index(_kind(first)) for first in firsts], np.uint8)

    def bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a token, empty without text."""
        return self._tokenizer.bytes_of(token_id)

    def num_certain(self, token_ids: Sequence[int], may_follow: NDArray[np.uint8]) -> int:
        """Return how many of the tokens of a forced text are the same whatever follows.

        Args:
            token_ids: Of the text.
            may_follow: 1 for each token that may come next.
        """
        found = np.unique(self._kinds[np.flatnonzero(may_follow[: len(self._kinds)])])
        following = [_KINDS[index] for index in found]
        if _OTHERS[0] in following:
            following.append(_OTHERS[1])
        for size in _TAILS:
            before = max(len(token_ids) - size, 0)
            parts = [self._tokenizer.bytes_of(token_id) for token_id in token_ids[before:]]
            if count := self._last_end(parts, following):
                return before + count
        return 0

    def _last_end(self, parts: Sequence[bytes], following: Sequence[str]) -> int:
        """Return how many of the parts end with a word, whatever follows them."""
        joined = b"".join(parts)
        text = joined.decode(errors="ignore")
        # The end of a character whose beginning is no part of it.
        start = len(joined) - len(joined.lstrip(bytes(range(0x80, 0xC0))))
        common = set(range(1, len(text) + 1))
        for then in following:
            starts = self._tokenizer.word_starts(text + then)
            common &= starts if then else starts | {len(text)}
        places = {start + len(text[:place].encode()) for place in common}
        ends = enumerate(accumulate(map(len, parts)), 1)
        return max((count for count, end in ends if end in places), default=0)


def _kind(first: bytes) -> str:
    """Return the kind of a token by its first byte."""
    if not first or first[0] >= 0x80:  # noqa: PLR2004 - of several bytes
        return _OTHERS[0] if first else _END
    character = first.decode()
    if character.isalnum():
        return "1" if character.isdigit() else "S" if character.isupper() else "s"
    if character.isspace():
        return " " if character == " " else "\n"
    return character if character in _SYMBOLS else "."
