"""Attention of a prompt over a cache in int8, beside that of an answer.

GroupQueryAttention's kernel for an int8 cache unpacks each key and value again for each query. For
the one query of an answer that is as it should be; the many of a prompt wait for it. So a graph has
both: for a prompt the cache is unpacked once, and the operator's kernel for fp32 reads it.

Rule: both round keys and values to the same bits, and read what the other has written. What they
compute from them differs in its last bits only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.engine.fused import IS_PROMPT

ATTENTION = "GroupQueryAttention"
MICROSOFT = "com.microsoft"
_START, _INDEX = "prompt.start", "prompt.index"
_LENGTHS, _TOTAL = "prompt.seqlens_k", "prompt.total_sequence_length"
_OF_INT8_ONLY = frozenset({"k_quant_type", "v_quant_type", "kv_cache_bit_width", "do_rotary"})
_PAST, _ROTARY, _SCALES = slice(3, 5), slice(7, 9), (12, 13)
"""Where the operator takes the cache, the rotary tables, and the scales of keys and values."""

Scales = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of an attention's keys and values, [heads of keys and values x head size]."""


@dataclass(slots=True)
class _Writer:
    """Collects the nodes of a graph or a branch, and its constants, each stored once.

    A branch has constants of its own: what it takes from outside is looked up in each run.
    """

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        *outputs: str,
        **attributes: Any,  # noqa: ANN401 - ONNX's attributes have many types
    ) -> str:
        """Add a node and return its first output."""
        node = onnx.helper.make_node(op_type, inputs, outputs, outputs[0], **attributes)
        self.nodes.append(node)
        return outputs[0]

    def constant(self, part: str, values: NDArray[np.generic]) -> str:
        name = f"{self.name}.{part}"
        if name not in self.constants:
            self.constants[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant(".".join(map(str, values)), np.array(values, np.int64))


@dataclass(frozen=True, slots=True)
class _Heads:
    """The sizes of an attention."""

    num: int
    num_kv: int
    size: int
    turned: int
    """Features of each that are turned by the token's position; 0 for none."""


def write_prompt_attention(graph: onnx.GraphProto, scales: Mapping[str, Scales]) -> None:
    """Give each attention its scales and its other way, and the graph the input that chooses.

    Args:
        graph: a fused one with an int8 cache, but for the scales.
        scales: for each attention, by the node's name.
    """
    cache = next(v for v in graph.input if v.name.startswith("past_key_values."))
    num_kv, size = (cache.type.tensor_type.shape.dim[axis].dim_value for axis in (1, 3))
    widths = {item.name: item.dims[-1] for item in graph.initializer if item.dims}
    writer = _Writer("prompt")
    _write_places(writer, num_kv)
    for node in graph.node:
        if node.op_type == ATTENTION:
            turned = 2 * widths[node.input[_ROTARY.start]] if _attribute(node, "do_rotary") else 0
            heads = _Heads(_attribute(node, "num_heads"), num_kv, size, turned)
            writer.nodes.append(_choice(node, heads, scales[node.name]))
        else:
            writer.nodes.append(node)
    flag = onnx.helper.make_tensor_value_info(IS_PROMPT, onnx.TensorProto.BOOL, [])
    graph.input.append(flag)
    nodes = list(writer.nodes)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(writer.constants.values())


def _write_places(writer: _Writer, num_kv: int) -> None:
    """Write where the tokens of a run stand: what all layers read."""
    count = writer.node("Shape", ["input_ids"], "prompt.count", start=1, end=2)
    end = writer.node("Cast", ["total_sequence_length"], "prompt.end", to=onnx.TensorProto.INT64)
    start = writer.node("Sub", [end, count], _START)
    first = writer.node("Squeeze", [start], "prompt.first")
    one = writer.constant("step", np.array(1, np.int64))
    places = writer.node("Range", [first, end, one], "prompt.places")
    places = writer.node("Reshape", [places, writer.integers(1, 1, -1, 1)], "prompt.rows")
    shape = [writer.integers(1, num_kv), count, writer.integers(1)]
    shape = [writer.node("Concat", shape, "prompt.shape", axis=0)]
    head = np.arange(num_kv, dtype=np.int64).reshape(1, num_kv, 1, 1)
    index = [writer.integers(0), writer.constant("heads", head), places]
    index = [writer.node("Expand", [name, *shape], f"{name}.all") for name in index]
    writer.node("Concat", index, _INDEX, axis=-1)
    # With the spare row of zeros behind a prompt's: see ``fuse.attention_nodes``.
    spare = writer.constant("spare", np.array(1, np.int32))
    writer.node("Add", ["seqlens_k", spare], _LENGTHS)
    writer.node("Add", ["total_sequence_length", spare], _TOTAL)


class _Way:
    """Writes how one attention treats a prompt, as the branch of a choice."""

    def __init__(self, node: onnx.NodeProto, heads: _Heads, scales: Scales) -> None:
        self._node, self._heads, self._scales = node, heads, scales
        self._name = f"{node.name}.prompt"
        self._writer = _Writer(self._name)

    def write(self) -> onnx.GraphProto:
        """Return the branch; its outputs are those of the node, in order."""
        query, key, value = self._query_key_value()
        parts = [self._cached(*part) for part in zip("kv", (key, value), (0, 1), strict=True)]
        news, pasts, presents = zip(*parts, strict=True)
        query = self._times(query, "query.scale", self._for_queries(0))
        attended = self._writer.node(
            ATTENTION,
            [self._spared(query), *news, *pasts, _LENGTHS, _TOTAL],
            *(f"{self._name}.{part}" for part in ("attended", "keys", "values")),
            domain=MICROSOFT,
            **self._attributes(),
        )
        bounds = [self._writer.integers(*bound) for bound in ((0,), (-1,), (1,))]
        attended = self._writer.node("Slice", [attended, *bounds], f"{self._name}.slice")
        output = self._times(attended, "value.scale", self._for_queries(1))
        return _branch(self._writer, [output, *presents], self._heads)

    def _query_key_value(self) -> tuple[str, str, str]:
        """Return the three, turned by the token's position."""
        heads, names = self._heads, list(self._node.input[:3])
        if not names[1]:
            widths = [count * heads.size for count in (heads.num, heads.num_kv, heads.num_kv)]
            names = [f"{self._name}.{part}" for part in ("query", "key", "value")]
            inputs = [self._node.input[0], self._writer.integers(*widths)]
            self._writer.node("Split", inputs, *names, axis=-1)
        if heads.turned:
            names[0] = self._turned(names[0], "query.turned", heads.num)
            names[1] = self._turned(names[1], "key.turned", heads.num_kv)
        return names[0], names[1], names[2]

    def _turned(self, source: str, part: str, num_heads: int) -> str:
        heads = self._heads
        partly = {"num_heads": num_heads, "rotary_embedding_dim": heads.turned}
        return self._writer.node(
            "RotaryEmbedding",
            [source, _START, *self._node.input[_ROTARY]],
            f"{self._name}.{part}",
            domain=MICROSOFT,
            **(partly if heads.turned < heads.size else {}),
        )

    def _cached(self, part: str, source: str, which: int) -> tuple[str, str, str]:
        """Round new keys or values and store them; return new ones and old ones, and the cache."""
        node, name, heads = self._writer.node, f"{self._name}.{part}", self._heads
        # The same product as in the operator's kernel. QuantizeLinear by feature takes a third of
        # the whole attention.
        exact = self._times(source, f"{part}.steps", np.float32(1) / self._scales[which])
        one = self._writer.constant("one", np.array(1, np.float32))
        zero = self._writer.constant("zero", np.array(0, np.int8))
        rounded = node("QuantizeLinear", [exact, one, zero], f"{name}.rounded")
        apart = [rounded, self._writer.integers(0, 0, heads.num_kv, heads.size)]
        rows = node("Reshape", apart, f"{name}.heads")
        rows = node("Transpose", [rows], f"{name}.rows", perm=[0, 2, 1, 3])
        past = self._node.input[_PAST][which]
        present = node("ScatterND", [past, _INDEX, rows], f"{name}.present")
        fresh = self._spared(node("Cast", [rounded], f"{name}.new", to=onnx.TensorProto.FLOAT))
        bounds = [self._writer.integers(0), _START, self._writer.integers(2)]
        old = node("Slice", [past, *bounds], f"{name}.old")
        return fresh, node("Cast", [old], f"{name}.past", to=onnx.TensorProto.FLOAT), present

    def _times(self, source: str, part: str, factors: NDArray[np.float32]) -> str:
        stored = self._writer.constant(part, factors.astype(np.float32))
        return self._writer.node("Mul", [source, stored], f"{stored}.output")

    def _spared(self, source: str) -> str:
        pads = self._writer.integers(0, 0, 0, 0, 1, 0)
        return self._writer.node("Pad", [source, pads], f"{source}.spare")

    def _for_queries(self, which: int) -> NDArray[np.float32]:
        """Return the scales as the queries of each head meet them."""
        heads = self._heads
        each = self._scales[which].reshape(heads.num_kv, heads.size)
        return np.repeat(each, heads.num // heads.num_kv, axis=0).reshape(-1)

    def _attributes(self) -> dict[str, Any]:
        """Return the node's own, but for what goes with its cache."""
        found = {a.name: onnx.helper.get_attribute_value(a) for a in self._node.attribute}
        return {name: value for name, value in found.items() if name not in _OF_INT8_ONLY}


def _choice(node: onnx.NodeProto, heads: _Heads, scales: Scales) -> onnx.NodeProto:
    """Return what takes the way for a prompt, and the node else."""
    outputs, prompt = list(node.output), _Way(node, heads, scales).write()
    answer = _Writer(f"{node.name}.answer")
    for place, which in zip(_SCALES, ("key", "value"), strict=True):
        node.input[place] = answer.constant(f"{which}.scale", scales[place - _SCALES[0]])
    node.output[:] = [f"{name}.answer" for name in outputs]
    answer.nodes.append(node)
    return onnx.helper.make_node(
        "If",
        [IS_PROMPT],
        outputs,
        node.name,
        then_branch=prompt,
        else_branch=_branch(answer, node.output, heads),
    )


def _branch(writer: _Writer, outputs: Sequence[str], heads: _Heads) -> onnx.GraphProto:
    info, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    cache = ["batch", heads.num_kv, "capacity", heads.size]
    shapes = [info(outputs[0], types.FLOAT, ["batch", "tokens", heads.num * heads.size])]
    shapes += [info(output, types.INT8, cache) for output in outputs[1:]]
    constants = list(writer.constants.values())
    return onnx.helper.make_graph(writer.nodes, writer.name, [], shapes, constants)


def _attribute(node: onnx.NodeProto, name: str) -> int:
    return next((a.i for a in node.attribute if a.name == name), 0)
