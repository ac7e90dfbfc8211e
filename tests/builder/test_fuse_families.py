"""Fused logits equal those of the export and of torch, for every supported family and shape."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.session import open_session

pytest.importorskip("optimum")

import torch

from edged.builder.fuse import FuseReport, fuse
from edged.builder.fuse.compare import run_export
from tests.builder.conftest import TinyExport
from tests.builder.tiny_families import FUSED, VOCAB_SIZE, tiny_model

MAX_MODEL_LEN = 64
TOLERANCE = 1e-3
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_LINEAR = {"rope_type": "linear", "factor": 8.0}


@dataclass(frozen=True)
class Variant:
    family: str
    overrides: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    **{family: Variant(family) for family in FUSED},
    "llama, no grouping, tied": Variant(
        "llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}
    ),
    "llama, one kv head of 128": Variant("llama", {"num_key_value_heads": 1, "head_dim": 128}),
    "llama, heads of 64, all biases": Variant(
        "llama", {"head_dim": 64, "attention_bias": True, "mlp_bias": True}
    ),
    "llama, llama3 rope": Variant("llama", {"rope_scaling": _LLAMA3}),
    "llama, yarn rope": Variant("llama", {"rope_scaling": _YARN}),
    "llama, gelu": Variant("llama", {"hidden_act": "gelu"}),
    "mistral, window": Variant("mistral", {"sliding_window": 8}),
    "qwen2, window on one layer, tied": Variant(
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3, biases": Variant("qwen3", {"attention_bias": True}),
    "gemma3, global rope scaled": Variant("gemma3_text", {"rope_scaling": _LINEAR}),
    "phi3, half rotated": Variant("phi3", {"hidden_size": 128, "partial_rotary_factor": 0.5}),
    "phi3, window": Variant("phi3", {"sliding_window": 8}),
    "granite, tied": Variant("granite", {"tie_word_embeddings": True}),
    "gemma": Variant("gemma"),
    "gemma2, soft caps": Variant("gemma2"),
    "phi, heads of 32": Variant("phi", {"hidden_size": 128}),
}


@dataclass
class Fused:
    report: FuseReport
    graph: Graph
    token_ids: NDArray[np.int64]
    others: NDArray[np.int64]
    expected: NDArray[np.float32]


@pytest.fixture(scope="module")
def fuse_variant(
    tiny_export: TinyExport, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Fused]:
    made: dict[str, Fused] = {}

    def make(name: str) -> Fused:
        if name not in made:
            variant = VARIANTS[name]
            export_folder = tiny_export(variant.family, **variant.overrides)
            made[name] = _fuse(export_folder, tmp_path_factory.mktemp("fused"))
        return made[name]

    return make


def _fuse(export_folder: Path, folder: Path) -> Fused:
    report = fuse(export_folder, folder, max_model_len=MAX_MODEL_LEN)
    token_ids, others = np.random.default_rng(7).integers(0, VOCAB_SIZE, (2, MAX_MODEL_LEN))
    session = open_session(export_folder / "model.onnx", num_threads=1)
    expected = run_export(session, token_ids)
    graph = load_graph(
        folder / "model.onnx", is_fused=True, max_model_len=MAX_MODEL_LEN, num_threads=1
    )
    return Fused(report, graph, token_ids, others, expected)


@pytest.fixture(params=VARIANTS)
def variant_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fused(fuse_variant: Callable[[str], Fused], variant_name: str) -> Fused:
    return fuse_variant(variant_name)


def test_one_forward_pass_gives_the_exports_logits(fused: Fused) -> None:
    logits = fused.graph.forward(fused.token_ids, 0, all_rows=True)

    np.testing.assert_allclose(logits, fused.expected, atol=TOLERANCE, rtol=0)
    assert fused.report.max_abs_diff <= TOLERANCE


def test_chunks_of_any_size_give_the_exports_logits(fused: Fused) -> None:
    start = 0
    for size in (3, 1, 9, 1, 1, 25, 24):
        chunk = fused.token_ids[start : start + size]
        logits = fused.graph.forward(chunk, start, all_rows=True)
        np.testing.assert_allclose(
            logits, fused.expected[start : start + size], atol=TOLERANCE, rtol=0
        )
        start += size


def test_overwriting_cached_tokens_gives_the_exports_logits(fused: Fused) -> None:
    fused.graph.forward(fused.token_ids[:11], 0)
    fused.graph.forward(fused.others[11:], 11)

    logits = fused.graph.forward(fused.token_ids[11:], 11, all_rows=True)

    np.testing.assert_allclose(logits, fused.expected[11:], atol=TOLERANCE, rtol=0)


def test_selecting_the_last_row_gives_the_exports_last_logits(fused: Fused) -> None:
    logits = fused.graph.forward(fused.token_ids, 0)

    np.testing.assert_allclose(logits, fused.expected[-1:], atol=TOLERANCE, rtol=0)


def test_logits_are_those_of_the_torch_model(fused: Fused, variant_name: str) -> None:
    variant = VARIANTS[variant_name]
    model = tiny_model(variant.family, **variant.overrides)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = model(torch.from_numpy(fused.token_ids[None])).logits[0].numpy()

    logits = fused.graph.forward(fused.token_ids, 0, all_rows=True)

    np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0)
    assert np.std(expected) > 0.1, "flat logits would hide a mistake"
