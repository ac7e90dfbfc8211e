"""What a head reads: hidden states of one run of the prompt in a fixed template, pooled.

All heads and the gate read the same template, so one run serves them all. It asks in one word what
the prompt is about and what it asks for, and the states of the tokens that would be answered by
these words hold most of what a head needs (PromptEOL, Jiang et al. 2023). Before the prompt stand
three sentences with their words: they are cached, and cost nothing but attention.

Rule: rows are added up one by one, in order; so it changes no bit how a prompt was cut into chunks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_SENTENCE = 'This sentence: "{}" is about: "{}" and asks for: "{}"\n'
_SHOWN = (
    ("Please switch on the heater in the bath.", "heating", "turn on"),
    ("I forgot my password and cannot log in.", "password", "reset"),
    ("How long does it take to cook rice?", "cooking", "duration"),
)
BEFORE = "".join(_SENTENCE.format(*shown) for shown in _SHOWN) + 'This sentence: "'
# Up to the token that is followed by the first word, and from there to the second.
AFTER = ('" is about: "', 'this" and asks for: "')
# Mean of the prompt's own tokens; the states before both words; mean of the tokens behind the
# prompt.
MEAN, TOPIC, ACTION, AFTERWARDS = range(4)
NUM_POOLINGS = 4

# Poolings and layers side by side; layers are counted among those that the graph gives.
View = tuple[tuple[int, int], ...]
# The first one serves nearly everything; another one is taken where it is clearly better.
VIEWS: tuple[View, ...] = (
    ((MEAN, 0), (MEAN, 1), (TOPIC, 3), (ACTION, 3), (AFTERWARDS, 1)),
    ((MEAN, 0), (ACTION, 3)),
    (
        *((MEAN, 0), (MEAN, 1), (TOPIC, 3), (TOPIC, 4)),
        *((ACTION, 3), (ACTION, 4), (AFTERWARDS, 1)),
    ),
)


class Template:
    """The fixed template, in tokens.

    Args:
        encode: returns the token ids of plain text.
        bos_ids: what every prompt of this model begins with.
    """

    def __init__(self, encode: Callable[[str], list[int]], bos_ids: Sequence[int]) -> None:
        self._encode = encode
        self.before_ids = [*bos_ids, *encode(BEFORE)]
        """The tokens before every prompt: a prefix to be kept in the cache."""
        self._first_ids, self._second_ids = encode(AFTER[0]), encode(AFTER[1])

    def prompt(self, text: str, width: int) -> tuple[list[int], "Pooling"]:
        """Return the tokens of a prompt, and what pools its hidden states of this width."""
        own = self._encode(text)
        ids = [*self.before_ids, *own, *self._first_ids, *self._second_ids]
        return ids, Pooling(len(self.before_ids), len(own), len(self._first_ids), width)


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of features: poolings, in each the layers, in each the hidden states."""

    num_layers: int
    hidden_size: int

    @property
    def width(self) -> int:
        """Features of a token's hidden states."""
        return self.num_layers * self.hidden_size

    def view(self, features: Floats, view: View) -> Floats:
        """Return the features ``[prompts, ...]`` of a view."""
        blocks = features.reshape(len(features), NUM_POOLINGS, self.num_layers, self.hidden_size)
        return np.concatenate([blocks[:, pooling, layer] for pooling, layer in view], axis=1)


class Pooling:
    """Pools the hidden states of one prompt, as chunks of it are run.

    Args:
        num_before: tokens of the template before the prompt.
        num_own: tokens of the prompt itself, at least 1.
        num_first: tokens behind it, up to the one before the first word.
        width: features of a token.
    """

    def __init__(self, num_before: int, num_own: int, num_first: int, width: int) -> None:
        self.num_before = num_before
        self._num_own, self._num_first = num_own, num_first
        self._num_rows = 0
        self._pooled = np.zeros((NUM_POOLINGS, width), np.float32)

    def again(self) -> "Pooling":
        """Return one for another run of the same prompt."""
        return Pooling(self.num_before, self._num_own, self._num_first, self._pooled.shape[1])

    def add(self, rows: Floats) -> None:
        """Add the hidden states ``[tokens, width]`` of the next tokens."""
        for row in rows:
            self._num_rows += 1
            self._pooled[MEAN if self._num_rows <= self._num_own else AFTERWARDS] += row
            if self._num_rows == self._num_own + self._num_first:
                self._pooled[TOPIC] = row
            self._pooled[ACTION] = row

    def features(self) -> Floats:
        """Return ``[4 * width]`` when all tokens are added."""
        pooled = self._pooled.copy()
        pooled[MEAN] /= np.float32(self._num_own)
        pooled[AFTERWARDS] /= np.float32(self._num_rows - self._num_own)
        return pooled.reshape(-1)
