"""Fuse Optimum's export into a graph with grouped attention and an in-place KV cache.

Rule: refuse rather than guess. Every operator of the export must be understood, and the result is
compared with the export; otherwise ``NotFusable`` says why and the portable graph is used.
"""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edged.builder.fuse.blocks import Linear
from edged.builder.fuse.compare import compare
from edged.builder.fuse.decoder import Decoder, read_decoder
from edged.builder.fuse.emitter import Emitter
from edged.builder.fuse.plan import plan_fusions
from edged.builder.fuse.rebuild import Rebuilder
from edged.builder.fuse.traced import NotFusable, TracedGraph
from edged.builder.onnx_files import GraphWriter
from edged.bundle.manifest import MODEL, MODEL_DATA

__all__ = ["FuseReport", "NotFusable", "fuse"]

_HEAD_SIZE_UNIT = 8
_ROTARY_SIZE_UNIT = 16
# Rotary scalings whose angles depend on the length of the text.
_LENGTH_DEPENDENT = frozenset({"dynamic", "longrope", "su"})


@dataclass(frozen=True, slots=True)
class FuseReport:
    """The result of a fusion, and its distance from the export."""

    num_layers: int
    num_nodes_before: int
    num_nodes_after: int
    window: int | None
    """Size of the narrowest sliding window in tokens; None without one."""
    notes: tuple[str, ...]
    """Remarks for the build's output."""
    max_abs_diff: float = math.nan
    """Largest difference of any logit from the export's."""


def fuse(export_folder: Path, output_folder: Path, *, max_model_len: int) -> FuseReport:
    """Write the fused form of an export, in fp32; blocks for a few prefills.

    Args:
        export_folder: Optimum's ``text-generation-with-past``: ``model.onnx`` and its data file.
        output_folder: gets ``model.onnx`` and ``model.onnx.data``; made when missing.
        max_model_len: length of the rotary tables in positions, at least 1.

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
    """Write the fused form, not yet compared; frees the export's weights on return.

    Raises:
        NotFusable: The export has something that the fused graph cannot express.
    """
    graph = TracedGraph(export_folder)
    decoder = read_decoder(graph, max_model_len)
    _check_operator(decoder)
    output_folder.mkdir(parents=True, exist_ok=True)
    with GraphWriter(output_folder) as writer:
        emitter = Emitter(graph, writer)
        Rebuilder(emitter, decoder, plan_fusions(decoder)).write()
        emitter.finish(decoder.cache_dims, len(decoder.attentions), _vocab_size(decoder))
    return FuseReport(
        num_layers=len(decoder.attentions),
        num_nodes_before=len(graph.nodes),
        num_nodes_after=len(emitter.nodes),
        window=min((a.window for a in decoder.attentions if a.window is not None), default=None),
        notes=_write_notes(decoder, export_folder),
    )


def _check_operator(decoder: Decoder) -> None:
    """Refuse what ONNX Runtime's GroupQueryAttention refuses on the CPU.

    Raises:
        NotFusable: A head or rotary size is not a multiple of the kernel's unit.
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


def _write_notes(decoder: Decoder, export_folder: Path) -> tuple[str, ...]:
    """Return remarks on the graph, and on its differences from its configuration."""
    notes = [
        f"layers with a sliding window of {window} tokens"
        for window in sorted({a.window for a in decoder.attentions if a.window is not None})
    ]
    num_unrotated = sum(a.rotary is None for a in decoder.attentions)
    if num_unrotated:
        notes.append(f"{num_unrotated} of {len(decoder.attentions)} layers without positions")
    config = _read_config(export_folder)
    softcap = config.get("attn_logit_softcapping")
    if softcap and all(a.softcap == 0 for a in decoder.attentions):
        notes.append(f"the export leaves out the configuration's attention soft cap of {softcap}")
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind in _LENGTH_DEPENDENT:
        limit = config.get("original_max_position_embeddings", config["max_position_embeddings"])
        notes.append(f"the {kind} rotary angles of the export are those for up to {limit} tokens")
    return tuple(notes)


def _read_config(export_folder: Path) -> dict[str, Any]:
    """Return the text model's configuration; empty when the folder has none."""
    path = export_folder / "config.json"
    if not path.is_file():
        return {}
    config = json.loads(path.read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config") or config
    return text
