"""Reading which positions an attention sees and by which angles it turns them.

Rule: both are measured on the export's own subgraphs at the lengths that will be used, so every
kind of rotary scaling and of window comes out as the export has it, off-by-ones included.
"""

import numpy as np

from edged.builder.fuse.blocks import Rotary
from edged.builder.fuse.probe import Probe
from edged.builder.fuse.traced import Array, NotFusable, TracedGraph

_HIDDEN = -1e30
"""A score below this is a masked one; exports use -inf or the least float."""


def read_window(graph: TracedGraph, mask: str, probe: Probe, max_model_len: int) -> int | None:
    """Return how many positions a token sees, itself included; None when it is all of them.

    Looks at the first rows of a prefill and at the last rows before ``max_model_len``.

    Raises:
        NotFusable: The mask is not causal, or is more than a mask.
    """
    rows = min(8, max_model_len)
    late = _visible(graph, mask, probe, max_model_len - rows, rows)
    window = int(late[-1].sum())
    for past, is_visible in (
        (0, _visible(graph, mask, probe, 0, rows)),
        (max_model_len - rows, late),
    ):
        position = np.arange(past, past + rows)[:, None]
        key = np.arange(past + rows)[None]
        if not np.array_equal(is_visible, (key <= position) & (key > position - window)):
            raise NotFusable("the attention mask is neither causal nor a sliding window")
    return None if window == max_model_len else window


def _visible(graph: TracedGraph, mask: str, probe: Probe, past: int, new: int) -> Array:
    """Return a boolean [new, past + new]: which keys each query sees.

    Raises:
        NotFusable: The mask has other values than 0 and minus infinity, or depends on data.
    """
    here = Probe(past, new, probe.cache_dims, probe.widths)
    (values,) = graph.evaluate([mask], here.feed)
    values = values.reshape(values.shape[-2:]) if values.size == new * (past + new) else values
    is_visible: Array = values == 0
    if values.shape != (new, past + new) or not np.all(is_visible | (values < _HIDDEN)):
        raise NotFusable("scores get more than a mask added (position biases are not known)")
    return is_visible


def read_rotary(
    graph: TracedGraph, rotary: Rotary, probe: Probe, max_model_len: int
) -> tuple[Array, Array]:
    """Return cosines and sines [max_model_len, rotary size / 2] of the positions from 0.

    Raises:
        NotFusable: The rotation is not the half-split kind, or depends on the length.
    """
    here = Probe(0, max_model_len, probe.cache_dims, probe.widths)
    tensors = (rotary.first, rotary.second)
    tables = graph.evaluate(tensors, here.feed)
    first = Probe(0, min(2, max_model_len), probe.cache_dims, probe.widths)
    for table, start in zip(tables, graph.evaluate(tensors, first.feed), strict=True):
        # The same angles may differ in the last bit: lengths take different vector kernels.
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
        raise NotFusable("rotary in neighbouring pairs is not known")
    return np.ascontiguousarray(left, dtype=np.float32)
