"""Read one layer's attention: from the cache inputs to the projections around it.

Positions and masks are measured (``positions``); heads, scale, soft cap and norms are read from
the operators in the attention's scope.

Rule: an attention that is not fully understood is refused.
"""

from dataclasses import dataclass

import onnx

from edged.builder.fuse.blocks import Attention, Linear, Rotary
from edged.builder.fuse.operands import Operand, read_operand
from edged.builder.fuse.traced import NotFusable, TracedGraph, scope
from edged.builder.onnx_files import attribute

_COS_AND_SIN = 2
_LAST_OF_FOUR = 3


@dataclass(frozen=True, slots=True)
class AttentionSite:
    """An attention and its mask."""

    attention: Attention
    mask: str
    """Tensor added to the scores."""


def read_attention(graph: TracedGraph, layer: int, cache_dims: tuple[int, int]) -> AttentionSite:
    """Read layer ``layer``; its window is None until it is read from the returned mask.

    Raises:
        NotFusable: Something in the attention is not understood.
    """
    softmax = _softmax(graph, layer)
    module = scope(softmax)
    scores, mask, scale, softcap = _scores(graph, softmax)
    weighted = _weighted_values(graph, softmax)
    query, key, value = (
        read_operand(graph, module, name, layer)
        for name in (scores.input[0], scores.input[1], weighted.input[1])
    )
    _check_operands(graph, module, (query, key, value), cache_dims[1])
    num_kv_heads, head_size = cache_dims
    linears = tuple(dict.fromkeys((query.linear, key.linear, value.linear)))
    attention = Attention(
        scope=module,
        inputs=tuple(linear.outputs[0] for linear in linears),
        outputs=(_context(graph, weighted),),
        layer=layer,
        num_heads=_num_heads(module, linears, num_kv_heads, head_size),
        num_kv_heads=num_kv_heads,
        head_size=head_size,
        scale=scale * query.scale * key.scale,
        softcap=softcap,
        window=None,
        rotary=Rotary(*sorted(query.others)) if query.others else None,
        query_norm=query.norm,
        key_norm=key.norm,
    )
    return AttentionSite(attention, mask)


def _check_operands(
    graph: TracedGraph, module: str, operands: tuple[Operand, Operand, Operand], head_size: int
) -> None:
    """Refuse operands that GroupQueryAttention cannot compute with.

    Raises:
        NotFusable: There is one.
    """
    query, key, value = operands
    for norm in (query.norm, key.norm):
        if norm is not None and graph.dims(norm.weight) != (head_size,):
            raise NotFusable(f"{norm.scope} normalizes all heads together")
    if value.others or value.norm is not None or value.scale != 1.0:
        raise NotFusable(f"{module} changes the values before attention")
    if set(query.others) != set(key.others):
        raise NotFusable(f"{module} rotates queries and keys by different angles")
    if len(query.others) not in {0, _COS_AND_SIN}:
        raise NotFusable(
            f"{module} takes {len(query.others)} tensors from outside, not cosine and sine"
        )


def _softmax(graph: TracedGraph, layer: int) -> onnx.NodeProto:
    """Return the softmax in the scope where layer ``layer`` appends to its key cache.

    Raises:
        NotFusable: The cache is not appended to, or there is not exactly one softmax.
    """
    appends = [
        n for n in graph.consumers.get(f"past_key_values.{layer}.key", []) if n.op_type == "Concat"
    ]
    if len(appends) != 1:
        raise NotFusable(f"layer {layer} does not append its keys to its cache in one place")
    module = scope(appends[0])
    found = [n for n in graph.nodes if n.op_type == "Softmax" and scope(n) == module]
    if len(found) != 1 or attribute(found[0], "axis", -1) not in {-1, _LAST_OF_FOUR}:
        raise NotFusable(f"{module} has {len(found)} softmaxes, not one over the keys")
    return found[0]


def _scores(
    graph: TracedGraph, softmax: onnx.NodeProto
) -> tuple[onnx.NodeProto, str, float, float]:
    """Return the MatMul of the scores, the mask added to it, the scale and the soft cap.

    Raises:
        NotFusable: The scores are computed in another way.
    """
    masked = graph.producer(softmax.input[0])
    if masked is None or masked.op_type != "Add":
        raise NotFusable(f"{scope(softmax)} adds no mask to its scores")
    for name, mask in (tuple(masked.input), tuple(masked.input)[::-1]):
        inner, factor = _peel(graph, name)
        node = graph.producer(inner)
        softcap = 0.0
        if node is not None and node.op_type == "Tanh":
            softcap = factor
            inner, factor = _peel(graph, node.input[0])
            factor *= softcap
            node = graph.producer(inner)
        if node is not None and node.op_type == "MatMul":
            return node, mask, factor, softcap
    raise NotFusable(f"{scope(softmax)} computes its scores in an unknown way")


def _peel(graph: TracedGraph, name: str) -> tuple[str, float]:
    """Return the tensor before multiplications and divisions by scalars, and their product."""
    factor = 1.0
    while (node := graph.producer(name)) is not None and node.op_type in {"Mul", "Div"}:
        left, right = node.input
        constant = graph.scalar(right)
        if constant is None and node.op_type == "Mul":
            left, constant = right, graph.scalar(left)
        if constant is None:
            break
        name = left
        factor = factor * constant if node.op_type == "Mul" else factor / constant
    return graph.resolve(name), factor


def _weighted_values(graph: TracedGraph, softmax: onnx.NodeProto) -> onnx.NodeProto:
    """Return the MatMul of the softmax's weights with the values.

    Raises:
        NotFusable: The weights are used in another way.
    """
    name = softmax.output[0]
    for node in graph.consumers.get(name, []):
        if node.op_type == "IsNaN":  # makes fully masked rows 0; the engine runs none
            name = _only_consumer(graph, node.output[0], "Where").output[0]
    return _only_consumer(graph, name, "MatMul", "Where", "IsNaN")


def _only_consumer(graph: TracedGraph, name: str, op_type: str, *aside: str) -> onnx.NodeProto:
    """Return the only node that reads ``name``, of type ``op_type``; ignore the types ``aside``.

    Raises:
        NotFusable: There is another reader, or none.
    """
    nodes = [n for n in graph.consumers.get(name, []) if n.op_type not in aside]
    if len(nodes) != 1 or nodes[0].op_type != op_type:
        raise NotFusable(f"{name} is not read by one {op_type} alone")
    return nodes[0]


def _context(graph: TracedGraph, weighted: onnx.NodeProto) -> str:
    """Return the tensor [B, S, heads x size] that the output projection reads.

    Raises:
        NotFusable: The heads are concatenated in another way.
    """
    transposed = _only_consumer(graph, weighted.output[0], "Transpose")
    return str(_only_consumer(graph, transposed.output[0], "Reshape").output[0])


def _num_heads(module: str, linears: tuple[Linear, ...], num_kv_heads: int, head_size: int) -> int:
    """Return the number of query heads, from the projections' widths.

    Raises:
        NotFusable: The widths do not fit the cache.
    """
    packed_kv = 2 * num_kv_heads * head_size
    width = linears[0].width - (packed_kv if len(linears) == 1 else 0)
    fits = len(linears) == 1 or [2 * x.width for x in linears[1:]] == [packed_kv, packed_kv]
    if not fits or width <= 0 or width % (head_size * num_kv_heads) != 0:
        raise NotFusable(f"{module} has projections that do not fit its cache")
    return width // head_size
