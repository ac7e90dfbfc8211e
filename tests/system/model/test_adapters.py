"""Adapters on the real model: as close to fp32 as the plain model, and the same bits in company."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.builder.adapted import adapted_layers
from edged.builder.adapter_gate import MAX_MEAN_KL, measure_adapter
from edged.builder.adapters import convert_adapter
from edged.builder.peft import read_peft
from edged.builder.pipeline import default_cache
from edged.bundle.folder import Bundle
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.steps import DecodeInput
from edged.engine.tokenizer import Tokenizer
from edged.specialists.adapter import Adapter, made_adapter
from tests.paths import ROOT
from tests.peft_folder import SMOLLM2, write_peft
from tests.requirements import require

LAYERS = adapted_layers(30)
NUM_SLOTS = 8
PROMPT = np.random.default_rng(9).integers(100, 40_000, 70)
CHUNKS = ([64, 6], [69, 1], [1] * 70, [33, 20, 17])


@pytest.fixture(scope="module")
def reference(real_bundle: Bundle) -> Path:
    """The fused fp32 graph of the real model; building the bundle leaves it in the cache."""
    folder = default_cache() / "fused" / real_bundle.manifest.source.sha256
    require(folder.is_dir(), "the cached fp32 graph of SmolLM2-135M")
    return folder


@pytest.fixture(scope="module")
def adapters(
    real_bundle: Bundle, reference: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Adapter]:
    folders = [
        write_peft(tmp_path_factory.mktemp("peft"), SMOLLM2, LAYERS, rank=16, seed=i, strength=0.03)
        for i in range(4)
    ]
    manifest = real_bundle.manifest
    return [made_adapter(convert_adapter(one, manifest, reference)) for one in folders]


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "tiled"])
def graph(real_bundle: Bundle, request: pytest.FixtureRequest) -> Graph:
    return load_graph(
        real_bundle.adapted_path,
        is_fused=True,
        max_model_len=128,
        num_slots=NUM_SLOTS,
        has_flash=request.param,
    )


def prefill(
    graph: Graph, slot: int, adapter: Adapter | None, chunks: Sequence[int] = (64, 6)
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    graph.adapt(slot, adapter)
    start = 0
    for count in chunks:
        logits = graph.forward(PROMPT[start : start + count], start, slot=slot).copy()
        start += count
    return logits[0], graph.read(slot)


def test_an_adapted_prompt_has_the_same_bits_for_all_chunks(
    graph: Graph, adapters: Sequence[Adapter]
) -> None:
    plain = prefill(graph, 0, None)
    results = [prefill(graph, 0, adapters[0], chunks) for chunks in CHUNKS]
    for logits, held in results:
        np.testing.assert_array_equal(logits, results[0][0])
        np.testing.assert_array_equal(held, results[0][1])
        assert not np.array_equal(logits, plain[0])


def test_adapted_answers_have_the_same_bits_alone_and_in_company(
    graph: Graph, adapters: Sequence[Adapter]
) -> None:
    """Of four adapters and of the plain model, at 1, 2, 4 and 8 rows of one token or several."""
    for slot in range(NUM_SLOTS):
        prefill(graph, slot, None if slot % 3 == 2 else adapters[slot % 4])

    def decode(*slots: int, longest: int = 0) -> list[NDArray[np.float32]]:
        known = [tuple(range(20, 20 + min(slot % 5, longest))) for slot in slots]
        inputs = [DecodeInput(s, 17 + s, 70, ids) for s, ids in zip(slots, known, strict=True)]
        return [row.copy() for row in graph.decode(inputs)]

    for longest in (0, 4):
        alone = [decode(slot, longest=longest)[0] for slot in range(NUM_SLOTS)]
        for slots in ((0, 1), (2, 5), (0, 1, 2, 3), (5, 6, 7), tuple(range(NUM_SLOTS))):
            for slot, row in zip(slots, decode(*slots, longest=longest), strict=True):
                np.testing.assert_array_equal(row, alone[slot])
    for index in range(5):
        (row,) = graph.decode([DecodeInput(4, 17 + 4 if index == 0 else 19 + index, 70 + index)])
    np.testing.assert_array_equal(row, alone[4])


def test_the_adapted_model_stays_as_close_to_fp32(
    real_bundle: Bundle, reference: Path, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "specialists.md").read_text(encoding="utf-8")
    ids = Tokenizer.load(real_bundle).encode(page[:2000])
    folder = write_peft(tmp_path, SMOLLM2, LAYERS, rank=16, strength=0.01)
    parts = convert_adapter(folder, real_bundle.manifest, reference)
    args = real_bundle, reference, [(ids[:200], [True] * 200)]
    plain = measure_adapter({}, {}, *args).answers
    adapted = measure_adapter(read_peft(folder), parts, *args).answers
    assert adapted < max(MAX_MEAN_KL, 1.25 * plain)
