"""The per-token scheme: exact products on any CPU, independent rows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from onnx import helper

from edged.builder.hadamard import block_size, hadamard, rotate_blocks, rotate_moments
from edged.builder.onnx_files import GraphWriter
from edged.builder.tune import ColumnWeight, Tuning
from edged.builder.w8a8 import STEPS, ZERO_POINT, PerTokenNodes
from edged.errors import BuildError

Floats = NDArray[np.float32]

FINITE = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@dataclass
class Product:
    """``x @ weight`` in the scheme, run by ONNX Runtime."""

    folder: Path
    even: bool
    """Whether the activations have no outliers; else they are rotated."""
    num_threads: int = 1

    def write(self, rows: Floats, bias: Floats | None = None) -> onnx.ModelProto:
        """Write a graph that multiplies by the transpose of ``rows``, [N, K]."""
        with GraphWriter(self.folder) as writer:
            scheme = PerTokenNodes(writer, tuning(even=self.even))
            node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
            model = as_model(scheme.matmul(node, rows, bias), {"x": onnx.TensorProto.FLOAT}, "y")
            writer.finish(model, scheme.initializers)
        return model

    def run(self, x: Floats) -> Floats:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.num_threads
        session = onnxruntime.InferenceSession(self.folder / "model.onnx", options)
        result: Floats = session.run(None, {"x": x})[0]
        return result


def as_model(nodes: list[onnx.NodeProto], inputs: dict[str, int], output: str) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def tuning(*, even: bool) -> Tuning:
    return Tuning(no_outliers=frozenset({"x"} if even else ()))


@pytest.fixture(params=[False, True], ids=["rotated", "even"])
def product(tmp_path: Path, request: pytest.FixtureRequest) -> Product:
    return Product(tmp_path, request.param)


def random(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized(rows: Floats, *, even: bool) -> ColumnWeight:
    return tuning(even=even).weight(helper.make_node("MatMul", ["x", "w"], ["y"], "mm"), rows)


def dequantized(rows: Floats, *, even: bool) -> Floats:
    """Return the stored weight, rotated where the activations are."""
    weight = quantized(rows, even=even)
    result: Floats = (weight.data.astype(np.float32) * weight.scales).T
    return result


def seen(x: Floats, *, even: bool) -> Floats:
    """Return the activations as they are quantized."""
    return x if even else rotate_blocks(x, block_size(x.shape[1]))


@pytest.mark.parametrize("num_rows", [1, 2, 5, 65])
@pytest.mark.parametrize(("columns", "outputs"), [(32, 48), (33, 7), (576, 192)])
def test_a_product_equals_that_of_the_dequantized_weight(
    product: Product, num_rows: int, columns: int, outputs: int
) -> None:
    rows, x = random(outputs, columns), random(num_rows, columns, seed=1)
    product.write(rows)
    stored = dequantized(rows, even=product.even).astype(np.float64)
    activations = seen(x, even=product.even).astype(np.float64)
    expected = activations @ stored.T
    half_step = np.abs(activations).max() / STEPS / 2
    bound = half_step * np.abs(stored).sum(axis=1) + 1e-5 * np.abs(expected).max()
    assert (np.abs(product.run(x) - expected) <= bound).all()


@pytest.mark.parametrize("num_rows", [1, 3, 64])
@pytest.mark.parametrize("activation_sign", [-1, 1])
@pytest.mark.parametrize("weight_sign", [-1, 1])
def test_the_largest_values_do_not_saturate(
    product: Product, num_rows: int, activation_sign: int, weight_sign: int
) -> None:
    """Where two 8-bit products are added in 16 bits, all-equal extremes would be cut off."""
    rows = np.full((16, 576), weight_sign, np.float32)
    product.write(rows)
    x = np.full((num_rows, 576), activation_sign, np.float32)
    stored = dequantized(rows, even=product.even).astype(np.float64)
    expected = seen(x, even=product.even).astype(np.float64) @ stored.T
    np.testing.assert_allclose(product.run(x), expected, rtol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 2, 33])
def test_stored_activations_multiply_exactly(product: Product, num_rows: int) -> None:
    """The integer product of any stored weights and activations is the one in 64 bits."""
    rng = np.random.default_rng(num_rows)
    rows = np.where(rng.random((96, 576)) < 0.5, 1, -1).astype(np.float32)
    model = product.write(rows)
    (integer,) = (node for node in model.graph.node if node.op_type == "MatMulInteger")
    steps = rng.choice([-STEPS, 1 - STEPS, 0, STEPS], (num_rows, 576))
    steps[0] = STEPS
    kept = [tensor for tensor in model.graph.initializer if tensor.name in set(integer.input)]
    alone = as_model([integer], {integer.input[0]: onnx.TensorProto.UINT8}, integer.output[0])
    alone.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    alone.graph.initializer.extend(kept)
    onnx.save_model(alone, product.folder / "model.onnx")
    session = onnxruntime.InferenceSession(product.folder / "model.onnx")
    y = session.run(None, {integer.input[0]: (steps + ZERO_POINT).astype(np.uint8)})[0]
    weight = quantized(rows, even=product.even)
    assert (y == steps.astype(np.int64) @ weight.data.astype(np.int64)).all()


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("outputs", [7, 192, 3072])
def test_a_row_does_not_depend_on_other_rows(
    product: Product, num_threads: int, outputs: int
) -> None:
    """Alone, in pairs or among 40 far larger ones, a row gives the same bits."""
    product.num_threads = num_threads
    product.write(random(outputs, 576))
    x = random(40, 576, seed=1) * np.logspace(-3, 3, 40, dtype=np.float32)[:, None]
    together = product.run(x)
    for index in (0, 17, 39):
        assert (product.run(x[index : index + 1])[0] == together[index]).all()
        assert (product.run(x[max(index - 1, 0) : index + 1])[-1] == together[index]).all()


def test_a_row_of_zeros_gives_the_bias(product: Product) -> None:
    bias = random(24)
    model = product.write(random(24, 64), bias)
    assert [node.op_type for node in model.graph.node].count("MatMulInteger") == 1
    x = np.zeros((2, 64), np.float32)
    assert (product.run(x) == bias).all()


def test_two_products_of_one_input_quantize_it_once(tmp_path: Path) -> None:
    with GraphWriter(tmp_path) as writer:
        scheme = PerTokenNodes(writer)
        nodes = [
            node
            for name in ("q", "k")
            for node in scheme.matmul(
                helper.make_node("MatMul", ["x", f"{name}.w"], [name], name), random(8, 32), None
            )
        ]
    operators = [node.op_type for node in nodes]
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("MatMulInteger") == 2
    names = [tensor.name for tensor in scheme.initializers]
    assert len(names) == len(set(names))


@settings(max_examples=60, deadline=None)
@given(rows=npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2), elements=FINITE))
def test_a_weight_is_quantized_to_within_one_step(rows: Floats) -> None:
    """Half a step by rounding, the other half where the pair's limit clips it."""
    weight = quantized(rows, even=True)
    assert weight.data.shape == rows.T.shape
    assert np.abs(weight.data.astype(int)).max() <= 127
    error = np.abs(weight.data.T * weight.scales[:, None] - rows)
    assert (error <= weight.scales[:, None] * 1.001 + np.finfo(np.float32).tiny * 127).all()
    steps = weight.data[: len(weight.data) // 2 * 2].astype(int)
    for sign in (1, -1):
        pairs = np.maximum(sign * steps[0::2], 0) + np.maximum(sign * steps[1::2], 0)
        assert pairs.max(initial=0) <= 128


@pytest.mark.parametrize(("width", "block"), [(1, 1), (7, 1), (48, 16), (576, 64), (1536, 64)])
def test_features_are_rotated_in_the_largest_blocks_that_fit(width: int, block: int) -> None:
    assert block_size(width) == block
    matrix = hadamard(block)
    np.testing.assert_allclose(matrix @ matrix, np.eye(block), atol=1e-6)
    x, rows = random(3, width), random(5, width, seed=1)
    products = rotate_blocks(x, block) @ rotate_blocks(rows, block).T
    np.testing.assert_allclose(products, x @ rows.T, atol=1e-4)
    np.testing.assert_allclose(
        rotate_moments(x.T @ x, block),
        rotate_blocks(x, block).T @ rotate_blocks(x, block),
        atol=1e-4,
    )


def test_an_outlier_does_not_hide_the_other_values(tmp_path: Path) -> None:
    """Gated activations have such outliers: with their scale all other values round to zero."""
    rows, x = random(32, 1536), random(4, 1536, seed=1)
    x[:, 700] = 400.0
    errors = []
    for even in (False, True):
        product = Product(tmp_path, even)
        product.write(rows)
        errors.append(np.abs(product.run(x) - x @ rows.T).mean())
    assert errors[0] < 0.25 * errors[1]


def test_an_activation_with_a_static_peak_has_one_scale(tmp_path: Path) -> None:
    """Its own largest value is not computed; larger values are clipped."""
    rows, x = random(24, 576), np.clip(random(5, 576, seed=1), -3.9, 3.9)
    tuning = Tuning(no_outliers=frozenset({"x"}), static_norms=frozenset({"x"}))
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    with GraphWriter(tmp_path) as writer:
        scheme = PerTokenNodes(writer, tuning)
        nodes = scheme.matmul(node, rows, None)
        model = as_model(nodes, {"x": onnx.TensorProto.FLOAT}, "y")
        writer.finish(model, scheme.initializers)
    assert [n.op_type for n in nodes] == ["QuantizeLinear", "MatMulInteger", "Cast", "Mul"]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    y = session.run(None, {"x": x})[0]
    stored = tuning.weight(node, rows)
    weight = stored.data.astype(np.float64) * stored.scales
    half_step = 4.0 / STEPS / 2
    assert (np.abs(y - x @ weight) <= half_step * np.abs(weight).sum(axis=0) + 1e-4).all()
    x[2, 7] = 400.0
    cut = session.run(None, {"x": x})[0]
    x[2, 7] = 4.0
    np.testing.assert_allclose(cut, session.run(None, {"x": x})[0], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_damaged_weight_is_refused_by_name(value: float) -> None:
    rows = random(4, 8)
    rows[3, 5] = value
    with pytest.raises(BuildError, match="mm: holds NaN or infinity"):
        quantized(rows, even=False)
