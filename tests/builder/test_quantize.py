"""Quantization: what ONNX Runtime computes is the dequantized product, and the bytes are fixed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edged.builder.blockwise import BLOCK, ZERO_POINT, quantize_rows
from edged.builder.onnx_files import GraphWriter, read_graph, read_tensor
from edged.builder.quantize import QuantizeReport, Scaling, Scheme, quantize
from edged.engine.loading import load_graph
from edged.errors import BuildError
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_model

Floats = NDArray[np.float32]


@dataclass
class Work:
    """A graph to quantize, and the result."""

    source: Path
    output: Path

    def write(
        self, nodes: list[Any], weights: dict[str, Floats], inputs: dict[str, int], **options: bool
    ) -> None:
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info(n, t, None) for n, t in inputs.items()],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(w, n) for n, w in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.save_model(model, self.source / "model.onnx", **options)

    def quantize(self, scheme: Scheme = Scheme.INT8_BLOCKWISE) -> QuantizeReport:
        return quantize(self.source, self.output, scheme)

    def run(self, **inputs: NDArray[Any]) -> Floats:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(self.output / "model.onnx", options)
        result: Floats = session.run(None, inputs)[0]
        return result

    def operators(self) -> list[str]:
        return [node.op_type for node in read_graph(self.output).graph.node]


@pytest.fixture
def work(tmp_path: Path) -> Work:
    folders = tmp_path / "source", tmp_path / "output"
    for folder in folders:
        folder.mkdir()
    return Work(*folders)


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def seen_by_operator(weight: Floats) -> Floats:
    """Return [N, K] weights as the operators compute with them."""
    quantized = quantize_rows("w", weight)
    steps = quantized.data.astype(np.float32) - np.float32(ZERO_POINT)
    return (steps * quantized.scales[..., None]).reshape(len(steps), -1)[:, : weight.shape[1]]


def quantized_activations(x: Floats) -> Floats:
    """Return activations as accuracy level 4 sees them: int8 in blocks of 32."""
    blocks = np.zeros((len(x), -(-x.shape[1] // BLOCK), BLOCK), np.float32)
    blocks.reshape(len(x), -1)[:, : x.shape[1]] = x
    scale = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True) / 127, 1e-30)
    result: Floats = (np.rint(blocks / scale) * scale).reshape(len(x), -1)[:, : x.shape[1]]
    return result


MATMUL = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")]
FLOAT_X = {"x": onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("num_rows", [1, 2, 5, 65])
@pytest.mark.parametrize(("columns", "outputs"), [(32, 48), (40, 48), (33, 7), (576, 192)])
def test_a_product_equals_that_of_the_dequantized_weight(
    work: Work, num_rows: int, columns: int, outputs: int
) -> None:
    """MatMulNBits computes what numpy does with the quantized weights and activations."""
    weight, x = random(outputs, columns), random(num_rows, columns, seed=1)
    work.write(MATMUL, {"w": weight.T.copy()}, FLOAT_X)
    assert work.quantize().quantized == 1
    expected = quantized_activations(x) @ seen_by_operator(weight).T
    np.testing.assert_allclose(work.run(x=x), expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("num_rows", [1, 65])
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_values_do_not_saturate(work: Work, num_rows: int, sign: int) -> None:
    """Where 8-bit products are added in 16 bits (AVX2 without VNNI), all-equal extremes show it."""
    weight = np.ones((16, 256), np.float32)
    work.write(MATMUL, {"w": weight.T.copy()}, FLOAT_X)
    work.quantize()
    y = work.run(x=np.full((num_rows, 256), sign, np.float32))
    np.testing.assert_allclose(y, 256 * sign, rtol=1e-5)


@pytest.mark.parametrize("is_transposed", [0, 1])
def test_a_gemm_keeps_its_bias(work: Work, is_transposed: int) -> None:
    weight, bias, x = random(24, 64), random(24), random(3, 64, seed=1)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "conv1d", transB=is_transposed)
    stored = weight if is_transposed else weight.T.copy()
    work.write([node], {"w": stored, "b": bias}, FLOAT_X)
    assert work.quantize().kept == ()
    expected = quantized_activations(x) @ seen_by_operator(weight).T + bias
    np.testing.assert_allclose(work.run(x=x), expected, atol=2e-3 * np.abs(expected).max())
    assert work.operators() == ["MatMulNBits"]


@pytest.mark.parametrize(
    ("attributes", "bias_shape"), [({"alpha": 0.5}, (24,)), ({"beta": 2.0}, (24,)), ({}, (3, 24))]
)
def test_an_unsupported_gemm_is_kept_and_reported(
    work: Work, attributes: dict[str, float], bias_shape: tuple[int, ...]
) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "odd", **attributes)
    weight, bias, x = random(64, 24), random(*bias_shape), random(3, 64, seed=1)
    work.write([node], {"w": weight, "b": bias}, FLOAT_X)
    report = work.quantize()
    assert report.quantized == 0
    assert report.kept == ("odd: a Gemm with factors or a bias that is no vector",)
    factor_a, factor_b = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    np.testing.assert_allclose(
        work.run(x=x), factor_a * (x @ weight) + factor_b * bias, rtol=1e-4, atol=1e-4
    )


def test_a_gemm_needs_no_bias(work: Work) -> None:
    weight, x = random(64, 24), random(3, 64, seed=1)
    work.write([helper.make_node("Gemm", ["x", "w"], ["y"], "plain")], {"w": weight}, FLOAT_X)
    assert work.quantize().quantized == 1
    expected = quantized_activations(x) @ seen_by_operator(weight.T).T
    np.testing.assert_allclose(work.run(x=x), expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("operator", ["MatMul", "Gemm"])
def test_a_product_of_two_activations_is_not_quantized(work: Work, operator: str) -> None:
    node = helper.make_node(operator, ["x", "z"], ["y"], "scores")
    work.write([node], {}, {**FLOAT_X, "z": onnx.TensorProto.FLOAT})
    assert work.quantize() == QuantizeReport(
        Scaling.DYNAMIC, 0, (), (work.output / "model.onnx").stat().st_size
    )
    assert work.operators() == [operator]


EMBEDDING = [helper.make_node("Gather", ["table", "input_ids"], ["y"], "embed")]
INT_IDS = {"input_ids": onnx.TensorProto.INT64}


@pytest.mark.parametrize("columns", [32, 64, 40, 33])
def test_an_embedding_returns_dequantized_rows(work: Work, columns: int) -> None:
    table, ids = random(50, columns), np.array([[0, 49, 7], [7, 1, 2]])
    work.write(EMBEDDING, {"table": table}, INT_IDS)
    work.quantize()
    np.testing.assert_allclose(work.run(input_ids=ids), seen_by_operator(table)[ids], rtol=1e-6)


def test_ids_that_were_only_reshaped_are_still_token_ids(work: Work) -> None:
    reshape = helper.make_node("Reshape", ["input_ids", "shape"], ["ids"], "view")
    gather = helper.make_node("Gather", ["table", "ids"], ["y"], "embed")
    table = random(50, 64)
    shape: Any = np.array([-1, 3])
    work.write([reshape, gather], {"table": table, "shape": shape}, INT_IDS)
    assert work.quantize().quantized == 1
    ids = np.array([[1, 2, 3]])
    np.testing.assert_allclose(work.run(input_ids=ids), seen_by_operator(table)[ids], rtol=1e-6)


def test_a_table_of_positions_stays_in_fp32_and_is_reported(work: Work) -> None:
    node = helper.make_node("Gather", ["table", "position_ids"], ["y"], "positions")
    table = random(50, 64)
    work.write([node], {"table": table}, {"position_ids": onnx.TensorProto.INT64})
    assert work.quantize().kept == ("table: a table that is not looked up by token id",)
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(work.run(position_ids=ids), table[ids])


def test_a_tied_table_is_stored_once(work: Work) -> None:
    """Embedding and output projection, through a Transpose, share the bytes of one table."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"], "embed"),
        helper.make_node("Transpose", ["table"], ["head"], "turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "head"], ["y"], "lm_head"),
    ]
    table = random(5000, 64)
    work.write(nodes, {"table": table}, INT_IDS)
    report = work.quantize()
    assert work.operators() == ["GatherBlockQuantized", "Reshape", "MatMulNBits"]
    data_bytes = (work.output / "model.onnx.data").stat().st_size
    # One byte for a weight and one fp32 scale for 32 of them.
    assert data_bytes == table.size + 4 * table.size // BLOCK
    assert report.size_bytes == data_bytes + (work.output / "model.onnx").stat().st_size
    rows = seen_by_operator(table)[[[3, 4]]]
    expected = quantized_activations(rows[0]) @ seen_by_operator(table).T
    y = work.run(input_ids=np.array([[3, 4]]))[0]
    np.testing.assert_allclose(y, expected, atol=2e-3 * np.abs(expected).max())


