"""Rewrite a graph, fused or portable, with its weights in a scheme.

Rule: a scheme is one class with one method for each kind of weight; which weights there are is
``weights``' business. What stays in fp32 is reported, never silently skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.blockwise import BlockwiseNodes
from edged.builder.fourbit import FourBitNodes
from edged.builder.onnx_files import GraphWriter
from edged.builder.tune import Tuning, tune
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
    INT4 = "int4"
    """4 bits, symmetric, blocks of 32 with an fp32 scale; the output projection in 8 bits."""


class Scaling(StrEnum):
    """How a norm's output gets its 8 bits; every other activation is scaled by token."""

    STATIC = "static"
    """By one scale, which is known before."""
    DYNAMIC = "dynamic"
    """Each token by its own."""


CALIBRATED = frozenset({Scheme.INT8_W8A8, Scheme.INT4})
"""The schemes that look at calibration text."""


KERNELS = {
    Scheme.FP32: {"x86_64": "avx2", "aarch64": "asimd"},
    Scheme.INT8_BLOCKWISE: {"x86_64": "avx2", "aarch64": "asimddp"},
    Scheme.INT8_W8A8: {"x86_64": "avx2", "aarch64": "asimd"},
    Scheme.INT4: {"x86_64": "avx2", "aarch64": "asimddp"},
}
"""The CPU flag, as Linux spells it, without which a scheme has no kernel of its own there.

A Cortex-A72 (Raspberry Pi 4) has ``asimd`` and no ``asimddp``.
"""


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What a quantization did."""

    scheme: Scheme
    scaling: Scaling
    """Static only where the graph's norms could be turned."""
    quantized: int
    """Nodes whose weight is quantized now."""
    kept: tuple[str, ...]
    """Matrices left in fp32, each with the reason."""
    size_bytes: int
    """Of the graph and its data file together."""


class SchemeNodes(Protocol):
    """Makes the nodes of one scheme; ``rows`` is [N, K], one row for each output or token."""

    def matmul(
        self,
        node: onnx.NodeProto,
        rows: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> list[onnx.NodeProto]:
        """Return what computes ``node``'s output as ``input @ rows.T + bias``."""
        ...

    def embedding(self, node: onnx.NodeProto, rows: NDArray[np.float32]) -> list[onnx.NodeProto]:
        """Return what looks the rows of ``node``'s ids up."""
        ...

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The constants that the returned nodes read."""
        ...


@dataclass(slots=True)
class _Rewrite:
    """One pass over the nodes of a graph."""

    graph: SourceGraph
    scheme: SchemeNodes
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
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        rows = weight if attributes.get("transB") else weight.T
        bias = None
        is_plain = attributes.get("alpha", 1.0) == 1.0 and not attributes.get("transA")
        if len(node.input) > 2 and node.input[2]:  # noqa: PLR2004 - Gemm's third input, C
            bias = self.graph.vector(node.input[2], len(rows))
            is_plain = is_plain and bias is not None and attributes.get("beta", 1.0) == 1.0
        if not is_plain:
            self.kept.append(f"{node.name}: a Gemm with factors or a bias that is no vector")
            return None
        return self.scheme.matmul(node, rows, bias)

    def _replace_gather(
        self, node: onnx.NodeProto, table: NDArray[np.float32]
    ) -> list[onnx.NodeProto] | None:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if axis == 0 and self.graph.is_token_ids(node.input[1]):
            return self.scheme.embedding(node, table)
        self.kept.append(f"{node.input[0]}: a table that is not looked up by token id")
        return None


def quantize(
    source_folder: Path,
    output_folder: Path,
    scheme: Scheme,
    calibration: Sequence[Sequence[int]] = (),
    scaling: Scaling = Scaling.STATIC,
) -> QuantizeReport:
    """Write the graph of ``source_folder`` anew into ``output_folder``, quantized.

    Args:
        source_folder: holds ``model.onnx``.
        output_folder: exists; gets ``model.onnx`` and ``model.onnx.data``.
        scheme: ``fp32`` only brings the files into the bundle's form.
        calibration: token ids to run the graph on, for a scheme of ``CALIBRATED``.
        scaling: for ``INT8_W8A8``, where the graph's norms can be turned.

    Raises:
        BuildError: the graph cannot be read, or a weight holds NaN or infinity.
        OSError: the output cannot be written.
    """
    graph = SourceGraph(source_folder)
    with GraphWriter(output_folder) as writer:
        nodes: SchemeNodes = BlockwiseNodes(writer)
        tuning = tune(graph, source_folder, calibration) if scheme in CALIBRATED else Tuning()
        if scheme is Scheme.INT4 or scaling is Scaling.DYNAMIC:
            tuning = replace(tuning, normed=frozenset())
        if scheme is Scheme.INT8_W8A8:
            nodes = PerTokenNodes(writer, tuning)
        elif scheme is Scheme.INT4:
            nodes = FourBitNodes(writer, tuning, _head(graph))
        rewrite = _Rewrite(graph, nodes)
        if scheme is not Scheme.FP32:
            rewrite.run()
            _import_operators(graph.model)
        constants = [writer.add(name, values) for name, values in graph.constants()]
        size_bytes = writer.finish(graph.model, [*rewrite.scheme.initializers, *constants])
    made = Scaling.STATIC if tuning.normed else Scaling.DYNAMIC
    return QuantizeReport(scheme, made, rewrite.quantized, tuple(rewrite.kept), size_bytes)


def _head(graph: SourceGraph) -> str:
    """Return the output of the last product by a weight: it makes the logits."""
    products = (
        node.output[0]
        for node in reversed(graph.model.graph.node)
        if node.op_type in {"MatMul", "Gemm"} and graph.matrix(node.input[1]) is not None
    )
    return next(products, "")


def _import_operators(model: onnx.ModelProto) -> None:
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.add(domain="com.microsoft", version=1)
