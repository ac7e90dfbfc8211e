"""Attention of a prompt over a cache in int8, beside that of an answer.

GroupQueryAttention's kernel for an int8 cache unpacks each key and value again for each query. For
the one query of an answer that is as it should be; the many of a prompt wait for it. So a graph has
two ways: in that for a prompt the cache is unpacked once, and the kernel for fp32 reads it.

Rule: both round keys and values to the same bits, and read what the other has written. What they
compute from them differs in its last bits only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.ways import Way, for_one_row, write_choice
from edged.engine.fused import IS_PROMPT

ATTENTION = "GroupQueryAttention"
MICROSOFT = "com.microsoft"
_START, _INDEX = "places.start", "places.index"
_LENGTHS, _TOTAL = "places.seqlens_k", "places.total_sequence_length"
_BEFORE = "places.before"
_OF_INT8_ONLY = frozenset({"k_quant_type", "v_quant_type", "kv_cache_bit_width", "do_rotary"})
_PAST, _ROTARY, _SCALES = slice(3, 5), slice(7, 9), (12, 13)
"""Where the operator takes the cache, the rotary tables, and the scales of keys and values."""

Scales = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of an attention's keys and values, [heads of keys and values x head size]."""


@dataclass(frozen=True, slots=True)
class _Heads:
    """The sizes of an attention."""

    num: int
    num_kv: int
    size: int
    turned: int
    """Features of each that are turned by the token's position; 0 for none."""


def write_ways(graph: onnx.GraphProto, scales: Mapping[str, Scales]) -> None:
    """Give each attention its scales, and the graph its way for prompts and the input that chooses.

    Args:
        graph: a fused one with an int8 cache, but for the scales.
        scales: for each attention, by the name of what it computes.
    """
    cache = next(v for v in graph.input if v.name.startswith("past_key_values."))
    num_kv, size = (cache.type.tensor_type.shape.dim[axis].dim_value for axis in (1, 3))
    widths = {item.name: item.dims[-1] for item in graph.initializer if item.dims}
    prompt, answer = Way("prompt"), Way("answer")
    _write_places(prompt, num_kv)
    for node in graph.node:
        if node.op_type == ATTENTION:
            turned = 2 * widths[node.input[_ROTARY.start]] if _attribute(node, "do_rotary") else 0
            heads = _Heads(_attribute(node, "num_heads"), num_kv, size, turned)
            name = node.output[0]
            _ForPrompts(prompt, node, heads, scales[name]).write()
            for place, values in zip(_SCALES, scales[name], strict=True):
                node.input[place] = answer.constant(f"{name}.scale.{place}", values)
        else:
            prompt.nodes.append(node)
        answer.nodes.append(node)
    answer.nodes = list(for_one_row(answer.nodes, widths))
    write_choice(graph, IS_PROMPT, prompt, answer)


def _write_places(way: Way, num_kv: int) -> None:
    """Write where the tokens of a run stand: what all layers read."""
    count = way.node("Shape", ["input_ids"], "places.count", start=1, end=2)
    end = way.node("Cast", ["total_sequence_length"], "places.end", to=onnx.TensorProto.INT64)
    start = way.node("Sub", [end, count], _START)
    way.node("Add", [start, way.integers(1)], _BEFORE)  # with the spare row
    first = way.node("Squeeze", [start], "places.first")
    one = way.constant("places.step", np.array(1, np.int64))
    places = way.node("Range", [first, end, one], "places")
    places = way.node("Reshape", [places, way.integers(1, 1, -1, 1)], "places.rows")
    shape = [way.integers(1, num_kv), count, way.integers(1)]
    shape = [way.node("Concat", shape, "places.shape", axis=0)]
    head = np.arange(num_kv, dtype=np.int64).reshape(1, num_kv, 1, 1)
    index = [way.integers(0), way.constant("places.heads", head), places]
    index = [way.node("Expand", [name, *shape], f"{name}.all") for name in index]
    way.node("Concat", index, _INDEX, axis=-1)
    # With the spare row of zeros behind a prompt's: see ``fuse.attention_nodes``.
    spare = way.constant("places.spare", np.array(1, np.int32))
    way.node("Add", ["seqlens_k", spare], _LENGTHS)
    way.node("Add", ["total_sequence_length", spare], _TOTAL)


