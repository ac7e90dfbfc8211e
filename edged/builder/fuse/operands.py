"""Trace an operand of the attention back to its projection.

Rule: only operators that move, rotate or scale data may lie between; any other is refused.
"""

import math
from dataclasses import dataclass, field

import onnx

from edged.builder.fuse.blocks import Linear, Norm
from edged.builder.fuse.linears import read_linear, read_norm
from edged.builder.fuse.traced import NotFusable, TracedGraph, scope

_DATA_PATH = frozenset({
    "Add", "Concat", "Expand", "Mul", "Neg", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
_SHAPED_BY_FIRST = frozenset({"Expand", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze"})


@dataclass(slots=True)
class _Path:
    """The origin of one operand of the attention."""

    scale: float = 1.0
    modules: list[str] = field(default_factory=list)
    """Outputs of the attention's submodules: projections, or norms of them."""
    cache: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Tensors from other modules: cosine and sine."""


@dataclass(frozen=True, slots=True)
class Operand:
    """The query, key or value of an attention."""

    linear: Linear
    norm: Norm | None
    scale: float
    others: tuple[str, ...]


def read_operand(graph: TracedGraph, module: str, name: str, layer: int) -> Operand:
    """Trace one operand of the attention back to its projection.

    Raises:
        NotFusable: Something on the way is not understood.
    """
    path = _trace(graph, module, name)
    if any(not item.startswith(f"past_key_values.{layer}.") for item in path.cache):
        raise NotFusable(f"{module} reads another layer's cache")
    if len(path.modules) != 1:
        raise NotFusable(f"{module} makes an operand from {len(path.modules)} projections, not one")
    producer = graph.producers[path.modules[0]]
    norm = read_norm(graph, producer)
    if norm is not None:
        inner = _trace(graph, module, norm.inputs[0])
        if inner.others or inner.cache or len(inner.modules) != 1 or inner.scale != 1.0:
            raise NotFusable(f"{norm.scope} does not normalize a projection alone")
        producer = graph.producers[inner.modules[0]]
    linear = read_linear(graph, producer)
    if linear is None:
        raise NotFusable(f"{scope(producer)} is not a projection")
    return Operand(linear, norm, path.scale, tuple(path.others))


def _trace(graph: TracedGraph, module: str, name: str) -> _Path:
    """Follow the data from ``name`` back through the attention's own operators.

    Raises:
        NotFusable: Another operator than one that moves or rotates data is found.
    """
    path = _Path()
    pending, seen = [graph.resolve(name)], set[str]()
    while pending:
        current = pending.pop()
        node = graph.producers.get(current)
        if current in seen or graph.dims(current) is not None:
            continue
        seen.add(current)
        if node is None:
            path.cache.append(current)
        elif scope(node) == module:
            pending.extend(graph.resolve(n) for n in _data_inputs(graph, node, path))
        elif scope(node).startswith(f"{module}."):
            path.modules.append(current)
        else:
            path.others.append(_without_unsqueeze(graph, current))
    return path


def _without_unsqueeze(graph: TracedGraph, name: str) -> str:
    """Return the tensor before axes were added, which the exporter shares between layers."""
    while (node := graph.producer(name)) is not None and node.op_type == "Unsqueeze":
        name = node.input[0]
    return graph.resolve(name)


def _data_inputs(graph: TracedGraph, node: onnx.NodeProto, path: _Path) -> list[str]:
    """Return the inputs that carry data; multiply a constant factor into ``path.scale``.

    Raises:
        NotFusable: The operator does not move, rotate or scale data.
    """
    if node.op_type not in _DATA_PATH:
        raise NotFusable(f"{node.op_type} inside attention is not known ({node.name})")
    if node.op_type in _SHAPED_BY_FIRST:
        return [node.input[0]]
    constants = [name for name in node.input if graph.dims(name) is not None]
    factors = [graph.scalar(name) for name in constants]
    if constants and (node.op_type != "Mul" or None in factors):
        raise NotFusable(f"{node.name} changes an operand of attention by a constant")
    path.scale *= math.prod(factor for factor in factors if factor is not None)
    return list(node.input)
