"""Branches of a graph, of which a run enters one of several: ONNX's ``If``.

One branch can be written for many rows and another for a single row, and others with adapters. The
weights stay outside of all and are held once.

Rule: all branches round keys and values by the same operations, so equal activations give equal
bits in the cache. The attention kernels of prefill and decode sum in another order, though: what
the two compute from one input differs in the last bits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.engine.signature import RUN

# Columns of a product up to which ``DequantizeLinear`` is faster for one row. It is one node
# instead of two, but not vectorized as ``Cast`` and ``Mul`` are.
_NARROW = 1024


@dataclass(slots=True)
class Branch:
    """The nodes of one branch, and the constants that only it reads, each stored once."""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    handed: frozenset[str] = frozenset()
    """Tensors that an earlier branch has handed on to it."""

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


def write_if(
    graph: onnx.GraphProto, flag: str, then: Branch, otherwise: Branch, handed: Iterable[str] = ()
) -> None:
    """Add one ``If`` to a graph: with ``then`` where a new boolean input is true.

    Args:
        graph: its outputs that both branches compute become those of the ``If``.
        flag: name of the input.
        then: a branch.
        otherwise: another one with the same outputs.
        handed: tensors of type fp32 that both compute for what follows; there they are called as
            ``handed_name`` says.
    """
    graph.input.append(onnx.helper.make_tensor_value_info(flag, onnx.TensorProto.BOOL, []))
    own = _outputs(graph, then)
    more = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in handed]
    graph.node.append(
        onnx.helper.make_node(
            "If",
            [flag],
            [value.name for value in own] + [handed_name(value.name) for value in more],
            "branch",
            then_branch=_subgraph(graph, then, own + more),
            else_branch=_subgraph(graph, otherwise, own + more),
        )
    )


def handed_name(name: str) -> str:
    """Return what a tensor that a branch hands on is called outside of it."""
    return f"handed.{name}"


def write_choices(graph: onnx.GraphProto, branches: Sequence[Branch]) -> None:
    """Add one ``If`` for each branch, of which a run enters one.

    A branch ``b`` runs when the new boolean input ``run.b`` is true, and its outputs are those of
    the graph with ``b.`` before their names. Each other one costs half a microsecond for an output,
    and gives nothing.
    """
    # Not one in the other: there ONNX Runtime would not prepack the weights. And not one in each
    # layer, which costs a decode step 3 % more.
    outputs: list[onnx.ValueInfoProto] = []
    for branch in branches:
        own = [_without_shape(value, value.name) for value in _outputs(graph, branch)]
        flag, names = f"{RUN}{branch.name}", [f"{branch.name}.{value.name}" for value in own]
        graph.input.append(onnx.helper.make_tensor_value_info(flag, onnx.TensorProto.BOOL, []))
        graph.node.append(
            onnx.helper.make_node(
                "If",
                [flag],
                names,
                branch.name,
                then_branch=_subgraph(graph, branch, own),
                else_branch=_nothing(branch.name, own),
            )
        )
        for value, name in zip(_outputs(graph, branch), names, strict=True):
            output = onnx.ValueInfoProto()
            output.CopyFrom(value)
            output.name = name
            outputs.append(output)
    replaced = {value.name for branch in branches for value in _outputs(graph, branch)}
    kept = [value for value in graph.output if value.name not in replaced]
    del graph.output[:]
    graph.output.extend([*kept, *outputs])


def remove_constants(graph: onnx.GraphProto) -> None:
    """Remove the small constants of a graph, of which each branch has its own."""
    external = [tensor for tensor in graph.initializer if _is_external(tensor)]
    del graph.initializer[:]
    graph.initializer.extend(external)


def _outputs(graph: onnx.GraphProto, branch: Branch) -> list[onnx.ValueInfoProto]:
    made = {name for node in branch.nodes for name in node.output}
    return [value for value in graph.output if value.name in made]


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


def _subgraph(
    graph: onnx.GraphProto, branch: Branch, values: Sequence[onnx.ValueInfoProto]
) -> onnx.GraphProto:
    """Return a branch as an ONNX subgraph; its tensors get its name as a suffix."""
    small = {tensor.name: tensor for tensor in graph.initializer if not _is_external(tensor)}
    own = small | branch.constants
    outside = {value.name for value in graph.input}
    outside |= {tensor.name for tensor in graph.initializer if _is_external(tensor)}

    def renamed(names: Iterable[str]) -> list[str]:
        return [
            handed_name(n)
            if n in branch.handed
            else f"{n}.{branch.name}"
            if n and n not in outside
            else n
            for n in names
        ]

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
    for value in values:
        output = onnx.ValueInfoProto()
        output.CopyFrom(value)
        (output.name,) = renamed([value.name])
        outputs.append(output)
    return onnx.helper.make_graph(nodes, branch.name, [], outputs, constants)


def _nothing(name: str, values: Sequence[onnx.ValueInfoProto]) -> onnx.GraphProto:
    """Return the other way of a branch: constants for its outputs."""
    nodes, outputs = [], [_without_shape(value, f"{value.name}.{name}.none") for value in values]
    for output in outputs:
        kind = onnx.helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
        # Faster than one node for all of them; and what has no numbers takes no memory.
        none = onnx.numpy_helper.from_array(np.zeros(0, kind))
        nodes.append(onnx.helper.make_node("Constant", [], [output.name], output.name, value=none))
    return onnx.helper.make_graph(nodes, f"{name}.none", [], outputs)


def _without_shape(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """Return an output of the same type without its shape, which the two ways do not share."""
    kind = value.type.tensor_type.elem_type
    return onnx.helper.make_tensor_value_info(name, kind, None)


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)
