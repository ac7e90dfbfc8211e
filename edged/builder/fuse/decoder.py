"""Read an export as a decoder: the list of blocks from the token ids to the logits.

Rule: every operator on the way back from the logits belongs to a block, so no part of the
computation is dropped. Masks, positions and shapes are not on that way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx

from edged.builder.fuse.attention import AttentionSite, read_attention
from edged.builder.fuse.blocks import Attention, Block, Copy, Embedding, Linear, Rotary
from edged.builder.fuse.linears import (
    read_activation,
    read_copy,
    read_embedding,
    read_linear,
    read_norm,
)
from edged.builder.fuse.positions import DummyInputs, read_rotary, read_window
from edged.builder.fuse.traced import Array, NotFusable, TracedGraph

_READERS = (read_embedding, read_linear, read_norm, read_activation)


@dataclass(frozen=True, slots=True)
class Decoder:
    """The computation of the export, in its order."""

    blocks: tuple[Block, ...]
    caches: Mapping[Rotary, tuple[Array, Array]]
    """Cosines and sines [max_model_len + 1, rotary size / 2] of each rotary in use."""
    slice_bounds: Mapping[str, Array]
    """Values of the bounds, axes and steps of the slices among the blocks, by tensor."""
    cache_dims: tuple[int, int]
    """Key and value heads, head size."""

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attentions, by layer."""
        return tuple(block for block in self.blocks if isinstance(block, Attention))


def read_decoder(graph: TracedGraph, max_model_len: int) -> Decoder:
    """Read the export for contexts of up to ``max_model_len`` tokens.

    Raises:
        NotFusable: Something in it is not understood.
    """
    num_layers, cache_dims = _cache_inputs(graph)
    sites = [read_attention(graph, layer, cache_dims) for layer in range(num_layers)]
    blocks = _walk(graph, {site.attention.outputs[0]: site for site in sites})
    dummy = DummyInputs(0, 1, cache_dims, _widths(graph, blocks))
    caches: dict[Rotary, tuple[Array, Array]] = {}
    windows = {}
    for site in sites:
        windows[site.attention.layer] = read_window(graph, site.mask, dummy, max_model_len)
        rotary = site.attention.rotary
        if rotary is not None and rotary not in caches:
            # One more for the spare row behind the last token (see ``attention_nodes``).
            caches[rotary] = read_rotary(graph, rotary, dummy, max_model_len + 1)
    final = tuple(
        replace(b, window=windows[b.layer]) if isinstance(b, Attention) else b for b in blocks
    )
    return Decoder(final, caches, _slice_bounds(graph, blocks, dummy), cache_dims)


def _cache_inputs(graph: TracedGraph) -> tuple[int, tuple[int, int]]:
    """Return the number of layers, and heads and head size of their caches.

    Raises:
        NotFusable: The caches are not all of one static size.
    """
    sizes: set[tuple[int, ...]] = set()
    names = set()
    for item in graph.inputs:
        if item.name.startswith("past_key_values."):
            names.add(item.name)
            dims = item.type.tensor_type.shape.dim
            sizes.add((dims[1].dim_value, dims[-1].dim_value) if len(dims) == 4 else ())  # noqa: PLR2004
    expected = {f"past_key_values.{i // 2}.{('key', 'value')[i % 2]}" for i in range(len(names))}
    if not names or names != expected or len(sizes) != 1 or not all(sum(sizes, ())):
        raise NotFusable("the key and value caches are not all of one size")
    num_heads, head_size = sizes.pop()
    return len(names) // 2, (num_heads, head_size)


def _walk(graph: TracedGraph, sites: Mapping[str, AttentionSite]) -> list[Block]:
    """Return the blocks between the token ids and the logits, in topological order.

    Raises:
        NotFusable: An operator on the way is not understood, or an attention is not on it.
    """
    blocks: dict[int, Block] = {}
    pending = ["logits"]
    while pending:
        name = graph.resolve(pending.pop())
        if name == "input_ids":
            continue
        node = graph.producers.get(name)
        if node is None:
            raise NotFusable(f"{name} is used outside attention")
        if graph.order(node) not in blocks:
            site = sites.get(name)
            block = site.attention if site is not None else _block(graph, node)
            blocks[graph.order(node)] = block
            pending.extend(block.inputs)
    ordered = [blocks[index] for index in sorted(blocks)]
    if sum(isinstance(block, Attention) for block in ordered) != len(sites):
        raise NotFusable("an attention does not lead to the logits")
    return ordered


def _block(graph: TracedGraph, node: onnx.NodeProto) -> Block:
    """Return the block that ends in ``node``."""
    for read in _READERS:
        block: Block | None = read(graph, node)
        if block is not None:
            return block
    return read_copy(graph, node)


def _widths(graph: TracedGraph, blocks: list[Block]) -> dict[str, int]:
    """Return the number of features of each activation, where the blocks show it."""
    widths: dict[str, int] = {}
    for block in blocks:
        known = [widths[name] for name in block.inputs if name in widths]
        if isinstance(block, Linear):
            width = block.width
        elif isinstance(block, Embedding):
            width = (graph.dims(block.weight) or (0,))[-1]
        elif isinstance(block, Attention):
            width = block.num_heads * block.head_size
        elif isinstance(block, Copy) and block.node.op_type in {"Slice", "Split"}:
            continue
        else:
            width = max(known, default=0)
        if width:
            widths[block.outputs[0]] = width
    return widths


def _slice_bounds(graph: TracedGraph, blocks: list[Block], dummy: DummyInputs) -> dict[str, Array]:
    """Return the values of all slice bounds, which may not depend on the number of tokens.

    Raises:
        NotFusable: A bound depends on the number of tokens.
    """
    bounds: dict[str, Array] = {}
    inputs = [replace(dummy, past=past, new=new) for past, new in ((0, 3), (4, 2))]
    for block in blocks:
        if isinstance(block, Copy) and block.node.op_type == "Slice":
            for name in block.node.input[1:]:
                value, again = (graph.evaluate([name], given.feed)[0] for given in inputs)
                if not np.array_equal(value, again):
                    raise NotFusable(f"a slice depends on the number of tokens ({block.node.name})")
                bounds[name] = value
    return bounds
