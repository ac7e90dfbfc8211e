"""Both forms of graph: the same numbers, whatever the chunks, also after a rewind."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edged.engine.fused import FusedGraph
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.errors import BundleError
from tests.tiny_graphs import import_onnx
from tests.tiny_model import MAX_MODEL_LEN, write_tiny_bundle

IDS = np.random.default_rng(0).integers(0, 290, 60)


ON_GRAPHS = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The toy in both forms, by whether it is fused."""
    root = tmp_path_factory.mktemp("tiny")
    return {fused: write_tiny_bundle(root / str(fused), fused=fused) for fused in (True, False)}


def load(folder: Path, *, is_fused: bool, max_model_len: int = MAX_MODEL_LEN) -> Graph:
    path = folder / "model.onnx"
    return load_graph(path, is_fused=is_fused, max_model_len=max_model_len, num_threads=1)


@pytest.fixture(scope="module")
def fused(folders: dict[bool, Path]) -> Graph:
    return load(folders[True], is_fused=True)


@pytest.fixture(scope="module")
def portable(folders: dict[bool, Path]) -> Graph:
    return load(folders[False], is_fused=False)


@pytest.fixture(params=["fused", "portable"])
def graph(request: pytest.FixtureRequest) -> Graph:
    """Each form in turn, with an empty cache."""
    graph: Graph = request.getfixturevalue(request.param)
    graph.release()
    return graph


@pytest.fixture(scope="module")
def reference(portable: Graph) -> NDArray[np.float32]:
    """Logits of all positions, from the portable graph in one piece."""
    return portable.forward(IDS, 0, all_rows=True).copy()


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_both_forms_agree_at_every_position(fused: Graph, reference: NDArray[np.float32]) -> None:
    assert_close(fused.forward(IDS, 0, all_rows=True), reference)


def test_the_sizes_are_read_from_the_graph(graph: Graph) -> None:
    assert graph.vocab_size == 296
    assert graph.max_model_len == MAX_MODEL_LEN
    assert graph._signature.kv_bytes_per_token == 512


def test_without_all_rows_only_the_last_position_is_returned(
    graph: Graph, reference: NDArray[np.float32]
) -> None:
    logits = graph.forward(IDS, 0)
    assert logits.shape == (1, 296)
    assert_close(logits[0], reference[-1])


@ON_GRAPHS
@given(cuts=st.lists(st.integers(1, len(IDS) - 1), max_size=8, unique=True))
def test_the_size_of_chunks_does_not_matter(
    graph: Graph, reference: NDArray[np.float32], cuts: list[int]
) -> None:
    edges = [0, *sorted(cuts), len(IDS)]
    for start, end in pairwise(edges):
        logits = graph.forward(IDS[start:end], start, all_rows=True)
        assert_close(logits, reference[start:end])


@ON_GRAPHS
@given(length=st.integers(0, len(IDS) - 1), wrong=st.lists(st.integers(0, 289), min_size=1))
def test_a_rewind_leaves_no_trace(
    graph: Graph, reference: NDArray[np.float32], length: int, wrong: list[int]
) -> None:
    graph.forward(IDS, 0)
    graph.forward(np.array(wrong), length)
    logits = graph.forward(IDS[length:], length, all_rows=True)
    assert_close(logits, reference[length:])


def test_a_decode_step_uses_the_buffers_of_the_step_before(fused: Graph) -> None:
    fused.forward(IDS, 0)
    first = fused.forward(IDS[:1], len(IDS))
    second = fused.forward(IDS[1:2], len(IDS) + 1)
    assert first.ctypes.data == second.ctypes.data


def test_release_forgets_all_tokens(graph: Graph, reference: NDArray[np.float32]) -> None:
    graph.forward(IDS, 0)
    graph.release()
    with pytest.raises(ValueError, match="leaves a gap after 0"):
        graph.forward(IDS[:1], 1)
    assert_close(graph.forward(IDS, 0)[0], reference[-1])


