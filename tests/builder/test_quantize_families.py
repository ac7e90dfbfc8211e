"""Every family the builder knows keeps its predictions in int8, fused or as exported."""

from pathlib import Path

import numpy as np
import pytest

from edged.builder.fuse import fuse
from edged.builder.measure import compare
from edged.builder.onnx_files import read_graph
from edged.builder.quantize import Scheme, quantize
from edged.engine.loading import load_graph
from tests.builder.conftest import TinyExport

FUSED = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3", "smollm3", "granite")
PORTABLE = ("phi", "gemma", "gemma2", "gpt2", "opt", "falcon")
VOCAB_SIZE = 160
SEQUENCES = np.random.default_rng(0).integers(3, VOCAB_SIZE, (4, 60)).tolist()


def divergence(reference: Path, candidate: Path, *, fused: bool) -> float:
    graphs = [
        load_graph(folder / "model.onnx", is_fused=is_fused, max_model_len=64, num_threads=1)
        for folder, is_fused in ((reference, False), (candidate, fused))
    ]
    return compare(graphs[0], graphs[1], SEQUENCES).mean_kl


def spread(reference: Path) -> float:
    """Return the divergence of the model's own predictions, one position from the next."""
    graph = load_graph(reference / "model.onnx", is_fused=False, max_model_len=64, num_threads=1)
    logits = graph.forward(np.asarray(SEQUENCES[0], np.int64), 0, all_rows=True).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float((np.exp(log_p[1:]) * (log_p[1:] - log_p[:-1])).sum(axis=1).mean())


@pytest.mark.parametrize("family", PORTABLE)
def test_a_portable_family_keeps_its_predictions(
    tiny_export: TinyExport, tmp_path: Path, family: str
) -> None:
    """int8 changes a prediction far less than the next token does."""
    export = tiny_export(family)
    report = quantize(export, tmp_path, Scheme.INT8_BLOCKWISE)
    operators = {node.op_type for node in read_graph(tmp_path).graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators
    # Learned positions are no token table; nothing else may stay in fp32.
    assert all("position" in kept or "wpe" in kept for kept in report.kept)
    assert divergence(export, tmp_path, fused=False) < 0.01 * spread(export)


@pytest.mark.parametrize("family", FUSED)
def test_a_fused_family_keeps_its_predictions(
    tiny_export: TinyExport, tmp_path: Path, family: str
) -> None:
    export = tiny_export(family)
    fp32, int8 = tmp_path / "fp32", tmp_path / "int8"
    int8.mkdir()
    fuse(export, fp32, max_model_len=64)
    report = quantize(fp32, int8, Scheme.INT8_BLOCKWISE)
    assert report.kept == ()
    operators = {node.op_type for node in read_graph(int8).graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= operators
    assert "MatMul" not in operators
    assert divergence(export, int8, fused=True) < 0.01 * spread(export)
