"""What a head reads: hidden states of one run of the prompt in a fixed template, pooled.

All heads and the gate read the same template, so one run serves them all. Before the prompt stand
sentences with one word for each, which is what the last token of the template is led to think of
(PromptEOL, Jiang et al. 2023). They are cached: they cost nothing but attention.

Rule: rows are added up one by one, in order; so it changes no bit how a prompt was cut into chunks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BEFORE = (
    '<|im_start|>This sentence: "Please switch on the heater in the bath." means in one word: "heating"\n'
    'This sentence: "I forgot my password and cannot log in." means in one word: "password"\n'
    'This sentence: "How long does it take to cook rice?" means in one word: "cooking"\n'
    'This sentence: "'
)
AFTER = '" means in one word: "'
# Mean of the prompt's own tokens, the template's last token, mean of the tokens behind the prompt.
MEAN, LAST, AFTERWARDS = range(3)
NUM_POOLINGS = 3

# Poolings and layers side by side; layers are counted among those that the graph gives.
View = tuple[tuple[int, int], ...]
VIEWS: tuple[View, ...] = (
    ((MEAN, 0), (LAST, 3)),
    ((MEAN, 0), (LAST, 3), (AFTERWARDS, 1)),
    ((MEAN, 0), (MEAN, 1), (LAST, 2), (LAST, 4)),
    ((MEAN, 0), (MEAN, 1), (LAST, 3), (LAST, 4), (AFTERWARDS, 1)),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of features: poolings, in each the layers, in each the hidden states."""

    num_layers: int
    hidden_size: int

    def view(self, features: Floats, view: View) -> Floats:
        """Return the features ``[prompts, ...]`` of a view."""
        blocks = features.reshape(len(features), NUM_POOLINGS, self.num_layers, self.hidden_size)
        return np.concatenate([blocks[:, pooling, layer] for pooling, layer in view], axis=1)


class Pooling:
    """Pools the hidden states of one prompt, as chunks of it are run.

    Args:
        num_own: tokens of the prompt itself; those behind it are the template's.
        width: features of a token.
    """

    def __init__(self, num_own: int, width: int) -> None:
        self._num_own = num_own
        self._num_rows = 0
        self._own = np.zeros(width, np.float32)
        self._after = np.zeros(width, np.float32)
        self._last = np.zeros(width, np.float32)

    def add(self, rows: Floats) -> None:
        """Add the hidden states ``[tokens, width]`` of the next tokens."""
        for row in rows:
            total = self._own if self._num_rows < self._num_own else self._after
            total += row
            self._num_rows += 1
        self._last[:] = rows[-1]

    def features(self) -> Floats:
        """Return ``[3 * width]`` when all tokens are added."""
        num_after = max(self._num_rows - self._num_own, 1)
        means = self._own / np.float32(self._num_own), self._after / np.float32(num_after)
        return np.concatenate([means[0], self._last, means[1]])
