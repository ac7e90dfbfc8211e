"""An index of an export: producers, consumers, constants, and evaluation of its subgraphs.

Rule: read only. A mask, a cosine or a slice bound is evaluated by the export's own subgraph, so no
family's arithmetic is implemented again here.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from edged.builder.onnx_files import attribute, read_graph, read_tensor
from edged.errors import BuildError

# Returns the value of a tensor at which the graph is cut, or None to go on to its producer.
Array = NDArray[Any]
Feed = Callable[[str], Array | None]
# Raised by ONNX Runtime for a graph that it cannot load or run; they have no common base.
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
)


class NotFusable(BuildError):  # noqa: N818 - an outcome that the pipeline handles, not a fault
    """The fused graph cannot express a part of the export; the message names it."""


class TracedGraph:
    """Index over an exported ONNX model whose node names carry module scopes."""

    def __init__(self, folder: Path) -> None:
        model = read_graph(folder)
        self._folder = folder
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.inputs: list[onnx.ValueInfoProto] = list(model.graph.input)
        self.opset = next(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        self._positions = {id(node): index for index, node in enumerate(self.nodes)}

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that computes each tensor."""
        return {output: node for node in self.nodes for output in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, without casts to the same type."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            if not is_identity(node):
                for name in dict.fromkeys(map(self.resolve, node.input)):
                    readers.setdefault(name, []).append(node)
        return readers

    def resolve(self, name: str) -> str:
        """Return the tensor before casts to float32; valid where every tensor is float32."""
        node = self.producers.get(name)
        while node is not None and is_identity(node):
            name = node.input[0]
            node = self.producers.get(name)
        return name

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that computes a tensor, without casts to the same type."""
        return self.producers.get(self.resolve(name))

    def order(self, node: onnx.NodeProto) -> int:
        """Return a node's place in the export's topological order."""
        return self._positions[id(node)]

    def is_initializer(self, name: str) -> bool:
        """Whether a tensor is stored in the file."""
        return name in self._initializers

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return a constant's shape without reading its values, or None for another tensor."""
        name = self.resolve(name)
        if name in self._initializers:
            return tuple(self._initializers[name].dims)
        node = self.producers.get(name)
        if node is not None and node.op_type == "Transpose":
            inner = self.dims(node.input[0])
            perm = attribute(node, "perm", None)
            return None if inner is None else _permuted(inner, perm)
        value = self.constant(name)
        return None if value is None else value.shape

    def constant(self, name: str) -> Array | None:
        """Return a constant's value, or None; a transposed initializer is a view."""
        name = self.resolve(name)
        if name in self._initializers:
            return read_tensor(self._initializers[name], self._folder)
        node = self.producers.get(name)
        if node is not None and node.op_type == "Constant" and node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(node.attribute[0].t))
        if node is not None and node.op_type == "Transpose" and self.is_initializer(node.input[0]):
            stored = read_tensor(self._initializers[node.input[0]], self._folder)
            return stored.transpose(attribute(node, "perm", None))
        return None

    def scalar(self, name: str) -> float | None:
        """Return the value of a one-element constant, or None."""
        dims = self.dims(name)
        if dims is None or any(size != 1 for size in dims):
            return None
        value = self.constant(name)
        return None if value is None else float(value.reshape(-1)[0])

    def evaluate(self, targets: Sequence[str], feed: Feed) -> list[Array]:
        """Run the subgraph that computes ``targets``, cut where ``feed`` gives a value.

        Raises:
            NotFusable: A target depends on a graph input that ``feed`` does not know.
        """
        feeds: dict[str, Array] = {}
        needed: dict[int, onnx.NodeProto] = {}
        initializers: dict[str, onnx.TensorProto] = {}
        pending = list(targets)
        while pending:
            name = pending.pop()
            if not name or name in feeds or name in initializers:
                continue
            if name in self._initializers:
                initializers[name] = numpy_helper.from_array(
                    np.ascontiguousarray(read_tensor(self._initializers[name], self._folder)), name
                )
            elif (value := feed(name)) is not None:
                feeds[name] = value
            elif (node := self.producers.get(name)) is None:
                raise NotFusable(f"{targets[0]} depends on the input {name}")
            elif self.order(node) not in needed:
                needed[self.order(node)] = node
                pending.extend(node.input)
        nodes = [needed[index] for index in sorted(needed)]
        return _run_part(nodes, list(initializers.values()), targets, feeds, self.opset)


def _run_part(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    targets: Sequence[str],
    feeds: dict[str, Array],
    opset: int,
) -> list[Array]:
    """Run nodes of the export on the CPU provider.

    Raises:
        NotFusable: They fail on these inputs.
    """
    graph = helper.make_graph(
        nodes,
        "part",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in feeds.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in targets],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # One thread: how a tensor is partitioned decides its last bits, and so the file's hash.
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results: list[Array] = session.run(list(targets), feeds)
    except ORT_ERRORS as error:
        raise NotFusable(f"{targets[0]} cannot be computed alone: {error}") from error
    return results


def is_identity(node: onnx.NodeProto) -> bool:
    """Whether a node is the identity on a float32 input."""
    if node.op_type == "Cast":
        return bool(attribute(node, "to", 0) == onnx.TensorProto.FLOAT)
    return bool(node.op_type == "Identity")


def scope(node: onnx.NodeProto) -> str:
    """Return the module path of a node: ``/model/layers.0/mlp/Mul`` is ``model.layers.0.mlp``."""
    return str(node.name.rpartition("/")[0].strip("/").replace("/", "."))


def _permuted(dims: tuple[int, ...], perm: Sequence[int] | None) -> tuple[int, ...]:
    """Return ``dims`` permuted; None reverses them, as in ONNX."""
    return tuple(dims[axis] for axis in perm) if perm else dims[::-1]
