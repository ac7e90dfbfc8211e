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


def load(folder: Path) -> Graph:
    return load_graph(folder / MODEL, is_fused=True, max_model_len=64, num_threads=1)


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
        graphs[0].hidden(PROMPT, 0, 1)
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
            rows.append(graph.hidden(ids, start, len(ids)).copy())
        return np.concatenate(rows)

    whole = read(len(PROMPT))
    assert whole.shape == (len(PROMPT), np.prod(graph.hidden_shape))
    np.testing.assert_array_equal(read(chunk), whole)
    # Of the last rows alone, too, and logits after them are those of a run without.
    np.testing.assert_array_equal(graph.hidden(PROMPT, 0, 4), whole[-4:])
    assert graph.hidden(PROMPT, 0, 0).shape == (0, whole.shape[1])


def test_int8_ones_are_near_those_of_the_original(tiny_export: TinyExport, tmp_path: Path) -> None:
    export = tiny_export("llama")
    exact = load(build(export, tmp_path, Scheme.FP32, is_int8=False, has_hidden=True))
    wanted = exact.hidden(PROMPT, 0, len(PROMPT)).copy()
    rounded = load(build(export, tmp_path, Scheme.FP32, is_int8=True, has_hidden=True))
    found = rounded.hidden(PROMPT, 0, len(PROMPT))
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
