"""Rotate the residual stream of a fused graph, so that it has no outlier features.

This is QuaRot's offline rotation (arXiv 2404.00456). An RMS norm without its weight is invariant to
a rotation. So each norm's weight moves into the products that read it, the weights that write to
the stream are rotated, and those that read it are rotated back: the graph computes the same at no
cost, and 8 bits hold its activations far better.

Rule: a graph in which anything else touches the stream is left as it is.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.onnx_files import attribute
from edged.builder.weights import SourceGraph, inputs_of

_NORM = "SimplifiedLayerNormalization"
_SUM_AND_NORM = "SkipSimplifiedLayerNormalization"
_SEED = 20240406
_SMALLEST_WEIGHT = 1e-6

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation of the residual stream, with its readers and writers."""

    matrix: Floats
    """[hidden, hidden], orthogonal: the stream's features become ``x @ matrix``."""
    readers: dict[str, Floats]
    """The norms' outputs, each with the norm's weight."""
    writers: frozenset[str]
    """Outputs of the products that are added to the stream."""
    gains: tuple[str, ...]
    """Names of the norms' weights."""

    def product(self, node: onnx.NodeProto, rows: Floats) -> Floats:
        """Return the [N, K] weight of a product, rotated where it reads or writes the stream."""
        return self.written(node.output[0], self.read(node.input[0], rows))

    def read(self, name: str, rows: Floats) -> Floats:
        """Return the [N, K] rows that multiply an activation, rotated if it is a norm's output."""
        gain = self.readers.get(name)
        return rows if gain is None else np.asarray((rows * gain) @ self.matrix, np.float32)

    def written(self, name: str, rows: Floats) -> Floats:
        """Return the [N, K] rows that make an output, rotated if that is added to the stream."""
        if name not in self.writers:
            return rows
        return np.asarray(self.matrix.T @ rows, np.float32)

    def table(self, rows: Floats) -> Floats:
        """Return the rotated embedding table."""
        return np.asarray(rows @ self.matrix, np.float32)

    def moments(self, name: str, moments: Floats) -> Floats:
        """Return the moments of a norm's output, without the norm's weight and rotated."""
        gain = self.readers.get(name)
        if gain is None:
            return moments
        is_used = np.abs(gain) > _SMALLEST_WEIGHT
        inverse = np.where(is_used, 1.0 / np.where(is_used, gain, 1.0), 0.0)
        # In float64: the moments are inverted later.
        bare = inverse[:, None] * moments.astype(np.float64) * inverse
        return np.asarray(self.matrix.T @ bare @ self.matrix, np.float32)


@dataclass(slots=True)
class _Stream:
    """The residual stream as far as the nodes have been followed."""

    graph: SourceGraph
    stream: set[str] = field(default_factory=set)
    products: set[str] = field(default_factory=set)
    readers: dict[str, Floats] = field(default_factory=dict)
    gains: list[str] = field(default_factory=list)
    writers: set[str] = field(default_factory=set)

    def follow(self, node: onnx.NodeProto) -> bool:
        """Follow one node; return whether the stream can still be rotated."""
        if node.op_type == "Gather" and self.graph.is_token_ids(node.input[1]):
            self.stream.add(node.output[0])
            return True
        if node.op_type == "Gather" and node.input[0] in self.stream:
            self.stream.add(node.output[0])
            return bool(attribute(node, "axis", 0) == 1)  # it selects rows
        if node.op_type == "MatMul" and self.graph.matrix(node.input[1]) is not None:
            self.products.add(node.output[0])
            return node.input[0] not in self.stream | self.writers
        if node.op_type == _NORM and node.input[0] in self.stream:
            return self._read(node, node.input[1])
        if node.op_type == _SUM_AND_NORM:
            return self._sum(node)
        return not inputs_of(node) & (self.stream | self.writers | set(self.readers))

    def _sum(self, node: onnx.NodeProto) -> bool:
        for name in node.input[:2]:
            if name in self.products and name not in self.writers:
                self.writers.add(name)
            elif name not in self.stream:
                return False
        self.stream.update(node.output[3:])
        return len(node.input) == 3 and self._read(node, node.input[2])  # noqa: PLR2004 - no bias

    def _read(self, node: onnx.NodeProto, weight: str) -> bool:
        gain = self.graph.vector(weight)
        if gain is None:
            return False
        self.readers[node.output[0]] = np.array(gain)
        self.gains.append(weight)
        return True


def find_rotation(graph: SourceGraph) -> Rotation | None:
    """Return a rotation of a graph's residual stream, or None where it cannot be rotated."""
    found = _Stream(graph)
    nodes = graph.model.graph.node
    if not all(found.follow(node) for node in nodes) or not found.readers or not found.writers:
        return None
    reads = [name for node in nodes for name in node.input]
    if any(reads.count(name) != 1 for name in found.writers):
        return None  # another node reads a summand
    if any(reads.count(name) != found.gains.count(name) for name in found.gains):
        return None
    sizes = {len(gain) for gain in found.readers.values()}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    return Rotation(
        _random_rotation(size),
        found.readers,
        frozenset(found.writers),
        tuple(dict.fromkeys(found.gains)),
    )


def _random_rotation(size: int) -> Floats:
    """Return a random orthogonal matrix, always the same for a size."""
    random = np.random.default_rng(_SEED).standard_normal((size, size))
    factor, triangle = np.linalg.qr(random)
    return np.asarray(factor * np.sign(np.diagonal(triangle)), np.float32)