class _ForPrompts:
    """Writes one attention as it is in the way for prompts."""

    def __init__(self, way: Way, node: onnx.NodeProto, heads: _Heads, scales: Scales) -> None:
        self._way, self._node, self._heads, self._scales = way, node, heads, scales
        self._name = f"{node.output[0]}.prompt"

    def write(self) -> None:
        """Add what gives the node's outputs."""
        query, key, value = self._query_key_value()
        (new_key, past_key), (new_value, past_value) = self._cached(key, 0), self._cached(value, 1)
        query = self._times(query, "query.scale", self._for_queries(0))
        parts = [f"{self._name}.{part}" for part in ("attended", "keys", "values")]
        attended = self._way.node(
            ATTENTION,
            [self._spared(query), new_key, new_value, past_key, past_value, _LENGTHS, _TOTAL],
            *parts,
            domain=MICROSOFT,
            **self._attributes(),
        )
        bounds = [self._way.integers(0), self._num_tokens(parts[1:]), self._way.integers(1)]
        attended = self._way.node("Slice", [attended, *bounds], f"{self._name}.slice")
        self._times(attended, "value.scale", self._for_queries(1), self._node.output[0])

    def _num_tokens(self, stored: Sequence[str]) -> str:
        """Count the run's tokens by the keys and values that attention returns.

        They are good for nothing else. But without them attention is not computed in tiles, and
        what no node takes is held to the end of the run, in all layers.
        """
        way = self._way
        rows = [way.node("Shape", [name], f"{name}.rows", start=2, end=3) for name in stored]
        least = way.node("Min", rows, f"{self._name}.rows")
        return way.node("Sub", [least, _BEFORE], f"{self._name}.tokens")

    def _query_key_value(self) -> tuple[str, str, str]:
        """Return the three, turned by the token's position."""
        heads, names = self._heads, list(self._node.input[:3])
        if not names[1]:
            widths = [count * heads.size for count in (heads.num, heads.num_kv, heads.num_kv)]
            names = [f"{self._name}.{part}" for part in ("query", "key", "value")]
            inputs = [self._node.input[0], self._way.integers(*widths)]
            self._way.node("Split", inputs, *names, axis=-1)
        if heads.turned:
            names[0] = self._turned(names[0], "query.turned", heads.num)
            names[1] = self._turned(names[1], "key.turned", heads.num_kv)
        return names[0], names[1], names[2]

    def _turned(self, source: str, part: str, num_heads: int) -> str:
        heads = self._heads
        partly = {"num_heads": num_heads, "rotary_embedding_dim": heads.turned}
        return self._way.node(
            "RotaryEmbedding",
            [source, _START, *self._node.input[_ROTARY]],
            f"{self._name}.{part}",
            domain=MICROSOFT,
            **(partly if heads.turned < heads.size else {}),
        )

    def _cached(self, source: str, which: int) -> tuple[str, str]:
        """Round new keys or values and store them; return the new ones and the old ones."""
        way, name, heads = self._way, f"{self._name}.{'kv'[which]}", self._heads
        # The same product as in the operator's kernel. QuantizeLinear by feature takes a third of
        # the whole attention.
        exact = self._times(source, f"{'kv'[which]}.steps", np.float32(1) / self._scales[which])
        one = way.constant("cache.one", np.array(1, np.float32))
        zero = way.constant("cache.zero", np.array(0, np.int8))
        rounded = way.node("QuantizeLinear", [exact, one, zero], f"{name}.rounded")
        apart = [rounded, way.integers(0, 0, heads.num_kv, heads.size)]
        rows = way.node("Reshape", apart, f"{name}.heads")
        rows = way.node("Transpose", [rows], f"{name}.rows", perm=[0, 2, 1, 3])
        places = [self._node.input[_PAST][which], _INDEX, rows]
        present = way.node("ScatterND", places, self._node.output[1 + which])
        fresh = self._spared(way.node("Cast", [rounded], f"{name}.new", to=onnx.TensorProto.FLOAT))
        bounds = [way.integers(0), _START, way.integers(2)]
        # From what is stored, so that it is stored now: ONNX Runtime would leave that to the end of
        # the run, and hold the rounded rows of all layers until then.
        old = way.node("Slice", [present, *bounds], f"{name}.old")
        return fresh, way.node("Cast", [old], f"{name}.past", to=onnx.TensorProto.FLOAT)

    def _times(
        self, source: str, part: str, factors: NDArray[np.float32], output: str | None = None
    ) -> str:
        stored = self._way.constant(f"{self._name}.{part}", factors.astype(np.float32))
        return self._way.node("Mul", [source, stored], output or f"{stored}.output")

    def _spared(self, source: str) -> str:
        pads = self._way.integers(0, 0, 0, 0, 1, 0)
        return self._way.node("Pad", [source, pads], f"{source}.spare")

    def _for_queries(self, which: int) -> NDArray[np.float32]:
        """Return the scales as the queries of each head meet them."""
        heads = self._heads
        each = self._scales[which].reshape(heads.num_kv, heads.size)
        return np.repeat(each, heads.num // heads.num_kv, axis=0).reshape(-1)

    def _attributes(self) -> dict[str, Any]:
        """Return the node's own, but for what goes with its cache."""
        found = {a.name: onnx.helper.get_attribute_value(a) for a in self._node.attribute}
        return {name: value for name, value in found.items() if name not in _OF_INT8_ONLY}


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)
