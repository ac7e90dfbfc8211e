"""Read which positions an attention sees, and by which angles it rotates them.

Rule: both are measured on the export's own subgraphs at the lengths that will be used, so every
kind of rotary scaling and of window comes out as the export has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edged.builder.fuse.blocks import Rotary
from edged.builder.fuse.traced import Array, NotFusable, TracedGraph

# Masked scores are below this; exports use -inf or the least float.
_MASKED = -1e30


@dataclass(frozen=True, slots=True)
class DummyInputs:
    """Inputs of one call of the export: ``new`` tokens after ``past`` tokens, batch of one.

    Projections are replaced by zeros. So a tensor that depends on data, not on positions and
    lengths alone, has an unknown input instead of a wrong value.
    """

    past: int
    new: int
    cache_dims: tuple[int, int]
    """Key and value heads, head size."""
    widths: Mapping[str, int]
    """Size of the last axis of each activation that is replaced."""

    def feed(self, name: str) -> Array | None:
        """Return the value of an input or an activation, or None for any other tensor."""
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


def read_window(
    graph: TracedGraph, mask: str, dummy: DummyInputs, max_model_len: int
) -> int | None:
    """Return how many positions a token sees, itself included; None for all of them.

    Reads the mask of the first rows of a prefill and of the last rows before ``max_model_len``.

    Raises:
        NotFusable: The mask is not causal, or has other values than a mask.
    """
    rows = min(8, max_model_len)
    late = _visible(graph, mask, dummy, max_model_len - rows, rows)
    window = int(late[-1].sum())
    for past, is_visible in (
        (0, _visible(graph, mask, dummy, 0, rows)),
        (max_model_len - rows, late),
    ):
        position = np.arange(past, past + rows)[:, None]
        key = np.arange(past + rows)[None]
        if not np.array_equal(is_visible, (key <= position) & (key > position - window)):
            raise NotFusable("the attention mask is neither causal nor a sliding window")
    return None if window == max_model_len else window


def _visible(graph: TracedGraph, mask: str, dummy: DummyInputs, past: int, new: int) -> Array:
    """Return a boolean [new, past + new]: which keys each query sees.

    Raises:
        NotFusable: The mask has other values than 0 and minus infinity, or depends on data.
    """
    here = replace(dummy, past=past, new=new)
    (values,) = graph.evaluate([mask], here.feed)
    values = values.reshape(values.shape[-2:]) if values.size == new * (past + new) else values
    is_visible: Array = values == 0
    if values.shape != (new, past + new) or not np.all(is_visible | (values < _MASKED)):
        raise NotFusable("scores get more than a mask added (position biases are not supported)")
    return is_visible


def read_rotary(
    graph: TracedGraph, rotary: Rotary, dummy: DummyInputs, max_model_len: int
) -> tuple[Array, Array]:
    """Return cosines and sines [max_model_len, rotary size / 2] of the positions from 0.

    Raises:
        NotFusable: The rotation is not the half-split kind, or depends on the length.
    """
    here = replace(dummy, past=0, new=max_model_len)
    tensors = (rotary.first, rotary.second)
    tables = graph.evaluate(tensors, here.feed)
    first = replace(dummy, past=0, new=min(2, max_model_len))
    for table, start in zip(tables, graph.evaluate(tensors, first.feed), strict=True):
        # Equal angles may differ in the last bit: vector kernels differ by length.
        same = table.reshape(max_model_len, -1)[: first.new]
        if not np.allclose(same, start.reshape(first.new, -1), atol=1e-6):
            raise NotFusable("the rotary angles depend on the length of the text")
    left, right = (_half(table, max_model_len) for table in tables)
    if not right[0].any():
        return left, right
    if not left[0].any():
        return right, left
    raise NotFusable("neither of the rotary tensors is the sine")


def _half(table: Array, max_model_len: int) -> Array:
    """Return the first half of the last axis, when the second half repeats it.

    Raises:
        NotFusable: It does not.
    """
    if table.size == 0 or table.size % (2 * max_model_len) != 0:
        raise NotFusable("the rotary tensors are not one row a position")
    table = table.reshape(max_model_len, -1)
    left, right = np.split(table, 2, axis=-1)
    if not np.array_equal(left, right):
        raise NotFusable("rotary in neighbouring pairs is not supported")
    return np.ascontiguousarray(left, dtype=np.float32)