@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=70),
        elements=st.floats(-1e6, 1e6, width=32),
    )
)
@settings(max_examples=50, deadline=None)
def test_the_error_of_a_weight_is_at_most_half_a_step(weight: Floats) -> None:
    """For any matrix, padding included, the error is at most half of its block's scale."""
    quantized = quantize_rows("w", weight)
    steps = np.repeat(quantized.scales, BLOCK, axis=1)[:, : weight.shape[1]]
    error = np.abs(seen_by_operator(weight) - weight)
    assert (error <= 0.501 * steps + 1e-30).all()


def test_the_rounding_is_half_to_even() -> None:
    weight = np.zeros((1, BLOCK), np.float32)
    weight[0, :5] = [127.0, 0.5, 1.5, 2.5, -0.5]
    assert quantize_rows("w", weight).data[0, 0, :5].tolist() == [255, 128, 130, 130, 128]


def test_a_block_of_zeros_is_exactly_zero() -> None:
    """Zeros and denormals, which the engine flushes to zero, give a zero scale and no division."""
    weight = np.zeros((2, BLOCK), np.float32)
    weight[1] = 1e-41
    quantized = quantize_rows("w", weight)
    assert (quantized.scales == 0).all()
    assert (seen_by_operator(weight) == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_damaged_weight_is_named(value: float) -> None:
    weight = random(4, 64)
    weight[2, 3] = value
    with pytest.raises(BuildError, match=r"layers\.0\.q_proj: holds NaN or infinity"):
        quantize_rows("layers.0.q_proj", weight)


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("model.onnx", "model.onnx.data")]


