"""Attention of the prefill branch over an int8 KV cache.

GroupQueryAttention's kernel for an int8 cache dequantizes every key and value again for each query.
That is right for the single query of a decode step, and slow for the many of a prefill. So the
prefill branch dequantizes the cache once and runs the fp32 kernel on it.

Rule: both branches quantize keys and values by the same operations, and read each other's cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.adapted import Product, find_products, write_adapted
from edged.builder.branches import Branch, fuse_narrow_scaling, remove_constants, write_if
from edged.builder.onnx_files import MICROSOFT, attribute
from edged.engine.fused import HIDDEN, IS_PROMPT
from edged.engine.signature import DECODE, PREFILL

ATTENTION = "GroupQueryAttention"
_START, _INDEX = "positions.start", "positions.index"
_LENGTHS, _TOTAL = "positions.seqlens_k", "positions.total_sequence_length"
_COUNTS, _BEFORE = "positions.query_seqlens", "positions.before"
_INT8_ATTRIBUTES = frozenset({"k_quant_type", "v_quant_type", "kv_cache_bit_width", "do_rotary"})
# Inputs of the operator: the cache, the rotary tables, the scales of keys and values.
_PAST, _ROTARY, _SCALES = slice(3, 5), slice(7, 9), (12, 13)
# Those from the rotary tables to ``query_seqlens``, without which it takes one slot only.
_UNUSED = ("",) * 9

# Scales of an attention's keys and values, each [KV heads x head size].
Scales = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Heads:
    """The sizes of an attention."""

    num: int
    num_kv: int
    size: int
    rotary: int
    """Features of each head that are rotated by position; 0 for none."""


def write_branches(graph: onnx.GraphProto, scales: Mapping[str, Scales]) -> onnx.GraphProto | None:
    """Give each attention its scales, and the graph a prefill and a decode branch.

    Args:
        graph: a fused graph with an int8 cache whose attentions have no scales yet.
        scales: by the name of each attention's first output.

    Returns:
        The same graph in another form, in which the upper part of each branch has a twin that takes
        adapters; None where its products are not found.
    """
    cache = next(v for v in graph.input if v.name.startswith("past_key_values."))
    num_kv, size = (cache.type.tensor_type.shape.dim[axis].dim_value for axis in (1, 3))
    widths = {item.name: item.dims[-1] for item in graph.initializer if item.dims}
    prefill, decode = Branch(PREFILL), Branch(DECODE)
    _write_positions(prefill, num_kv)
    for node in graph.node:
        if node.op_type == ATTENTION:
            rotary = 2 * widths[node.input[_ROTARY.start]] if attribute(node, "do_rotary") else 0
            heads = _Heads(attribute(node, "num_heads"), num_kv, size, rotary)
            name = node.output[0]
            _PrefillAttention(prefill, node, heads, scales[name]).write()
            for index, values in zip(_SCALES, scales[name], strict=True):
                node.input[index] = decode.constant(f"{name}.scale.{index}", values)
        else:
            prefill.nodes.append(node)
        if not node.name.startswith(HIDDEN):
            decode.nodes.append(node)
    decode.nodes = list(fuse_narrow_scaling(decode.nodes, widths))
    products = find_products(graph)
    del graph.node[:]
    adapted = _adapted(graph, prefill, decode, products) if products else None
    if any(value.name == HIDDEN for value in graph.output):
        # A branch owes every output; nobody reads an answer's hidden states.
        nothing = decode.constant(f"{HIDDEN}.none", np.zeros((1, 0, 0, 0), np.float32))
        decode.node("Identity", [nothing], HIDDEN)
    write_if(graph, IS_PROMPT, prefill, decode)
    remove_constants(graph)
    return adapted


def _adapted(
    graph: onnx.GraphProto, prefill: Branch, decode: Branch, products: Mapping[str, Product]
) -> onnx.GraphProto:
    adapted = onnx.GraphProto()
    adapted.CopyFrom(graph)
    write_adapted(adapted, prefill, decode, products)
    remove_constants(adapted)
    return adapted


def _write_positions(branch: Branch, num_kv: int) -> None:
    """Write what all layers read: the cache positions of the run's tokens, and its lengths.

    All slots of a run begin at one position; those with fewer tokens than others are padded behind.
    """
    batch = branch.node("Shape", ["input_ids"], "positions.batch", start=0, end=1)
    count = branch.node("Shape", ["input_ids"], "positions.count", start=1, end=2)
    end = branch.node("Cast", ["total_sequence_length"], "positions.end", to=onnx.TensorProto.INT64)
    start = branch.node("Sub", [end, count], _START)
    branch.node("Add", [start, branch.integers(1)], _BEFORE)  # with the spare row
    first = branch.node("Squeeze", [start], "positions.first")
    slots = branch.node("Squeeze", [batch], "positions.slots")
    zero, one = (branch.constant(f"positions.{n}", np.array(n, np.int64)) for n in (0, 1))
    slots = branch.node("Range", [zero, slots, one], "positions.slot")
    slots = branch.node("Reshape", [slots, branch.integers(-1, 1, 1, 1)], "positions.slot.rows")
    positions = branch.node("Range", [first, end, one], "positions")
    positions = branch.node("Reshape", [positions, branch.integers(1, 1, -1, 1)], "positions.rows")
    shape = [batch, branch.integers(num_kv), count, branch.integers(1)]
    shape = [branch.node("Concat", shape, "positions.shape", axis=0)]
    head = np.arange(num_kv, dtype=np.int64).reshape(1, num_kv, 1, 1)
    index = [slots, branch.constant("positions.heads", head), positions]
    index = [branch.node("Expand", [name, *shape], f"{name}.all") for name in index]
    branch.node("Concat", index, _INDEX, axis=-1)
    # With the spare row behind the prompt: see ``fuse.attention_nodes``.
    spare = branch.constant("positions.spare", np.array(1, np.int32))
    for spared in (_LENGTHS, _TOTAL, _COUNTS):
        branch.node("Add", [spared.removeprefix("positions."), spare], spared)


class _PrefillAttention:
    """Writes one attention into the prefill branch."""

    def __init__(self, branch: Branch, node: onnx.NodeProto, heads: _Heads, scales: Scales) -> None:
        self._branch, self._node, self._heads, self._scales = branch, node, heads, scales
        self._name = f"{node.output[0]}.prefill"

    def write(self) -> None:
        """Add the nodes that compute the attention's outputs."""
        query, key, value = self._query_key_value()
        (new_key, past_key), (new_value, past_value) = self._cached(key, 0), self._cached(value, 1)
        # The kernel runs on the stored steps, so the scales move to the query and to the output.
        query = self._times(query, "query.scale", self._scales_by_head(0))
        query = self._with_spare_row(query)
        lengths = [_LENGTHS, _TOTAL, *_UNUSED, _COUNTS]
        parts = [f"{self._name}.{part}" for part in ("attended", "keys", "values")]
        attended = self._branch.node(
            ATTENTION,
            [query, new_key, new_value, past_key, past_value, *lengths],
            *parts,
            domain=MICROSOFT,
            **self._attributes(),
        )
        bounds = [self._branch.integers(0), self._num_tokens(parts[1:]), self._branch.integers(1)]
        attended = self._branch.node("Slice", [attended, *bounds], f"{self._name}.slice")
        self._times(attended, "value.scale", self._scales_by_head(1), self._node.output[0])

    def _num_tokens(self, presents: Sequence[str]) -> str:
        """Count the run's tokens by the keys and values that attention returns."""
        # Nothing else needs these two outputs. But without them attention is not tiled, and an
        # output that no node reads is held until the run ends, in all layers.
        branch = self._branch
        rows = [branch.node("Shape", [name], f"{name}.rows", start=2, end=3) for name in presents]
        least = branch.node("Min", rows, f"{self._name}.rows")
        return branch.node("Sub", [least, _BEFORE], f"{self._name}.tokens")

    def _query_key_value(self) -> tuple[str, str, str]:
        """Return query, key and value, rotated by position."""
        heads, names = self._heads, list(self._node.input[:3])
        if not names[1]:
            widths = [count * heads.size for count in (heads.num, heads.num_kv, heads.num_kv)]
            names = [f"{self._name}.{part}" for part in ("query", "key", "value")]
            inputs = [self._node.input[0], self._branch.integers(*widths)]
            self._branch.node("Split", inputs, *names, axis=-1)
        if heads.rotary:
            names[0] = self._rotated(names[0], "query.rotated", heads.num)
            names[1] = self._rotated(names[1], "key.rotated", heads.num_kv)
        return names[0], names[1], names[2]

    def _rotated(self, source: str, part: str, num_heads: int) -> str:
        heads = self._heads
        partial = {"num_heads": num_heads, "rotary_embedding_dim": heads.rotary}
        return self._branch.node(
            "RotaryEmbedding",
            [source, _START, *self._node.input[_ROTARY]],
            f"{self._name}.{part}",
            domain=MICROSOFT,
            **(partial if heads.rotary < heads.size else {}),
        )

    def _cached(self, source: str, which: int) -> tuple[str, str]:
        """Quantize new keys or values and store them; return the new and the past ones in fp32."""
        branch, name, heads = self._branch, f"{self._name}.{'kv'[which]}", self._heads
        # The same product as in the operator's kernel. QuantizeLinear by feature takes a third of
        # the whole attention.
        exact = self._times(source, f"{'kv'[which]}.steps", np.float32(1) / self._scales[which])
        one = branch.constant("cache.one", np.array(1, np.float32))
        zero = branch.constant("cache.zero", np.array(0, np.int8))
        rounded = branch.node("QuantizeLinear", [exact, one, zero], f"{name}.rounded")
        shape = branch.integers(0, 0, heads.num_kv, heads.size)
        rows = branch.node("Reshape", [rounded, shape], f"{name}.heads")
        rows = branch.node("Transpose", [rows], f"{name}.rows", perm=[0, 2, 1, 3])
        updates = [self._node.input[_PAST][which], _INDEX, rows]
        present = branch.node("ScatterND", updates, self._node.output[1 + which])
        new = branch.node("Cast", [rounded], f"{name}.new", to=onnx.TensorProto.FLOAT)
        new = self._with_spare_row(new)
        bounds = [branch.integers(0), _START, branch.integers(2)]
        # Sliced from the updated cache, so that the update runs now: ONNX Runtime would run it last
        # and hold the rounded rows of all layers until then.
        past = branch.node("Slice", [present, *bounds], f"{name}.old")
        return new, branch.node("Cast", [past], f"{name}.past", to=onnx.TensorProto.FLOAT)

    def _times(
        self, source: str, part: str, factors: NDArray[np.float32], output: str | None = None
    ) -> str:
        stored = self._branch.constant(f"{self._name}.{part}", factors.astype(np.float32))
        return self._branch.node("Mul", [source, stored], output or f"{stored}.output")

    def _with_spare_row(self, source: str) -> str:
        pads = self._branch.integers(0, 0, 0, 0, 1, 0)
        return self._branch.node("Pad", [source, pads], f"{source}.spare")

    def _scales_by_head(self, which: int) -> NDArray[np.float32]:
        """Return the scales of keys or values repeated for each query head, flat."""
        heads = self._heads
        each = self._scales[which].reshape(heads.num_kv, heads.size)
        return np.repeat(each, heads.num // heads.num_kv, axis=0).reshape(-1)

    def _attributes(self) -> dict[str, Any]:
        """Return the node's attributes, without those of an int8 cache."""
        found = {a.name: onnx.helper.get_attribute_value(a) for a in self._node.attribute}
        return {name: value for name, value in found.items() if name not in _INT8_ATTRIBUTES}
