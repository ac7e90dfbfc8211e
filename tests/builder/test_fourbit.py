"""4-bit weights: packed as the operator reads them, rounded better than to nearest, gated."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from edged.builder.compensate import round_blocks
from edged.builder.fourbit import FourBitNodes
from edged.builder.fuse import fuse
from edged.builder.measure import compare
from edged.builder.onnx_files import GraphWriter, read_graph
from edged.builder.quantize import Scheme, quantize
from edged.builder.tune import Tuning
from edged.engine.graph import load_graph
from edged.errors import BuildError
from tests.builder.conftest import TinyExport

Floats = NDArray[np.float32]
TEXTS = np.random.default_rng(1).integers(3, 150, (4, 40)).tolist()


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write(folder: Path, rows: Floats, bias: Floats | None) -> onnxruntime.InferenceSession:
    """Write and load ``x @ rows.T + bias`` in the scheme."""
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "mm")
    values = onnx.helper.make_tensor_value_info
    with GraphWriter(folder) as writer:
        scheme = FourBitNodes(writer, Tuning(), head="logits")
        nodes = scheme.matmul(node, rows, bias)
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [values("x", onnx.TensorProto.FLOAT, ["n", rows.shape[1]])],
            [values("y", onnx.TensorProto.FLOAT, None)],
        )
        opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
        writer.finish(model, scheme.initializers)
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("width", [32, 64, 70])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_operator_computes_with_the_rounded_weight(
    tmp_path: Path, width: int, has_bias: bool
) -> None:
    """Its own activations in 8 bits are all that is left; a width between blocks is padded."""
    rows, x = normal(0, 24, width), normal(1, 5, width)
    bias = normal(2, 24) if has_bias else None
    (y,) = write(tmp_path, rows, bias).run(None, {"x": x})
    padded = np.pad(rows.T, ((0, -width % 32), (0, 0)))
    weight = round_blocks(padded, None)
    exact = x @ (weight.steps * np.repeat(weight.scales, 32, axis=0))[:width]
    if bias is not None:
        exact = exact + bias
    assert np.abs(y - exact).max() < 0.02 * np.abs(exact).max()


def test_steps_are_of_four_bits_and_nearer_than_with_the_plain_scale() -> None:
    weight = normal(0, 64, 9)
    weight[:32, 3] = 0.0
    rounded = round_blocks(weight, None)
    assert (rounded.steps.min(), rounded.steps.max()) == (-8, 7)
    back = rounded.steps * np.repeat(rounded.scales, 32, axis=0)
    assert (back[:32, 3] == 0.0).all()
    plain = np.repeat(np.abs(weight.reshape(2, 32, 9)).max(axis=1) / 7, 32, axis=0)
    rounded_plainly = np.rint(weight / np.maximum(plain, 1e-9)) * plain
    assert np.square(back - weight).sum() < 0.9 * np.square(rounded_plainly - weight).sum()


def test_compensated_rounding_loses_less_than_rounding_to_nearest() -> None:
    x = normal(0, 300, 6) @ normal(1, 6, 64) + 0.1 * normal(2, 300, 64)
    weight = normal(3, 64, 24)

    def loss(moments: Floats | None) -> float:
        rounded = round_blocks(weight, moments)
        back = rounded.steps * np.repeat(rounded.scales, 32, axis=0)
        return float(np.square(x @ (back - weight)).sum())

    assert loss(x.T @ x) < 0.7 * loss(None)


def test_a_damaged_weight_is_refused(tmp_path: Path) -> None:
    rows = normal(0, 8, 32)
    rows[3, 5] = np.nan
    with pytest.raises(BuildError, match="mm: holds NaN or infinity"):
        write(tmp_path, rows, None)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
def test_a_family_in_four_bits(tiny_export: TinyExport, tmp_path: Path, family: str) -> None:
    """All products but the head are in 4 bits; further from fp32 than 8 bits, and no ruin."""
    fp32, int4, int8 = (tmp_path / name for name in ("fp32", "int4", "int8"))
    fuse(tiny_export(family), fp32, max_model_len=64)
    losses = []
    for folder, scheme in ((int4, Scheme.INT4), (int8, Scheme.INT8_W8A8)):
        folder.mkdir()
        quantize(fp32, folder, scheme, TEXTS)
        graphs = [
            load_graph(f / "model.onnx", is_fused=True, max_model_len=64, num_threads=1)
            for f in (fp32, folder)
        ]
        losses.append(compare(graphs[0], graphs[1], TEXTS).mean_kl)
    products = [
        node.op_type
        for node in read_graph(int4).graph.node
        if node.op_type in {"MatMulNBits", "MatMulInteger"}
    ]
    assert products[-1] == "MatMulInteger"
    assert set(products[:-1]) == {"MatMulNBits"}
    assert losses[1] < losses[0] < 0.2
