"""Compare the fused graph with the export, run as the engine runs it.

Rule: the same tokens run in one pass, in chunks, and after a rewind over other tokens, so that a
wrong position, window or cache row shows.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edged.builder.fuse.traced import ORT_ERRORS, NotFusable
from edged.bundle.manifest import MODEL
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.session import open_session
from edged.errors import BundleError

_TOLERANCE = 1e-3
_NUM_TOKENS = 48
# Wider windows are checked by the mask alone.
_NUM_TOKENS_MAX = 640
_CHUNKS = (7, 1, 5, 16)
_SEED = 20240229

Logits = NDArray[np.float32]
TokenIds = NDArray[np.int64]


def compare(
    export_folder: Path, fused_folder: Path, max_model_len: int, window: int | None
) -> float:
    """Return the largest difference of any logit; blocks for a few prefills.

    Args:
        export_folder: holds the export's ``model.onnx``.
        fused_folder: holds the fused one.
        max_model_len: no more tokens than this are run.
        window: the narrowest sliding window; more tokens than it has are run, up to a limit.

    Raises:
        NotFusable: The fused graph does not run, or differs by more than rounding explains.
        BundleError: The export cannot be loaded.
    """
    count = _NUM_TOKENS
    if window is not None and window < _NUM_TOKENS_MAX:
        count += window
    session = open_session(export_folder / MODEL, num_threads=None)
    vocab_size = session.get_outputs()[0].shape[-1]
    random = np.random.default_rng(_SEED)
    token_ids, others = random.integers(0, vocab_size, (2, min(count, max_model_len)))
    expected = run_export(session, token_ids)
    del session
    try:
        fused = load_graph(fused_folder / MODEL, is_fused=True, max_model_len=max_model_len)
        worst = _worst_difference(fused, token_ids, others, expected)
    except (BundleError, *ORT_ERRORS) as error:
        raise NotFusable(f"the fused graph does not run: {error}") from error
    # Rounding errors scale with the logits, which multipliers and soft caps make of any size.
    tolerance = _TOLERANCE * max(1.0, float(np.sqrt(np.mean(np.square(expected)))))
    if not worst <= tolerance:
        raise NotFusable(f"fused logits differ from the export by {worst:.2g}")
    return worst


def _worst_difference(
    fused: Graph, token_ids: TokenIds, others: TokenIds, expected: Logits
) -> float:
    """Return the largest difference of any logit in any pass; NaN if any logit is NaN."""
    differences = [
        np.abs(logits - expected[start : start + len(logits)]).max()
        for start, logits in _passes(fused, token_ids, others)
    ]
    return float(np.max(differences))


def run_export(session: ort.InferenceSession, token_ids: TokenIds) -> Logits:
    """Return the export's logits [n, V] of ``token_ids`` in one pass with an empty past."""
    feeds: dict[str, NDArray[np.generic]] = {}
    count = len(token_ids)
    for item in session.get_inputs():
        if item.name == "input_ids":
            feeds[item.name] = token_ids[None]
        elif item.name == "attention_mask":
            feeds[item.name] = np.ones((1, count), np.int64)
        elif item.name == "position_ids":
            feeds[item.name] = np.arange(count)[None]
        else:
            feeds[item.name] = np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32)
    logits: Logits = session.run(["logits"], feeds)[0][0]
    return logits


def _passes(graph: Graph, token_ids: TokenIds, others: TokenIds) -> list[tuple[int, Logits]]:
    """Return each pass's first position and logits: in one pass, in chunks, and after a rewind."""
    count = len(token_ids)
    results = [(0, graph.forward(token_ids, 0, all_rows=True).copy())]
    start = 0
    for size in (*_CHUNKS, count):
        chunk = token_ids[start : start + size]
        if len(chunk):
            results.append((start, graph.forward(chunk, start, all_rows=True).copy()))
        start += len(chunk)
    rewind = count // 3
    graph.forward(others[rewind:], rewind)
    results.append((rewind, graph.forward(token_ids[rewind:], rewind, all_rows=True).copy()))
    results.append((count - 1, graph.forward(token_ids[-1:], count - 1).copy()))
    return results
