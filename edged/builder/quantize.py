"""Rewrite a graph, fused or portable, with its weights in a scheme.

Rule: a scheme is one class with one method for each kind of weight; ``weights`` finds the weights.
A matrix that stays in fp32 is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.blockwise import BlockwiseNodes
from edged.builder.onnx_files import MICROSOFT, GraphWriter, attribute
from edged.builder.tune import Kept, Tuning, tune
from edged.builder.w8a8 import PerTokenNodes
from edged.builder.weights import SourceGraph


class Scheme(StrEnum):
    """How weights are stored and multiplied."""

    FP32 = "fp32"
    """As exported."""
    INT8_BLOCKWISE = "int8-blockwise"
    """8 bits, symmetric, blocks of 32 with an fp32 scale; activations quantized by block."""
    INT8_W8A8 = "int8-w8a8"
    """8 bits, symmetric, one fp32 scale for each output; 8-bit activations, quantized by token."""


class Scaling(StrEnum):
    """How a norm's output is quantized; every other activation is scaled by token."""

    STATIC = "static"
    """By one scale, fixed at build time."""
    DYNAMIC = "dynamic"
    """Each token by its own scale."""


# By machine the CPU flag, as Linux spells it, without which a scheme has no fast kernel.
#
# A Cortex-A72 (Raspberry Pi 4) has ``asimd`` and no ``asimddp``.
KERNELS = {
    Scheme.FP32: {"x86_64": "avx2", "aarch64": "asimd"},
    Scheme.INT8_BLOCKWISE: {"x86_64": "avx2", "aarch64": "asimddp"},
    Scheme.INT8_W8A8: {"x86_64": "avx2", "aarch64": "asimd"},
}


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """The result of a quantization."""

    scaling: Scaling
    """Static only where the graph's residual stream could be rotated."""
    quantized: int
    """Nodes with a quantized weight."""
    kept: tuple[str, ...]
    """Matrices left in fp32, each with the reason."""
    size_bytes: int
    """Graph and data file together."""


@dataclass(slots=True)
class _Rewrite:
    """One pass over the nodes of a graph."""

    graph: SourceGraph
    scheme: PerTokenNodes | BlockwiseNodes
    quantized: int = 0
    kept: list[str] = field(default_factory=list)

    def run(self) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.model.graph.node:
            replacement = self._replace(node)
            self.quantized += replacement is not None
            nodes.extend([node] if replacement is None else replacement)
        del self.graph.model.graph.node[:]
        self.graph.model.graph.node.extend(nodes)
        self.graph.remove_unused()

    def _replace(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        if node.op_type == "MatMul":
            weight = self.graph.matrix(node.input[1])
            return None if weight is None else self.scheme.matmul(node, weight.T, None)
        if node.op_type == "Gemm":
            return self._replace_gemm(node)
        if node.op_type == "Gather" and (table := self.graph.matrix(node.input[0])) is not None:
            return self._replace_gather(node, table)
        return None

    def _replace_gemm(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        weight = self.graph.matrix(node.input[1])
        if weight is None:
            return None
        rows = weight if attribute(node, "transB") else weight.T
        bias = None
        is_plain = attribute(node, "alpha", 1.0) == 1.0 and not attribute(node, "transA")
        if len(node.input) > 2 and node.input[2]:  # noqa: PLR2004 - Gemm's third input, C
            bias = self.graph.vector(node.input[2], len(rows))
            is_plain = is_plain and bias is not None and attribute(node, "beta", 1.0) == 1.0
        if not is_plain:
            self.kept.append(f"{node.name}: a Gemm with factors or a bias that is no vector")
            return None
        return self.scheme.matmul(node, rows, bias)

    def _replace_gather(
        self, node: onnx.NodeProto, table: NDArray[np.float32]
    ) -> list[onnx.NodeProto] | None:
        if attribute(node, "axis", 0) == 0 and self.graph.is_token_ids(node.input[1]):
            return self.scheme.embedding(node, table)
        self.kept.append(f"{node.input[0]}: a table that is not looked up by token id")
        return None


def quantize(
    source_folder: Path,
    output_folder: Path,
    scheme: Scheme,
    calibration: Sequence[Sequence[int]] = (),
    scaling: Scaling = Scaling.STATIC,
    kept: Kept | None = None,
) -> QuantizeReport:
    """Write the graph of ``source_folder``, quantized, into ``output_folder``.

    Args:
        source_folder: holds ``model.onnx``.
        output_folder: exists; gets ``model.onnx`` and ``model.onnx.data``.
        scheme: ``fp32`` only rewrites the files as a bundle has them.
        calibration: token ids to run the graph on; only ``int8-w8a8`` uses them.
        scaling: of the norms' outputs, for ``int8-w8a8`` where the graph can be rotated.
        kept: of the same source and calibration, so that a second scaling takes seconds.

    Raises:
        BuildError: the graph cannot be read, or a weight holds NaN or infinity.
        OSError: the output cannot be written.
    """
    graph = SourceGraph(source_folder)
    with GraphWriter(output_folder) as writer:
        tuning = Tuning()
        nodes: PerTokenNodes | BlockwiseNodes = BlockwiseNodes(writer)
        if scheme is Scheme.INT8_W8A8:
            tuning = tune(graph, source_folder, calibration, kept or Kept())
            if scaling is Scaling.DYNAMIC:
                tuning = tuning.with_dynamic_norms()
            nodes = PerTokenNodes(writer, tuning)
        rewrite = _Rewrite(graph, nodes)
        if scheme is not Scheme.FP32:
            rewrite.run()
            _import_microsoft(graph.model)
        constants = [writer.add(name, values) for name, values in graph.constants()]
        size_bytes = writer.finish(graph.model, [*rewrite.scheme.initializers, *constants])
    done = Scaling.STATIC if tuning.static_norms else Scaling.DYNAMIC
    return QuantizeReport(done, rewrite.quantized, tuple(rewrite.kept), size_bytes)


def _import_microsoft(model: onnx.ModelProto) -> None:
    if all(opset.domain != MICROSOFT for opset in model.opset_import):
        model.opset_import.add(domain=MICROSOFT, version=1)
