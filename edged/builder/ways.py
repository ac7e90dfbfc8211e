"""Two ways through one model: one for prompts, one for the tokens of an answer.

Each is a whole graph, and a run takes one of them: the branches of a single ``If``. So each can be
written for what it does, many rows at a time or one; a choice in each layer would cost a decode
step 3 % more than this one.

Rule: both ways compute the same rounded products and keep the same bits in the cache. The weights
stand outside, and are held once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

_NARROW = 1024
"""Columns of a product up to which ``DequantizeLinear`` is the faster for one row.

It takes one value after the other, and ``Cast`` and ``Mul`` many at a time, but two nodes.
"""


@dataclass(slots=True)
class Way:
    """Collects the nodes of one way, and the constants that only it reads, each stored once."""

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
        """Add a node, named as its first output, which is returned."""
        node = onnx.helper.make_node(op_type, inputs, outputs, outputs[0], **attributes)
        self.nodes.append(node)
        return outputs[0]

    def constant(self, name: str, values: NDArray[np.generic]) -> str:
        """Store a constant under a name; of one name the first stays."""
        if name not in self.constants:
            self.constants[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def integers(self, *values: int) -> str:
        """Store a row of integers, as shapes and axes are given."""
        name = f"{self.name}.integers.{'.'.join(map(str, values))}"
        return self.constant(name, np.array(values, np.int64))


def write_choice(graph: onnx.GraphProto, flag: str, prompt: Way, answer: Way) -> None:
    """Replace all that a graph does by the choice between two ways.

    Args:
        graph: its inputs, outputs and stored weights stay; its small constants go into each way.
        flag: name of the new input that chooses: true for ``prompt``.
        prompt: gives the graph's outputs.
        answer: so does this.
    """
    info = onnx.helper.make_tensor_value_info(flag, onnx.TensorProto.BOOL, [])
    graph.input.append(info)
    choice = onnx.helper.make_node(
        "If",
        [flag],
        [value.name for value in graph.output],
        "way",
        then_branch=_branch(graph, prompt),
        else_branch=_branch(graph, answer),
    )
    stored = [tensor for tensor in graph.initializer if _is_stored(tensor)]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    del graph.node[:]
    graph.node.append(choice)


def for_one_row(
    nodes: Sequence[onnx.NodeProto], widths: Mapping[str, int]
) -> Iterator[onnx.NodeProto]:
    """Yield nodes with one in place of the two that scale a narrow product; the bits are the same.

    Args:
        nodes: of a graph, in order.
        widths: the last dimension of its constants.
    """
    reader = {name: node for node in nodes for name in node.input}
    replaced: set[str] = set()
    for node in nodes:
        if node.name in replaced:
            continue
        yield node
        if node.op_type == "MatMulInteger":
            cast = reader[node.output[0]]
            product = reader[cast.output[0]]
            scales = product.input[1]
            if widths[scales] <= _NARROW:
                replaced |= {cast.name, product.name}
                inputs, name = [node.output[0], scales], product.output[0]
                yield onnx.helper.make_node("DequantizeLinear", inputs, [name], name, axis=-1)


def _branch(graph: onnx.GraphProto, way: Way) -> onnx.GraphProto:
    """Return a way as a branch; what it makes and what it holds carries its name."""
    small = {tensor.name: tensor for tensor in graph.initializer if not _is_stored(tensor)}
    own = small | way.constants
    outside = {value.name for value in graph.input}
    outside |= {tensor.name for tensor in graph.initializer if _is_stored(tensor)}

    def renamed(names: Iterable[str]) -> list[str]:
        return [f"{n}.{way.name}" if n and n not in outside else n for n in names]

    nodes, constants, outputs = [], [], []
    for node in way.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = renamed(node.input), renamed(node.output)
        (copy.name,) = renamed([node.name])
        nodes.append(copy)
    used = {name for node in way.nodes for name in node.input}
    for name, tensor in own.items():
        if name in used:
            constant = onnx.TensorProto()
            constant.CopyFrom(tensor)
            (constant.name,) = renamed([name])
            constants.append(constant)
    for value in graph.output:
        output = onnx.ValueInfoProto()
        output.CopyFrom(value)
        (output.name,) = renamed([value.name])
        outputs.append(output)
    return onnx.helper.make_graph(nodes, way.name, [], outputs, constants)


def _is_stored(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)