@pytest.mark.parametrize("scheme", list(Scheme))
def test_the_bytes_depend_on_the_graph_alone(work: Work, scheme: Scheme) -> None:
    """The source's data layout and the exporter's metadata have no effect."""
    weights = {"w": random(64, 640)}
    work.write(MATMUL, weights, FLOAT_X)
    work.quantize(scheme)
    first = bytes_of(work.output)
    documented = [helper.make_node("MatMul", ["x", "w"], ["y"], "mm", doc_string="/home/me/x.py")]
    options = {"save_as_external_data": True}
    work.write(documented, weights, FLOAT_X, **options)
    work.quantize(scheme)
    assert bytes_of(work.output) == first
    assert b"/home/me" not in first[0]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("scheme", "tolerance"), [(Scheme.FP32, 1e-5), (Scheme.INT8_BLOCKWISE, 0.05)]
)
def test_a_whole_model_still_computes_its_logits(
    work: Work, fused: bool, scheme: Scheme, tolerance: float
) -> None:
    """Both forms, loaded by the engine, stay near the fp32 logits."""
    write_tiny_model(work.source / "model.onnx", TinyConfig(), fused=fused)
    report = work.quantize(scheme)
    # Two layers of seven projections each, the embedding and the output projection.
    assert report.quantized == (16 if scheme is Scheme.INT8_BLOCKWISE else 0)
    ids = np.arange(40, dtype=np.int64)
    reference, result = (
        load_graph(folder / "model.onnx", is_fused=fused, max_model_len=64, num_threads=1)
        .forward(ids, 0, all_rows=True)
        .copy()
        for folder in (work.source, work.output)
    )
    assert np.abs(result - reference).max() <= tolerance * np.abs(reference).max()


def test_a_weight_inside_a_branch_is_kept(work: Work) -> None:
    """A weight that only a branch of an If reads is kept by quantization."""
    value = helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    branches = [
        helper.make_graph([helper.make_node(op, ["x", "w"], ["z"])], op, [], [value])
        for op in ("Add", "Sub")
    ]
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])
    weight = random(64)
    work.write([node], {"w": weight}, {**FLOAT_X, "flag": onnx.TensorProto.BOOL})
    work.quantize()
    x = random(64, seed=1)
    np.testing.assert_array_equal(work.run(x=x, flag=np.array(True)), x + weight)


def test_a_model_without_large_weights_needs_no_data_file(work: Work) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    work.write([node], {"w": random(4)}, FLOAT_X)
    work.quantize()
    assert [path.name for path in work.output.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("data", [None, b"\xff\xff\xff\xff not an onnx file"])
def test_a_folder_without_a_graph_is_named(work: Work, data: bytes | None) -> None:
    if data is not None:
        (work.source / "model.onnx").write_bytes(data)
    with pytest.raises(BuildError, match=r"source/model\.onnx: not a readable ONNX graph"):
        work.quantize()


def test_a_tensor_outside_its_folder_is_refused(tmp_path: Path) -> None:
    with GraphWriter(tmp_path) as writer:
        tensor = writer.add("w", random(1000))
    tensor.external_data[0].value = "../elsewhere.bin"
    with pytest.raises(BuildError, match=r"'\.\./elsewhere\.bin' is outside the export"):
        read_tensor(tensor, tmp_path)


def test_a_data_file_that_is_too_short_is_named(tmp_path: Path) -> None:
    with GraphWriter(tmp_path) as writer:
        tensor = writer.add("w", random(1000))
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(BuildError, match=r"w: cannot be read from model\.onnx\.data"):
        read_tensor(tensor, tmp_path)


def test_large_tensors_start_on_a_page(tmp_path: Path) -> None:
    """ONNX Runtime maps an aligned weight; equal ones are stored once."""
    with GraphWriter(tmp_path) as writer:
        small = writer.add("small", random(300))
        large = writer.add("large", random(1 << 18))
        again = writer.add("again", random(1 << 18))
    offsets = [
        int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))
        for tensor in (small, large, again)
    ]
    assert offsets == [0, 4096, 4096]
