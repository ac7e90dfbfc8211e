"""One ONNX ``If``: a prefill branch and a decode branch.

Each branch is a whole graph, so one can be written for many rows and the other for a single row.
The weights stay outside of both and are held once.

Rule: both branches round keys and values by the same operations, so equal activations give equal
bits in the cache. Their attention kernels sum in another order, though: what the two compute from
one input differs in the last bits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

# Columns of a product up to which ``DequantizeLinear`` is faster for one row. It is one node
# instead of two, but not vectorized as ``Cast`` and ``Mul`` are.
_NARROW = 1024


@dataclass(slots=True)
class Branch:
    """The nodes of one branch, and the constants that only it reads, each stored once."""

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
        """Store a constant and return its name; a name that is stored already keeps its values."""
        if name not in self.constants:
            self.constants[name] = onnx.numpy_helper.from_array(values, name)
        return name

    def integers(self, *values: int) -> str:
        """Store a vector of int64, such as a shape or axes, and return its name."""
        name = f"{self.name}.integers.{'.'.join(map(str, values))}"
        return self.constant(name, np.array(values, np.int64))


def write_if(graph: onnx.GraphProto, flag: str, then: Branch, otherwise: Branch) -> None:
    """Replace all nodes of a graph by one ``If``.

    Args:
        graph: keeps its inputs, outputs and external weights; its small constants are copied into
            each branch that reads them.
        flag: name of a new boolean input; true runs ``then``.
        then: computes the graph's outputs.
        otherwise: does so too.
    """
    graph.input.append(onnx.helper.make_tensor_value_info(flag, onnx.TensorProto.BOOL, []))
    # One ``If`` for the whole graph: one in each layer costs a decode step 3 % more.
    choice = onnx.helper.make_node(
        "If",
        [flag],
        [value.name for value in graph.output],
        "branch",
        then_branch=_subgraph(graph, then),
        else_branch=_subgraph(graph, otherwise),
    )
    external = [tensor for tensor in graph.initializer if _is_external(tensor)]
    del graph.initializer[:]
    graph.initializer.extend(external)
    del graph.node[:]
    graph.node.append(choice)


def fuse_narrow_scaling(
    nodes: Sequence[onnx.NodeProto], widths: Mapping[str, int]
) -> Iterator[onnx.NodeProto]:
    """Yield nodes with one ``DequantizeLinear`` for ``Cast`` and ``Mul`` behind a narrow product.

    The bits are the same.

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


def _subgraph(graph: onnx.GraphProto, branch: Branch) -> onnx.GraphProto:
    """Return a branch as an ONNX subgraph; its tensors get its name as a suffix."""
    small = {tensor.name: tensor for tensor in graph.initializer if not _is_external(tensor)}
    own = small | branch.constants
    outside = {value.name for value in graph.input}
    outside |= {tensor.name for tensor in graph.initializer if _is_external(tensor)}

    def renamed(names: Iterable[str]) -> list[str]:
        return [f"{n}.{branch.name}" if n and n not in outside else n for n in names]

    nodes, constants, outputs = [], [], []
    for node in branch.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:], copy.output[:] = renamed(node.input), renamed(node.output)
        (copy.name,) = renamed([node.name])
        nodes.append(copy)
    used = {name for node in branch.nodes for name in node.input}
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
    return onnx.helper.make_graph(nodes, branch.name, [], outputs, constants)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)
