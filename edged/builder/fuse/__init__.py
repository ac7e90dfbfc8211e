"""Fuse Optimum's export into the graph that the engine runs in place.

Rule: never wrong, only refused. The export is read block by block, everything in it is accounted
for, and the result is compared with it before it is handed on; what does not fit raises
``NotFusable`` with the reason, and the portable path is taken.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from edged.builder.fuse.blocks import Linear
from edged.builder.fuse.compare import compare
from edged.builder.fuse.decoder import Decoder, read_decoder
from edged.builder.fuse.emitter import Emitter
from edged.builder.fuse.notes import write_notes
from edged.builder.fuse.plan import plan_joins
from edged.builder.fuse.rebuild import Rebuilder
from edged.builder.fuse.traced import NotFusable, TracedGraph
from edged.builder.onnx_files import GraphWriter
from edged.bundle.manifest import MODEL, MODEL_DATA

__all__ = ["FuseReport", "NotFusable", "fuse"]

_HEAD_SIZE_UNIT = 8
_ROTARY_SIZE_UNIT = 16


@dataclass(frozen=True, slots=True)
class FuseReport:
    """What was fused, and how near it is to the export."""

    num_layers: int
    num_nodes_before: int
    num_nodes_after: int
    window: int | None
    """Tokens that the narrowest sliding window sees; None without one."""
    notes: tuple[str, ...]
    """What a reader of the build's output should know."""
    max_abs_diff: float = math.nan
    """Largest difference of any logit from the export's."""


def fuse(export_folder: Path, output_folder: Path, *, max_model_len: int) -> FuseReport:
    """Write the fused form of an export, in fp32; takes as long as a few prefills.

    Args:
        export_folder: Optimum's ``text-generation-with-past``: ``model.onnx`` and its data file.
        output_folder: gets ``model.onnx`` and ``model.onnx.data``; made when missing.
        max_model_len: positions for which the rotary tables are made, at least 1.

    Raises:
        NotFusable: The export has something that the fused graph cannot express, or the two differ.
        BuildError: The export cannot be read.
    """
    try:
        report = _write(export_folder, output_folder, max_model_len)
        difference = compare(export_folder, output_folder, max_model_len, report.window)
    except NotFusable:
        for name in (MODEL, MODEL_DATA):
            (output_folder / name).unlink(missing_ok=True)
        raise
    return replace(report, max_abs_diff=difference)


def _write(export_folder: Path, output_folder: Path, max_model_len: int) -> FuseReport:
    """Write the fused form, not yet compared; the export's weights are let go of on return.

    Raises:
        NotFusable: The export has something that the fused graph cannot express.
    """
    graph = TracedGraph(export_folder)
    decoder = read_decoder(graph, max_model_len)
    _check_operator(decoder)
    output_folder.mkdir(parents=True, exist_ok=True)
    with GraphWriter(output_folder) as writer:
        emitter = Emitter(graph, writer)
        Rebuilder(emitter, decoder, plan_joins(decoder)).write()
        emitter.finish(decoder.cache_dims, len(decoder.attentions), _vocab_size(decoder))
    return FuseReport(
        num_layers=len(decoder.attentions),
        num_nodes_before=len(graph.nodes),
        num_nodes_after=len(emitter.nodes),
        window=min((a.window for a in decoder.attentions if a.window is not None), default=None),
        notes=write_notes(decoder, export_folder),
    )


def _check_operator(decoder: Decoder) -> None:
    """Refuse what ONNX Runtime's GroupQueryAttention refuses on the CPU.

    Raises:
        NotFusable: A head or rotary size is not a multiple of what the kernel wants.
    """
    _, head_size = decoder.cache_dims
    if head_size % _HEAD_SIZE_UNIT != 0:
        raise NotFusable(f"head size {head_size} is not a multiple of {_HEAD_SIZE_UNIT}")
    for cos, _ in decoder.caches.values():
        rotary_size = 2 * cos.shape[1]
        if head_size % _ROTARY_SIZE_UNIT != 0 or rotary_size % _ROTARY_SIZE_UNIT != 0:
            raise NotFusable(
                f"head size {head_size} with rotary size {rotary_size}: with rotation both must be"
                f" multiples of {_ROTARY_SIZE_UNIT}"
            )


def _vocab_size(decoder: Decoder) -> int:
    """Return the size of the last axis of the logits.

    Raises:
        NotFusable: No projection makes the logits.
    """
    for block in reversed(decoder.blocks):
        if isinstance(block, Linear):
            return block.width
    raise NotFusable("no projection makes the logits")
