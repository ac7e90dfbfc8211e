"""What a reader of the build's output should know about a fused graph.

Rule: a note never changes the graph; what would make it wrong is refused elsewhere.
"""

import json
from pathlib import Path
from typing import Any

from edged.builder.fuse.decoder import Decoder

_LENGTH_DEPENDENT = frozenset({"dynamic", "longrope", "su"})


def write_notes(decoder: Decoder, export_folder: Path) -> tuple[str, ...]:
    """Return the notes, from the graph itself and from where it differs from its configuration."""
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
