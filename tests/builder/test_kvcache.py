"""Keys and values in int8: close to fp32, and bit-identical for all chunk sizes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.builder.fuse import fuse
from edged.builder.kvcache import measure_peaks, write_int8_cache
from edged.builder.measure import compare
from edged.builder.quantize import Scheme, quantize
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from tests.builder.conftest import TinyExport

SHAPES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {},
    "gemma3_text": {},
    "phi": {"hidden_size": 128},
    "phi3": {},
    "smollm3": {},
    "granite": {},
}
"""Head norms, soft caps, windows, layers without rotation, heads that are rotated in part."""
IDS = np.random.default_rng(0).integers(3, 150, 40)
TEXTS = np.random.default_rng(1).integers(3, 150, (4, 40)).tolist()


def load(folder: Path) -> Graph:
    return load_graph(folder / "model.onnx", is_fused=True, max_model_len=64, num_threads=1)


@pytest.fixture
def fp32(tiny_export: TinyExport, tmp_path: Path) -> Path:
    folder = tmp_path / "fp32"
    fuse(tiny_export("llama"), folder, max_model_len=64)
    return folder


@pytest.fixture
def int8(fp32: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "int8"
    folder.mkdir()
    quantize(fp32, folder, Scheme.INT8_W8A8, TEXTS)
    write_int8_cache(folder, measure_peaks(fp32, TEXTS))
    return folder


def test_peaks_are_the_largest_values_in_the_cache(fp32: Path) -> None:
    """One for each feature of each head, growing with the text."""
    one, all_texts = measure_peaks(fp32, TEXTS[:1]), measure_peaks(fp32, TEXTS)
    assert list(one) == [f"present.{i}.{kind}" for i in range(2) for kind in ("key", "value")]
    for name, peaks in one.items():
        assert peaks.min() > 0
        assert (all_texts[name] >= peaks).all()
    assert any((all_texts[name] > peaks).any() for name, peaks in one.items())


@pytest.mark.parametrize("family", SHAPES)
def test_every_fused_family_keeps_its_predictions(
    tiny_export: TinyExport, tmp_path: Path, family: str
) -> None:
    """Head norms, soft caps and windows included; the cache takes a quarter of the memory."""
    fp32, int8 = tmp_path / "fp32", tmp_path / "int8"
    fuse(tiny_export(family, **SHAPES[family]), fp32, max_model_len=64)
    int8.mkdir()
    quantize(fp32, int8, Scheme.FP32)
    write_int8_cache(int8, measure_peaks(fp32, TEXTS))
    reference, candidate = load(fp32), load(int8)
    sizes = [graph._signature.kv_bytes_per_token for graph in (reference, candidate)]
    assert sizes[0] == 4 * sizes[1]
    result = compare(reference, candidate, TEXTS)
    assert 0 < result.mean_kl < 1e-2
    graph = load(int8)
    prefilled = graph.forward(IDS, 0, all_rows=True).copy()
    held = graph.read(0)
    decoded = graph.forward(IDS, 0, all_rows=True, is_prefill=False)
    np.testing.assert_array_equal(graph.read(0), held)
    np.testing.assert_allclose(decoded, prefilled, atol=1e-4)
    assert (decoded != prefilled).any()  # so there are two branches


def test_chunks_single_tokens_and_rewinds_are_bit_identical(int8: Path) -> None:
    """Each row is rounded once, whatever the chunks."""
    graph = load(int8)
    whole = graph.forward(IDS, 0, all_rows=True).copy()

    def run(start: int, stop: int) -> NDArray[np.float32]:
        return graph.forward(IDS[start:stop], start, all_rows=True).copy()

    chunks = [run(0, 17), run(17, 18), run(18, 40)]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    graph.forward(IDS[:20], 10)  # other tokens over the rows from 10 on
    np.testing.assert_array_equal(run(10, 40), whole[10:])


def test_a_constant_zero_feature_of_the_cache_stays_finite(fp32: Path, tmp_path: Path) -> None:
    folder = tmp_path / "still"
    folder.mkdir()
    quantize(fp32, folder, Scheme.FP32)
    peaks = {name: np.zeros_like(value) for name, value in measure_peaks(fp32, TEXTS).items()}
    write_int8_cache(folder, peaks)
    assert np.isfinite(load(folder).forward(IDS, 0)).all()
