"""The branches of a graph's layers in which products take adapters.

An adapted product adds ``(x @ down) @ up`` to its output. ``down`` and ``up`` are inputs of the
graph, one of each for every slot, so that a run serves several adapters.

Rule: an answer has the same bits alone and in company. ``x @ down`` is a product of integers, which
is exact; ``@ up`` is one product of a single row for each token and block, since ONNX Runtime sums
one row in another order than several. Zeros add nothing: a slot without an adapter computes the
plain model.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np
import onnx

from edged.builder.branches import Branch, write_choices, write_if
from edged.builder.onnx_files import attribute
from edged.engine.fused import HIDDEN, IS_PROMPT
from edged.engine.signature import ADAPTED, DOWN, UP
from edged.specialists.adapter import ProductShape

# A step takes longer by the number of adapted products, wherever they are, and an adapter learns
# more if they are at all depths than if they are side by side (`docs/engine.md`).
_FIRST_LAYER, _EVERY = 5, 2
RANK = 16

_PACKS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
_PRODUCT = re.compile(r"model\.layers\.((\d+)\.(attn|mlp)\.(\w+_proj))")
_ATTENTION = "GroupQueryAttention"


@dataclass(frozen=True, slots=True)
class Product:
    """A product that takes adapters."""

    node: str
    """Name of its ``MatMul``."""
    linears: Mapping[str, int]
    """The model's own projections side by side in it, each with its number of outputs."""
    shape: ProductShape

    @property
    def layer(self) -> int:
        """Which layer it is of."""
        match = _PRODUCT.fullmatch(self.node)
        return int(match[2]) if match else 0


def find_products(graph: onnx.GraphProto, op_type: str = "MatMulInteger") -> dict[str, Product]:
    """Return the products of the adapted layers by the names that adapters have for them.

    Args:
        graph: fused and without branches. One whose products have other names, or another scheme
            than ``w8a8``, takes no adapters.
        op_type: of the products; ``MatMul`` in fp32.
    """
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    heads = next((_heads(n) for n in graph.node if n.op_type == _ATTENTION), None)
    num_layers = sum(value.name.endswith(".key") for value in graph.input)
    layers, found = adapted_layers(num_layers), {}
    for node in graph.node:
        name = node.name.removesuffix(".sums")
        match = _PRODUCT.fullmatch(name)
        if match is None or node.op_type != op_type or heads is None:
            continue
        shape = sizes.get(node.input[1], ())
        if len(shape) != 2 or int(match[2]) not in layers:  # noqa: PLR2004 - a matrix
            continue
        linears = _linears(match[4], shape[1], heads)
        found[match[1]] = Product(name, linears, _shape(shape[0], linears))
    return found


def adapted_layers(num_layers: int) -> range:
    """Return which layers of so many take adapters."""
    return range(min(_FIRST_LAYER, num_layers - 1), num_layers, _EVERY)


def _heads(attention: onnx.NodeProto) -> tuple[int, int]:
    return attribute(attention, "num_heads"), attribute(attention, "kv_num_heads")


