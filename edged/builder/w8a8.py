"""8-bit weights with one scale per output, activations quantized for each token alone.

The products are ``MatMulInteger``'s, in the form that also applies the weight's scales. They have a
kernel on every CPU that ONNX Runtime runs on, the Cortex-A72 included.

Rule: a product is exact on every CPU, and a row's result does not depend on the rows beside it.
AVX2 without VNNI adds two products of an unsigned and a signed byte in 16 bits. So either an
activation is one piece of 8 bits, and two weights beside each other are at most 128 steps of one
sign, 255 times which fits (see ``compensate``). Or it is two halves of 7 bits, the second for what
the first leaves over: 2 x 127 x 127 fits with any weights. The halves are rows of one product, so
the weights, which a decode step waits for, are still read once.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.blockwise import BlockwiseNodes
from edged.builder.onnx_files import GraphWriter
from edged.builder.tune import Tuning

HALF_STEPS = 63
"""The largest step of either half of an activation."""
HALF_ZERO_POINT = 64
SINGLE_STEPS = 127
"""The largest step of an activation in one piece."""
SINGLE_ZERO_POINT = 128
_REST = 2 * HALF_STEPS
"""Steps of the second half in one of the first: rounding leaves at most half a step."""
_MICROSOFT = "com.microsoft"

_Chain = list[tuple[str, list[str], str, dict[str, int]]]
"""Operator, inputs (``=`` before a constant), output, attributes."""
_SINGLE: _Chain = [
    ("Abs", ["x"], "sizes", {}),
    ("ReduceMax", ["sizes", "=last"], "scale", {"keepdims": 1}),
    ("Div", ["x", "scale"], "exact", {}),
    ("QuantizeLinear", ["exact", "=step", "=zero_point"], "steps", {}),
]
"""``scale`` is that of 127 steps, which the weight's scales make good."""
_HALVES: _Chain = [
    ("Unsqueeze", ["x", "=axes"], "rows", {}),
    ("Abs", ["rows"], "sizes", {}),
    ("ReduceMax", ["sizes", "=last"], "largest", {"keepdims": 1}),
    ("Mul", ["largest", "=step"], "scale", {}),
    ("Div", ["rows", "scale"], "exact", {}),
    ("Round", ["exact"], "whole", {}),
    ("Sub", ["exact", "whole"], "rest", {}),
    ("Concat", ["whole", "rest"], "pair", {"axis": -2}),
    ("QuantizeLinear", ["pair", "=steps", "=zero_points"], "steps", {"axis": -2}),
    ("Mul", ["scale", "=ratio"], "scales", {}),
]
# A row of zeros is 0 / 0, whose steps mean nothing; its scale is 0, and so is every product.
_RATIO = np.array([1.0, 1.0 / _REST], np.float32)
_CONSTANTS: dict[str, NDArray[np.generic]] = {
    "axes": np.array([-2], np.int64),
    "last": np.array([-1], np.int64),
    "one": np.array(1.0, np.float32),
    "single.step": np.array(1.0 / SINGLE_STEPS, np.float32),
    "single.zero_point": np.array(SINGLE_ZERO_POINT, np.uint8),
    "halves.step": np.array(1.0 / HALF_STEPS, np.float32),
    "halves.zero_point": np.array(HALF_ZERO_POINT, np.uint8),
    "halves.zero_points": np.full(2, HALF_ZERO_POINT, np.uint8),
    "halves.steps": _RATIO,
    "halves.ratio": _RATIO[None],
}


class PerTokenNodes:
    """Makes the nodes of products with per-token activations, and stores their weights."""

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
        """Return what looks the rows of ``node``'s ids up, in blocks: a table has no product."""
        return self._tables.embedding(node, self._tuning.table(rows))

    def matmul(
        self,
        node: onnx.NodeProto,
        rows: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> list[onnx.NodeProto]:
        """Return what computes ``node``'s output; its input is quantized once for all readers."""
        name, x = node.name or node.output[0], node.input[0]
        form = "single" if x in self._tuning.single else "halves"
        nodes: list[onnx.NodeProto] = []
        if x not in self._quantized:
            self._quantized.add(x)
            nodes += self._chain(x, form)
        weight = self._tuning.weight(node, rows)
        step = np.float32(1.0 / SINGLE_STEPS if form == "single" else 1.0)
        inputs = [
            f"{x}.steps",
            self._store(f"{name}.weight.int8", weight.data),
            # The activations' scales differ by row, which the operator does not know: 1 here.
            self._constant("one"),
            self._store(f"{name}.weight.scales", weight.scales * step),
            self._constant(f"{form}.zero_point"),
        ]
        output = node.output[0] if bias is None else f"{name}.product"
        nodes.append(_node("MatMulIntegerToFloat", inputs, f"{name}.steps", name, _MICROSOFT))
        if form == "single":
            nodes.append(_node("Mul", [f"{name}.steps", f"{x}.scale"], output, f"{name}.scale"))
        else:
            # One pass over the halves scales them and adds them up.
            joined = [f"{x}.scales", f"{name}.steps"]
            nodes.append(_node("MatMul", joined, f"{name}.row", f"{name}.join"))
            squeezed = [f"{name}.row", self._constant("axes")]
            nodes.append(_node("Squeeze", squeezed, output, f"{name}.squeeze"))
        if bias is not None:
            added = [output, self._store(f"{name}.bias.fp32", bias)]
            nodes.append(_node("Add", added, node.output[0], f"{name}.bias"))
        return nodes

    def _chain(self, x: str, form: str) -> list[onnx.NodeProto]:
        """Return what quantizes an activation [..., K], each row by its own largest value."""
        chain = _SINGLE if form == "single" else _HALVES
        nodes = []
        for op_type, inputs, output, attributes in chain:
            names = [
                self._constant(i[1:] if i[1:] in _CONSTANTS else f"{form}.{i[1:]}")
                if i.startswith("=")
                else x
                if i == "x"
                else f"{x}.{i}"
                for i in inputs
            ]
            name = f"{x}.{output}"
            nodes.append(onnx.helper.make_node(op_type, names, [name], name, **attributes))
        return nodes

    def _constant(self, key: str) -> str:
        return self._store(f"per_token.{key}", _CONSTANTS[key])

    def _store(self, name: str, values: NDArray[np.generic]) -> str:
        if name not in self._stored:
            self._stored[name] = self._writer.add(name, values)
        return name


def _node(
    op_type: str, inputs: Sequence[str], output: str, name: str, domain: str = ""
) -> onnx.NodeProto:
    return onnx.helper.make_node(op_type, inputs, [output], name, domain=domain)
