"""Inputs to run parts of the export with: so many tokens behind, so many new, no weights needed.

Rule: a probe stands in for the projections with zeros, so what depends on data rather than on
positions and lengths shows up as an unknown input instead of as a wrong constant.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edged.builder.fuse.traced import Array


@dataclass(frozen=True, slots=True)
class Probe:
    """One call of the export: ``new`` tokens after ``past`` of them, batch of one."""

    past: int
    new: int
    cache_dims: tuple[int, int]
    """Key and value heads, head size."""
    widths: Mapping[str, int]
    """Size of the last axis of the activations to cut at."""

    def feed(self, name: str) -> Array | None:
        """Return the stand-in for an input or an activation, or None for any other tensor."""
        if name in self.widths:
            return np.zeros((1, self.new, self.widths[name]), np.float32)
        if name.startswith("past_key_values."):
            num_heads, head_size = self.cache_dims
            return np.zeros((1, num_heads, self.past, head_size), np.float32)
        if name == "position_ids":
            return np.arange(self.past, self.past + self.new, dtype=np.int64)[None]
        if name == "attention_mask":
            return np.ones((1, self.past + self.new), np.int64)
        if name == "input_ids":
            return np.zeros((1, self.new), np.int64)
        return None