def _linears(name: str, width: int, heads: tuple[int, int]) -> dict[str, int]:
    """Return the projections that a product packs, with their outputs."""
    names = _PACKS.get(name, (name,))
    if name == "qkv_proj":
        size = width // (heads[0] + 2 * heads[1])
        return dict(zip(names, (heads[0] * size, heads[1] * size, heads[1] * size), strict=True))
    return dict.fromkeys(names, width // len(names))


def _shape(num_inputs: int, linears: Mapping[str, int]) -> ProductShape:
    widths = list(linears.values())
    if len(widths) > 1:
        blocks = sum(widths) // gcd(*widths)
        return ProductShape(num_inputs, blocks, blocks, RANK, gcd(*widths))
    # Of a lone block ONNX Runtime makes one product of all rows.
    blocks = next(n for n in (2, *range(3, widths[0] + 1)) if widths[0] % n == 0)
    return ProductShape(num_inputs, 1, blocks, RANK, widths[0] // blocks)


def write_adapted(
    graph: onnx.GraphProto, prefill: Branch, decode: Branch, products: Mapping[str, Product]
) -> None:
    """Write the lower layers as one ``If``, and the upper ones as four branches, two with adapters.

    Args:
        graph: has no nodes yet.
        prefill: all layers.
        decode: all layers, without hidden states.
        products: those that take adapters.
    """
    first = min(products.values(), key=lambda product: product.layer).node
    (lower_prefill, prefill), (lower, decode) = _divided(prefill, first), _divided(decode, first)
    for name in prefill.handed - decode.handed:
        # Hidden states of the lower layers, which nobody reads of an answer.
        nothing = lower.constant(f"{name}.none", np.zeros((1, 0, 1, 0), np.float32))
        lower.node("Identity", [nothing], name)
    write_if(graph, IS_PROMPT, lower_prefill, lower, sorted(prefill.handed | decode.handed))
    _write_inputs(graph, products)
    upper = [prefill, decode]
    write_choices(graph, [*upper, *(adapted_branch(branch, products) for branch in upper)])


def _divided(branch: Branch, first: str) -> tuple[Branch, Branch]:
    """Return the nodes before a product and before what makes its input 8-bit, and the others."""
    producers = {name: node for node in branch.nodes for name in node.output}
    sums = next(node for node in branch.nodes if node.output[0] == f"{first}.sums")
    cut = branch.nodes.index(producers[sums.input[0]])
    # Positions follow from the inputs: to compute them twice is simpler than to hand them on.
    positions = [node for node in branch.nodes[:cut] if node.name.startswith("positions")]
    before, after = branch.nodes[:cut], [*positions, *branch.nodes[cut:]]
    made = {name for node in before for name in node.output if name}
    made -= {name for node in positions for name in node.output}
    handed = frozenset(name for node in after for name in node.input if name in made)
    lower = Branch(f"lower_{branch.name}", before, dict(branch.constants))
    return lower, Branch(branch.name, after, dict(branch.constants), handed)


def _write_inputs(graph: onnx.GraphProto, products: Mapping[str, Product]) -> None:
    """Declare the inputs of adapters."""
    info, types = onnx.helper.make_tensor_value_info, onnx.TensorProto
    for name, product in products.items():
        inputs, inners, blocks, rank, width = product.shape
        down, up = ["batch", inputs, inners * rank], ["batch", 1, blocks, rank, width]
        graph.input.append(info(f"{DOWN}{name}", types.INT8, down))
        graph.input.append(info(f"{UP}{name}", types.FLOAT, up))


def adapted_branch(branch: Branch, products: Mapping[str, Product]) -> Branch:
    """Return a twin of a branch that takes adapters; it gives no hidden states."""
    name, constants = f"{ADAPTED}{branch.name}", dict(branch.constants)
    twin = Branch(name, constants=constants, handed=branch.handed)
    by_sums = {f"{product.node}.sums": name for name, product in products.items()}
    # From the sums of a product to its first output in fp32; there the summand is added, in the
    # unit of the activation's scale.
    added: dict[str, str] = {}
    for node in _copies(branch.nodes):
        twin.nodes.append(node)
        product = by_sums.get(node.output[0])
        if product is not None:
            summand = _summand(twin, node, product, products[product].shape)
            added[node.output[0]] = summand
        elif node.op_type == "Cast" and node.input[0] in added:
            added[node.output[0]] = added.pop(node.input[0])
        elif node.op_type in {"Mul", "DequantizeLinear"} and node.input[0] in added:
            output, summand = node.output[0], added.pop(node.input[0])
            node.output[0] = node.name = f"{output}.plain"
            twin.node("Add", [node.output[0], summand], output)
    return twin


def _copies(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    for node in nodes:
        if not node.name.startswith(HIDDEN):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            yield copy


def _summand(branch: Branch, node: onnx.NodeProto, product: str, shape: ProductShape) -> str:
    """Write what an adapter adds to a product ``MatMulInteger``."""
    steps, _, zero_point = node.input
    name = f"adapter.{product}"
    sums = branch.node("MatMulInteger", [steps, f"{DOWN}{product}", zero_point], f"{name}.sums")
    inner = branch.node("Cast", [sums], f"{name}.inner", to=onnx.TensorProto.FLOAT)
    # [batch, tokens, inners, 1, rank]: a batch item has one row.
    split = branch.integers(0, 0, shape.inners, 1, shape.rank)
    inner = branch.node("Reshape", [inner, split], f"{name}.rows")
    outer = branch.node("MatMul", [inner, f"{UP}{product}"], f"{name}.blocks")
    joined = branch.integers(0, 0, shape.blocks * shape.width)
    return branch.node("Reshape", [outer, joined], f"{name}.summand")
