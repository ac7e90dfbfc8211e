r"""Characters that JSON can write in two ways.

llguidance tells the names of additional properties from those with a schema of their own by their
text, and lets them have any escape: ``"\u0061"`` would pass beside ``"a"``, hold another type, and
be the one that a parser keeps. In all other texts it escapes control characters only.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Escapes:
    r"""Which tokens have an escape such as ``\u0061``.

    Args:
        vocabulary: The bytes of each token; not kept.
    """

    def __init__(self, vocabulary: Sequence[bytes]) -> None:
        self._tokens = [
            np.array([_read(token, is_open=is_open)[0] for token in vocabulary])
            for is_open in (False, True)
        ]

    def without(self, is_allowed: NDArray[np.bool_], *, is_open: bool) -> NDArray[np.bool_]:
        """Return the allowed tokens without such an escape, or all where each has one.

        Args:
            is_allowed: Of each token of the vocabulary, and of padding behind it.
            is_open: Whether the text so far ends in the backslash of an escape.
        """
        kept = is_allowed.copy()
        kept[: len(self._tokens[is_open])] &= ~self._tokens[is_open]
        return kept if kept.any() else is_allowed


def ends_open(token: bytes, *, is_open: bool) -> bool:
    """Return whether a text ends in the backslash of an escape after a token."""
    return _read(token, is_open=is_open)[1]


def _read(token: bytes, *, is_open: bool) -> tuple[bool, bool]:
    """Return whether a token has such an escape, and ends in the backslash of one."""
    has_escape = False
    if is_open or b"\\" in token:
        for byte in token:
            has_escape |= is_open and byte == ord("u")
            is_open = not is_open and byte == ord("\\")
    return has_escape, is_open