@pytest.mark.parametrize(
    ("count", "start", "message"),
    [
        (0, 0, "no tokens"),
        (1, 1, "gap"),
        (1, -1, "gap"),
        (MAX_MODEL_LEN + 1, 0, "past max_model_len 256"),
    ],
)
def test_impossible_positions_are_refused(
    graph: Graph, count: int, start: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        graph.forward(np.zeros(count, np.int64), start)


def test_the_last_position_of_the_context_can_be_used(graph: Graph) -> None:
    graph.forward(np.zeros(MAX_MODEL_LEN - 1, np.int64), 0)
    assert np.isfinite(graph.forward(np.array([1]), MAX_MODEL_LEN - 1)).all()


def test_a_cache_larger_than_the_machine_costs_nothing_until_used(
    folders: dict[bool, Path],
) -> None:
    graph = load(folders[True], is_fused=True, max_model_len=2**22)
    before = resident_bytes()
    graph.forward(IDS, 0)
    assert 2**22 * graph._signature.kv_bytes_per_token == 2**31
    assert resident_bytes() - before < 2**26


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096


@pytest.mark.parametrize(
    ("is_fused", "message"),
    [(True, "input 'seqlens_k' is missing"), (False, "input 'attention_mask' is missing")],
)
def test_the_wrong_form_is_named_by_its_missing_input(
    folders: dict[bool, Path], is_fused: bool, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        load(folders[not is_fused], is_fused=is_fused)


@dataclass
class Node:
    """An input or output, as ONNX Runtime describes it."""

    name: str
    type: str
    shape: list[int | str | None]


@dataclass
class Signature:
    """A session that only knows its inputs and outputs."""

    inputs: list[Node]
    outputs: list[Node]

    def get_inputs(self) -> list[Node]:
        return self.inputs

    def get_outputs(self) -> list[Node]:
        return self.outputs


def fused_signature() -> Signature:
    cache: list[int | str | None] = ["batch", 2, "capacity", 16]
    return Signature(
        inputs=[
            Node("input_ids", "tensor(int64)", ["batch", "sequence"]),
            Node("seqlens_k", "tensor(int32)", ["batch"]),
            Node("total_sequence_length", "tensor(int32)", []),
            Node("query_seqlens", "tensor(int32)", ["batch"]),
            Node("rows", "tensor(int64)", ["rows"]),
            Node("past_key_values.0.key", "tensor(float)", list(cache)),
            Node("past_key_values.0.value", "tensor(float)", list(cache)),
        ],
        outputs=[
            Node("logits", "tensor(float)", ["batch", "rows", 296]),
            Node("present.0.key", "tensor(float)", list(cache)),
            Node("present.0.value", "tensor(float)", list(cache)),
        ],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.inputs.pop(4), "input 'rows' is missing"),
        (lambda s: setattr(s, "inputs", s.inputs[:5]), "input 'past_key_values.0.key' is missing"),
        (lambda s: setattr(s.inputs[5], "name", "extra"), "input 'extra' is not known"),
        (lambda s: setattr(s.inputs[0], "type", "tensor(int32)"), r"is tensor\(int32\), not"),
        (lambda s: setattr(s.inputs[6], "shape", [1, None, 1, 16]), r"must be \[batch, heads"),
        (lambda s: setattr(s.inputs[6], "shape", [1, 2, 1, 8]), r"must be \[batch, heads"),
        (lambda s: s.outputs.pop(0), "output 'logits' is missing"),
        (lambda s: setattr(s.outputs[0], "shape", [1, 1, "vocab"]), "vocabulary's size"),
        (lambda s: s.outputs.pop(), "output 'present.0.value' is missing"),
    ],
)
def test_a_graph_with_another_signature_is_refused_by_the_name_that_is_wrong(
    change: Callable[[Signature], object], message: str
) -> None:
    signature = fused_signature()
    change(signature)
    with pytest.raises(BundleError, match=message):
        FusedGraph(signature, 16)


def test_a_portable_graph_may_count_positions_itself(tmp_path: Path, portable: Graph) -> None:
    onnx = import_onnx()
    path = write_tiny_bundle(tmp_path, fused=False) / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    # Positions from the mask: its sum, minus one, for the last token of a one-token run.
    positions = next(i for i in model.graph.input if i.name == "position_ids")
    model.graph.input.remove(positions)
    axes = onnx.numpy_helper.from_array(np.array([1]), "mask_axes")
    one = onnx.numpy_helper.from_array(np.array(1), "mask_one")
    model.graph.initializer.extend([axes, one])
    make_node = onnx.helper.make_node
    model.graph.node.insert(0, make_node("ReduceSum", ["attention_mask", "mask_axes"], ["total"]))
    model.graph.node.insert(1, make_node("Sub", ["total", "mask_one"], ["position_ids"]))
    path.write_bytes(model.SerializeToString())
    counting = load(tmp_path, is_fused=False)
    for position, token_id in enumerate(IDS[:5]):
        expected = portable.forward(np.array([token_id]), position)
        assert_close(counting.forward(np.array([token_id]), position), expected)
