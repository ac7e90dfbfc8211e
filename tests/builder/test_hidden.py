"""Hidden states of a fused graph: right, the same however a prompt is cut, and free when unread."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.builder.fuse import fuse
from edged.builder.hidden import write_hidden
from edged.builder.kvcache import measure_peaks, write_int8_cache
from edged.builder.onnx_files import read_graph, write_graph
from edged.builder.quantize import Scheme, quantize
from edged.bundle.manifest import MODEL
from edged.engine.fused import HIDDEN
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.steps import DecodeInput
from tests.builder.conftest import TinyExport

TEXTS = np.random.default_rng(1).integers(3, 150, (4, 40)).tolist()
PROMPT = np.array(TEXTS[0][:20])


def build(export: Path, folder: Path, scheme: Scheme, *, is_int8: bool, has_hidden: bool) -> Path:
    fp32, output = folder / "fp32", folder / f"{scheme}-{is_int8}-{has_hidden}"
    if not fp32.exists():
        fuse(export, fp32, max_model_len=64)
    output.mkdir()
    quantize(fp32, output, scheme, TEXTS)
    model = read_graph(output)
    if has_hidden:
        assert write_hidden(model.graph)
        write_graph(output, model)
    if is_int8:
        write_int8_cache(output, measure_peaks(fp32, TEXTS))
    return output


def load(folder: Path, num_slots: int = 1) -> Graph:
    return load_graph(
        folder / MODEL, is_fused=True, max_model_len=64, num_threads=1, num_slots=num_slots
    )


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("scheme", [Scheme.FP32, Scheme.INT8_W8A8])
def test_logits_and_answers_have_the_bits_that_they_have_without(
    tiny_export: TinyExport, tmp_path: Path, scheme: Scheme, is_int8: bool
) -> None:
    export = tiny_export("llama")
    graphs = [
        load(build(export, tmp_path, scheme, is_int8=is_int8, has_hidden=has))
        for has in (False, True)
    ]
    assert graphs[0].hidden_shape == (0, 0)
    with pytest.raises(ValueError, match=r"hidden"):
        graphs[0].hidden([PROMPT], 0)
    results = []
    for graph in graphs:
        prompt = graph.forward(PROMPT, 0).copy()
        token = graph.decode([DecodeInput(0, 5, len(PROMPT))])[0].copy()
        results.append((prompt, token))
    for without, having in zip(*results, strict=True):
        np.testing.assert_array_equal(without, having)


@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_they_are_the_same_however_a_prompt_is_cut(
    tiny_export: TinyExport, tmp_path: Path, chunk: int
) -> None:
    graph = load(
        build(tiny_export("llama"), tmp_path, Scheme.INT8_W8A8, is_int8=True, has_hidden=True)
    )

    def read(size: int) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(PROMPT), size):
            ids = PROMPT[start : start + size]
            rows.append(graph.hidden([ids], start)[0].copy())
        return np.concatenate(rows)

    whole = read(len(PROMPT))
    assert whole.shape == (len(PROMPT), np.prod(graph.hidden_shape))
    np.testing.assert_array_equal(read(chunk), whole)
    # Of the last rows alone, too, and logits after them are those of a run without.
    np.testing.assert_array_equal(graph.hidden([PROMPT], 0, 16)[0], whole[16:])
    assert graph.hidden([PROMPT], 0, 21)[0].shape == (0, whole.shape[1])


@pytest.mark.parametrize("is_int8", [False, True])
def test_a_prompt_has_the_same_bits_alone_and_beside_others(
    tiny_export: TinyExport, tmp_path: Path, is_int8: bool
) -> None:
    """Its hidden states, and its keys and values; whatever its place among them."""
    export, scheme = tiny_export("llama"), Scheme.INT8_W8A8
    path = build(export, tmp_path, scheme, is_int8=is_int8, has_hidden=True)
    prefix, lengths = PROMPT[:9], (7, 12, 1, 30, 12, 5, 2, 19)
    prompts = [np.random.default_rng(n).integers(3, 150, n) for n in lengths]
    graph, start = load(path, num_slots=8), len(prefix)
    for slot in range(8):
        graph.hidden([prefix], 0, slot=slot)
    alone = [graph.hidden([ids], start, slot=slot)[0].copy() for slot, ids in enumerate(prompts)]
    caches = [graph.read(slot) for slot in range(8)]
    for first, width in ((0, 2), (2, 2), (4, 4), (1, 3), (0, 8)):
        for order in (range(first, first + width), range(first + width - 1, first - 1, -1)):
            states = graph.hidden([prompts[i] for i in order], start, slot=first)
            for slot, i in enumerate(order, first):
                np.testing.assert_array_equal(states[slot - first], alone[i])
                np.testing.assert_array_equal(graph.read(slot), caches[i])
    # The logits after them, too: padding behind a prompt is never seen.
    graph.hidden(prompts[:3], start, slot=0)
    after = graph.forward(PROMPT[:3], start + lengths[0], slot=0).copy()
    single = load(path)
    single.hidden([np.concatenate([prefix, prompts[0]])], 0)
    np.testing.assert_array_equal(single.forward(PROMPT[:3], start + lengths[0]), after)


def test_int8_ones_are_near_those_of_the_original(tiny_export: TinyExport, tmp_path: Path) -> None:
    export = tiny_export("llama")
    exact = load(build(export, tmp_path, Scheme.FP32, is_int8=False, has_hidden=True))
    wanted = exact.hidden([PROMPT], 0)[0].copy()
    rounded = load(build(export, tmp_path, Scheme.FP32, is_int8=True, has_hidden=True))
    found = rounded.hidden([PROMPT], 0)[0]
    cosines = (wanted * found).sum(axis=1)
    cosines /= np.linalg.norm(wanted, axis=1) * np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.99


def test_a_graph_whose_layers_are_not_found_is_left_as_it_is(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    fuse(tiny_export("llama"), tmp_path, max_model_len=64)
    graph = read_graph(tmp_path).graph
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = name.replace("input_layernorm", "other")
    before = graph.SerializeToString()
    assert not write_hidden(graph)
    assert graph.SerializeToString() == before
    assert HIDDEN not in {value.name for value in graph.output}
