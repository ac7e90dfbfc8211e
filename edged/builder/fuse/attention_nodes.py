"""Write norms and attention with ONNX Runtime's own operators.

GroupQueryAttention on the CPU has one kernel for a single query and another for several, and they
round differently, which can change a token much later. So each run gets a spare row of zeros after
its tokens. The spare keys and values lie after those of the sequence, where no token sees them and
the next run overwrites them.

Rule: a token's result depends on the tokens before it alone, not on whether they were run in one
chunk, in several, or as drafts.
"""

from collections.abc import Sequence

from edged.builder.fuse.blocks import Attention, Norm
from edged.builder.fuse.emitter import Emitter, module_name
from edged.builder.onnx_files import MICROSOFT

# Inputs of the operator between the rotary tables and ``query_seqlens``: positions, bias, sink,
# scales of the cache, head norms (which it does not support on the CPU).
_UNUSED = ("",) * 7


def write_norm(emitter: Emitter, norm: Norm, source: str) -> str:
    """Write a norm over the last axis; return its output."""
    name = module_name(norm.scope)
    weight = emitter.weight(f"{name}.weight", emitter.constant(norm.weight))
    (output,) = emitter.node(
        "SimplifiedLayerNormalization",
        [source, weight],
        name,
        axis=-1,
        epsilon=norm.epsilon,
        stash_type=1,
    )
    return output


def write_sum_and_norm(
    emitter: Emitter, norm: Norm, sources: Sequence[str], *, is_sum_read: bool
) -> tuple[str, str]:
    """Write the norm of a residual sum; return norm and sum, "" for a sum that is not read."""
    name = module_name(norm.scope)
    weight = emitter.weight(f"{name}.weight", emitter.constant(norm.weight))
    outputs = emitter.node(
        "SkipSimplifiedLayerNormalization",
        [*sources, weight],
        name,
        outputs=[f"{name}.output", "", "", f"{name}.sum"] if is_sum_read else None,
        domain=MICROSOFT,
        epsilon=norm.epsilon,
    )
    return outputs[0], outputs[3] if is_sum_read else ""


def write_attention(
    emitter: Emitter, block: Attention, sources: Sequence[str], caches: tuple[str, str] | None
) -> str:
    """Write one attention; return its output [B, S, heads x size].

    Args:
        emitter: receives the nodes.
        block: the attention.
        sources: query, key and value; or one tensor that packs them in this order.
        caches: names of cosines and sines; None for no rotation.
    """
    name = module_name(block.scope)
    past, present = (
        [f"{side}.{block.layer}.{kind}" for kind in ("key", "value")]
        for side in ("past_key_values", "present")
    )
    spared = [
        source and _with_spare_row(emitter, source)
        for source in _query_key_value(emitter, block, name, sources)
    ]
    outputs = emitter.node(
        "GroupQueryAttention",
        [
            *spared,
            *past,
            "seqlens_k",
            "total_sequence_length",
            *(caches or ("", "")),
            *_UNUSED,
            "query_seqlens",
        ],
        name,
        outputs=[f"{name}.spared", *present],
        domain=MICROSOFT,
        num_heads=block.num_heads,
        kv_num_heads=block.num_kv_heads,
        scale=block.scale,
        softcap=block.softcap,
        local_window_size=-1 if block.window is None else block.window,
        do_rotary=int(caches is not None),
    )
    bounds = [emitter.shape(*bound) for bound in ((0,), (-1,), (1,))]  # start, end, axis
    return emitter.node(
        "Slice", [outputs[0], *bounds], f"{name}.slice", outputs=[f"{name}.output"]
    )[0]


def _with_spare_row(emitter: Emitter, source: str) -> str:
    """Write [B, S, N] with a row of zeros after the last; return its name."""
    pads = emitter.shape(0, 0, 0, 0, 1, 0)
    return emitter.node("Pad", [source, pads], f"{source}.spare")[0]


def _query_key_value(
    emitter: Emitter, block: Attention, name: str, sources: Sequence[str]
) -> Sequence[str]:
    """Return query, key and value, normed; the last two are "" where the first packs all three."""
    if block.query_norm is None and block.key_norm is None:
        return sources if len(sources) > 1 else (sources[0], "", "")
    if len(sources) == 1:
        widths = [heads * block.head_size for heads in (block.num_heads, *[block.num_kv_heads] * 2)]
        outputs = [f"{name}.{part}" for part in ("query", "key", "value")]
        sources = emitter.node(
            "Split",
            [sources[0], emitter.shape(*widths)],
            f"{name}.split",
            outputs=outputs,
            axis=-1,
        )
    query, key, value = sources
    return (
        _head_norm(emitter, block.query_norm, query, (block.num_heads, block.head_size)),
        _head_norm(emitter, block.key_norm, key, (block.num_kv_heads, block.head_size)),
        value,
    )


def _head_norm(emitter: Emitter, norm: Norm | None, source: str, dims: tuple[int, int]) -> str:
    """Write a norm over each head; ``dims`` are the number of heads and their size."""
    if norm is None:
        return source
    name = module_name(norm.scope)
    (heads,) = emitter.node("Reshape", [source, emitter.shape(0, 0, *dims)], f"{name}.heads")
    normed = write_norm(emitter, norm, heads)
    flat = emitter.shape(0, 0, dims[0] * dims[1])
    return emitter.node("Reshape", [normed, flat], f"{name}.flat")[0]
