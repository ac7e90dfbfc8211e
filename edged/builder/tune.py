"""Prepare a graph's weights for 8-bit activations: rotate outliers away, round by GPTQ.

Rule: one fixed method, no search: measurements decide the rounding only, never the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.calibrate import Moments, measure_moments
from edged.builder.gptq import column_scales, gptq_round
from edged.builder.hadamard import block_size, rotate_blocks, rotate_moments
from edged.builder.rotate import Rotation, find_rotation
from edged.builder.weights import SourceGraph
from edged.errors import BuildError
from edged.specialists.adapter import NORM_PEAK

_CHUNK_ELEMENTS = 1 << 22

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ColumnWeight:
    """A quantized matrix of K inputs and N outputs."""

    data: NDArray[np.int8]
    """[K, N], in [-127, 127]"""
    scales: Floats
    """[N]"""


@dataclass(slots=True)
class Kept:
    """What was computed for one scaling of a graph's norms and is the same for the other.

    The weights take a quarter of the memory of those in fp32.
    """

    moments: Moments | None = None
    weights: dict[str, ColumnWeight] = field(default_factory=dict)
    """By output of the product."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """The transformations of a graph's weights before they are stored; by default, none."""

    rotation: Rotation | None = None
    moments: Moments = field(default_factory=dict)
    no_outliers: frozenset[str] = frozenset()
    """Activations that 8 bits hold without a Hadamard rotation."""
    static_norms: frozenset[str] = frozenset()
    """Outputs of rotated norms, and rows of them, which get one static scale."""
    weights: dict[str, ColumnWeight] | None = None
    """Quantized already, by output of the product; None keeps none."""

    @property
    def is_fused(self) -> bool:
        """Whether the graph is known to be fused: only such a graph has moments."""
        return bool(self.moments)

    def with_dynamic_norms(self) -> "Tuning":
        """Return the tuning with a scale for each row of a norm's output."""
        return replace(self, static_norms=frozenset())

    def peak(self, name: str) -> float | None:
        """Return where an activation is clipped; None for each row's own largest value."""
        return NORM_PEAK if name in self.static_norms else None

    def block(self, name: str, width: int) -> int:
        """Return the size of an activation's Hadamard blocks; 1 for none."""
        return 1 if name in self.no_outliers else block_size(width)

    def weight(self, node: onnx.NodeProto, rows: Floats) -> ColumnWeight:
        """Quantize the [N, K] weight of a product, with one scale for each output.

        Args:
            node: the product.
            rows: any strides; without moments it is processed in chunks.

        Raises:
            BuildError: the weight holds NaN or infinity.
        """
        if self.weights is None:
            return self._weight(node, rows)
        name = node.output[0]
        if name not in self.weights:
            self.weights[name] = self._weight(node, rows)
        return self.weights[name]

    def _weight(self, node: onnx.NodeProto, rows: Floats) -> ColumnWeight:
        num_rows, num_columns = rows.shape
        data = np.empty((num_columns, num_rows), np.int8)
        scales = np.empty(num_rows, np.float32)
        block = self.block(node.input[0], num_columns)
        moments = self.moments.get(node.input[0])
        if self.rotation is not None:
            rows = self.rotation.product(node, rows)
            if moments is not None:
                moments = self.rotation.moments(node.input[0], moments)
        rotated = None if moments is None else rotate_moments(moments, block)
        step = max(1, _CHUNK_ELEMENTS // num_columns) if moments is None else num_rows
        for start in range(0, num_rows, step):
            chunk = np.ascontiguousarray(rows[start : start + step])
            if not np.isfinite(chunk).all():
                name = node.name or node.output[0]
                raise BuildError(f"{name}: holds NaN or infinity; the source is damaged")
            columns = rotate_blocks(chunk, block).T
            part = slice(start, start + columns.shape[1])
            scales[part] = column_scales(columns)
            data[:, part] = gptq_round(columns, scales[part], rotated)
        return ColumnWeight(data, scales)

    def table(self, rows: Floats) -> Floats:
        """Return the embedding table to be stored."""
        return rows if self.rotation is None else self.rotation.table(rows)


def tune(
    graph: SourceGraph, folder: Path, sequences: Sequence[Sequence[int]], kept: Kept
) -> Tuning:
    """Measure the graph in ``folder`` and change ``graph`` accordingly; blocks for seconds.

    Args:
        graph: the same graph; norm weights that move into products become 1.
        folder: of the fp32 graph.
        sequences: token ids to run it on; without any, nothing changes.
        kept: of the same graph and the same token ids; gets what is missing in it.
    """
    if kept.moments is None:
        kept.moments = measure_moments(folder, sequences)
    if not kept.moments:
        return Tuning()
    return replace(rotated(graph, kept.moments), weights=kept.weights)


def rotated(graph: SourceGraph, moments: Moments) -> Tuning:
    """Change ``graph`` for the rotation of its stream, where it can be rotated."""
    rotation = find_rotation(graph)
    if rotation is None:
        return Tuning(moments=moments)
    for name in rotation.gains:
        gain = graph.vector(name)
        if gain is not None:
            graph.override(name, np.ones_like(gain))
    attended = {n.output[0] for n in graph.model.graph.node if n.op_type == "GroupQueryAttention"}
    norms = frozenset(_with_selections(graph, set(rotation.readers)))
    # Attention outputs are averages of values, so they have no outliers either.
    return Tuning(rotation, moments, norms | _with_selections(graph, attended), norms)


def _with_selections(graph: SourceGraph, names: set[str]) -> set[str]:
    """Return activations, and the outputs of nodes that select rows of them."""
    found = set(names)
    for node in graph.model.graph.node:
        if node.op_type in {"Gather", "Slice"} and node.input[0] in found:
            found.add(node.output[0])
    return found
