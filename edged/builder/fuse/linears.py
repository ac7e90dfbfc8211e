"""Read the token-wise modules: embedding, projections, norms, activations.

Rule: a module is recognised by its operators and constants, never by its family. Another token-wise
operator is copied; any other makes the export not fusable.
"""

import numpy as np
import onnx

from edged.builder.fuse.blocks import Activation, ActivationKind, Copy, Embedding, Linear, Norm
from edged.builder.fuse.traced import NotFusable, TracedGraph, scope
from edged.builder.onnx_files import attribute

_ELEMENTWISE = frozenset({
    "Abs", "Add", "Clip", "Div", "Erf", "Exp", "Max", "Min", "Mul", "Neg", "Pow", "Reciprocal",
    "Relu", "Sigmoid", "Softplus", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
_MATRIX_AXES = 2
_SLICE_INPUTS = 4
# Activations outside attention have three axes: batch, tokens, features.
_LAST_AXES = frozenset({-1.0, 2.0})
_SQUARE = 2.0


def read_embedding(graph: TracedGraph, node: onnx.NodeProto) -> Embedding | None:
    """Return the token embedding that ``node`` is, or None."""
    if node.op_type != "Gather" or graph.resolve(node.input[1]) != "input_ids":
        return None
    if attribute(node, "axis", 0) != 0 or not graph.is_initializer(node.input[0]):
        return None
    return Embedding(
        scope=scope(node), inputs=("input_ids",), outputs=(node.output[0],), weight=node.input[0]
    )


def read_linear(graph: TracedGraph, node: onnx.NodeProto) -> Linear | None:
    """Return the projection that ends in ``node``, a MatMul by a constant or its bias, or None."""
    bias = None
    matmul: onnx.NodeProto | None = node
    if node.op_type == "Add":
        bias = next((name for name in node.input if len(graph.dims(name) or ()) == 1), None)
        others = [name for name in node.input if name != bias]
        matmul = graph.producer(others[0]) if bias and len(others) == 1 else None
    if matmul is None or matmul.op_type != "MatMul" or scope(matmul) != scope(node):
        return None
    dims = graph.dims(matmul.input[1])
    if dims is None or len(dims) != _MATRIX_AXES:
        return None
    if bias is not None and graph.dims(bias) != (dims[1],):
        return None
    return Linear(
        scope=scope(node),
        inputs=(graph.resolve(matmul.input[0]),),
        outputs=(node.output[0],),
        weight=graph.resolve(matmul.input[1]),
        bias=bias,
        width=dims[1],
    )


def read_norm(graph: TracedGraph, node: onnx.NodeProto) -> Norm | None:
    """Return the RMS norm that ends in ``node``, the Mul by its weight, or None."""
    weight, normed = _constant_and_other(graph, node, "Mul")
    inner = graph.producer(normed) if weight and len(graph.dims(weight) or ()) == 1 else None
    if weight is None or inner is None or inner.op_type != "Mul":
        return None
    source = graph.resolve(inner.input[0])
    epsilon = _inverse_rms_epsilon(graph, inner.input[1], source)
    if epsilon is None:
        return None
    return Norm(
        scope=scope(node),
        inputs=(source,),
        outputs=(node.output[0],),
        weight=weight,
        epsilon=epsilon,
    )


def _inverse_rms_epsilon(graph: TracedGraph, name: str, source: str) -> float | None:
    """Return epsilon when ``name`` is 1 / sqrt(mean(source²) + epsilon) over the last axis."""
    inverse = graph.producer(name)
    if inverse is None or inverse.op_type != "Div" or graph.scalar(inverse.input[0]) != 1.0:
        return None
    root = graph.producer(inverse.input[1])
    shifted = graph.producer(root.input[0]) if root is not None and root.op_type == "Sqrt" else None
    if shifted is None:
        return None
    epsilon, mean = _constant_and_other(graph, shifted, "Add")
    reduce = graph.producer(mean) if epsilon else None
    if epsilon is None or reduce is None or not _is_last_axis_mean(graph, reduce):
        return None
    square = graph.producer(reduce.input[0])
    if square is None or square.op_type != "Pow" or graph.resolve(square.input[0]) != source:
        return None
    return graph.scalar(epsilon) if graph.scalar(square.input[1]) == _SQUARE else None


def _is_last_axis_mean(graph: TracedGraph, node: onnx.NodeProto) -> bool:
    """Whether a node is a mean over the last axis with ``keepdims``."""
    if node.op_type != "ReduceMean" or attribute(node, "keepdims", 1) != 1:
        return False
    return len(node.input) > 1 and graph.scalar(node.input[1]) == -1.0


def _constant_and_other(
    graph: TracedGraph, node: onnx.NodeProto, op_type: str
) -> tuple[str | None, str]:
    """Return the constant and the other operand of a two-operand node of type ``op_type``."""
    if node.op_type == op_type:
        for constant, other in (tuple(node.input), tuple(node.input)[::-1]):
            if graph.dims(constant) is not None and graph.dims(other) is None:
                return constant, other
    return None, ""


def read_activation(graph: TracedGraph, node: onnx.NodeProto) -> Activation | None:
    """Return the activation module that ends in ``node``, recognised by its values, or None."""
    module = scope(node)
    if "act" not in module.rpartition(".")[2]:
        return None
    sources = _module_inputs(graph, node, module)
    if sources is None or len(sources) != 1:
        return None
    (source,) = sources
    kind = _activation_kind(graph, node.output[0], source)
    if kind is None:
        return None
    return Activation(scope=module, inputs=(source,), outputs=(node.output[0],), kind=kind)


def _module_inputs(graph: TracedGraph, node: onnx.NodeProto, module: str) -> set[str] | None:
    """Return the inputs of an elementwise module, or None when it is not elementwise."""
    sources: set[str] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current.op_type not in _ELEMENTWISE:
            return None
        for name in map(graph.resolve, current.input):
            producer = graph.producers.get(name)
            if graph.dims(name) is not None:
                continue
            if producer is not None and scope(producer) == module:
                pending.append(producer)
            else:
                sources.add(name)
    return sources


def _activation_kind(graph: TracedGraph, output: str, source: str) -> ActivationKind | None:
    """Return the function that the export computes from ``source`` to ``output``, if known."""
    import torch  # noqa: PLC0415 - slow to import, and only a build needs it
    from torch.nn import functional  # noqa: PLC0415

    points = np.linspace(-9.0, 9.0, 181, dtype=np.float32).reshape(1, 1, -1)
    (values,) = graph.evaluate([output], lambda name: points if name == source else None)
    x = torch.from_numpy(points)
    known = {
        ActivationKind.SILU: functional.silu(x),
        ActivationKind.GELU: functional.gelu(x),
        ActivationKind.GELU_TANH: functional.gelu(x, approximate="tanh"),
        ActivationKind.RELU: functional.relu(x),
    }
    for kind, expected in known.items():
        if np.allclose(values, expected.numpy(), rtol=1e-5, atol=2e-6):
            return kind
    return None


def read_copy(graph: TracedGraph, node: onnx.NodeProto) -> Copy:
    """Return ``node`` as a block that is copied unchanged.

    Raises:
        NotFusable: The node is not known to be token-wise.
    """
    activations = tuple(graph.resolve(n) for n in node.input if n and graph.dims(n) is None)
    constants = [n for n in node.input if n and graph.dims(n) is not None]
    is_row_wise = (
        (node.op_type in _ELEMENTWISE and all(_is_per_feature(graph, n) for n in constants))
        or (node.op_type == "LayerNormalization" and attribute(node, "axis", -1) == -1)
        or _is_last_axis_mean(graph, node)
        or (node.op_type == "Split" and attribute(node, "axis", 0) == -1)
        or (node.op_type == "Slice" and _is_last_axis_slice(graph, node))
    )
    if not is_row_wise or not activations:
        raise NotFusable(f"{node.op_type} outside attention is not known ({node.name})")
    if node.op_type == "Slice":  # its bounds are computed from a width, so they are constant
        activations = activations[:1]
    return Copy(scope=scope(node), inputs=activations, outputs=tuple(node.output), node=node)


def _is_per_feature(graph: TracedGraph, name: str) -> bool:
    """Whether a constant is a scalar or a vector over the last axis."""
    dims = graph.dims(name) or ()
    return all(size == 1 for size in dims[:-1])


def _is_last_axis_slice(graph: TracedGraph, node: onnx.NodeProto) -> bool:
    """Whether a slice cuts features, not tokens."""
    return len(node.input) >= _SLICE_INPUTS and graph.scalar(node.input[3]) in _LAST_AXES
