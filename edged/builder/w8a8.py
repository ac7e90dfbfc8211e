"""8-bit weights with one scale per output, 8-bit activations with one scale per token.

``MatMulInteger`` has a kernel on every CPU that ONNX Runtime runs on, the Cortex-A72 included.

Rule: a product is exact on every CPU, and a row's result does not depend on other rows. AVX2
without VNNI adds two products of bytes in 16 bits, so two adjacent weights of one sign add up to at
most 128 steps (see ``gptq``).
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.blockwise import BlockwiseNodes
from edged.builder.hadamard import hadamard
from edged.builder.onnx_files import GraphWriter
from edged.builder.tune import Tuning

# The largest step of an activation.
STEPS = 127
ZERO_POINT = 128
_CONSTANTS: dict[str, NDArray[np.generic]] = {
    "last": np.array([-1], np.int64),
    "step": np.array(1.0 / STEPS, np.float32),
    "zero_point": np.array(ZERO_POINT, np.uint8),
}


class PerTokenNodes:
    """Writes the nodes of products with per-token activations, and their weights."""

    def __init__(self, writer: GraphWriter, tuning: Tuning | None = None) -> None:
        self._writer = writer
        self._tuning = tuning or Tuning()
        self._tables = BlockwiseNodes(writer)
        self._stored: dict[str, onnx.TensorProto] = {}
        self._quantized: set[str] = set()

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The constants that the returned nodes read."""
        return [*self._stored.values(), *self._tables.initializers]

    def embedding(self, node: onnx.NodeProto, rows: NDArray[np.float32]) -> list[onnx.NodeProto]:
        """Return the nodes that look up ``node``'s token ids in a blockwise table."""
        return self._tables.embedding(node, self._tuning.table(rows))

    def matmul(
        self,
        node: onnx.NodeProto,
        rows: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> list[onnx.NodeProto]:
        """Return the nodes that compute ``node``'s output; its input is quantized once."""
        name, x = node.name or node.output[0], node.input[0]
        nodes: list[onnx.NodeProto] = []
        if x not in self._quantized:
            self._quantized.add(x)
            nodes += self._quantize(x, rows.shape[1])
        weight = self._tuning.weight(node, rows)
        peak = self._tuning.peak(x)
        data = self._store(f"{name}.weight.int8", weight.data)
        # ``x.scale`` and ``peak`` stand for 127 steps, so the weight's scales are divided by 127.
        scales = weight.scales * np.float32((peak or 1.0) / STEPS)
        product = node.output[0] if bias is None else f"{name}.product"
        columns = f"{name}.columns" if peak is None else product
        zero_point, stored = self._constant("zero_point"), f"{name}.weight.scales"
        # ``MatMulIntegerToFloat`` makes a decode step a seventh slower, and ``DequantizeLinear``
        # instead of ``Cast`` and ``Mul`` makes a prefill a seventh slower.
        nodes += [
            _node("MatMulInteger", [f"{x}.steps", data, zero_point], f"{name}.sums"),
            _node("Cast", [f"{name}.sums"], f"{name}.steps", to=onnx.TensorProto.FLOAT),
            _node("Mul", [f"{name}.steps", self._store(stored, scales)], columns),
        ]
        if peak is None:
            nodes.append(_node("Mul", [columns, f"{x}.scale"], product))
        if bias is not None:
            added = [product, self._store(f"{name}.bias.fp32", bias)]
            nodes.append(_node("Add", added, node.output[0]))
        return nodes

    def _quantize(self, x: str, width: int) -> list[onnx.NodeProto]:
        """Return the nodes that quantize an activation [..., width] to ``x.steps``.

        Without a static peak each row has its own scale, ``x.scale``.
        """
        peak = self._tuning.peak(x)
        if peak is not None:
            step = self._store(f"per_token.step.{peak:g}", np.array(peak / STEPS, np.float32))
            return [self._round(x, step, x)]
        nodes, block = [], self._tuning.block(x, width)
        source = x
        if block > 1:
            source = f"{x}.rotated"
            nodes += self._rotate(x, source, width, block)
        # A row of zeros gives 0 / 0 and arbitrary steps; its scale is 0, and so is each product.
        return [
            *nodes,
            _node("Abs", [source], f"{x}.sizes"),
            _node("ReduceMax", [f"{x}.sizes", self._constant("last")], f"{x}.scale", keepdims=1),
            _node("Div", [source, f"{x}.scale"], f"{x}.exact"),
            self._round(f"{x}.exact", self._constant("step"), x),
        ]

    def _round(self, source: str, step: str, x: str) -> onnx.NodeProto:
        inputs = [source, step, self._constant("zero_point")]
        return _node("QuantizeLinear", inputs, f"{x}.steps")

    def _rotate(self, x: str, output: str, width: int, block: int) -> list[onnx.NodeProto]:
        matrix = self._store(f"per_token.hadamard.{block}", hadamard(block))
        if self._tuning.is_fused:
            # [batch, tokens, width]: a 0 keeps the dimension.
            nodes, joined = [], self._shape(0, 0, width)
            split = self._shape(0, 0, width // block, block)
        else:
            nodes, joined = [_node("Shape", [x], f"{x}.shape")], f"{x}.shape"
            split = self._shape(-1, block)
        return [
            *nodes,
            _node("Reshape", [x, split], f"{x}.blocks"),
            _node("MatMul", [f"{x}.blocks", matrix], f"{x}.products"),
            _node("Reshape", [f"{x}.products", joined], output),
        ]

    def _shape(self, *lengths: int) -> str:
        name = "per_token.shape." + ".".join(map(str, lengths))
        return self._store(name, np.array(lengths, np.int64))

    def _constant(self, key: str) -> str:
        return self._store(f"per_token.{key}", _CONSTANTS[key])

    def _store(self, name: str, values: NDArray[np.generic]) -> str:
        if name not in self._stored:
            self._stored[name] = self._writer.add(name, values)
        return name


def _node(op_type: str, inputs: Sequence[str], output: str, **attributes: int) -> onnx.NodeProto:
    return onnx.helper.make_node(op_type, inputs, [output], output, **attributes)
