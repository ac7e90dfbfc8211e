"""A prefill and a decode branch in one graph: shared weights, separate nodes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx.helper import make_node, make_tensor_value_info

from edged.builder.branches import Branch, fuse_narrow_scaling, write_choices, write_if
from edged.builder.fuse import fuse
from edged.builder.kvcache import measure_peaks, write_int8_cache
from edged.builder.onnx_files import read_graph
from edged.builder.quantize import Scheme, quantize
from tests.builder.conftest import TinyExport

DEPTH, NARROW, WIDE = 64, 1024, 1025
TEXTS = np.random.default_rng(1).integers(3, 150, (4, 40)).tolist()


def product(width: int, values: dict[str, NDArray[np.generic]]) -> list[onnx.NodeProto]:
    """Return a product as ``w8a8`` writes it."""
    random = np.random.default_rng(width)
    values[f"w{width}"] = random.integers(-128, 127, (DEPTH, width)).astype(np.int8)
    values[f"scales{width}"] = random.random(width).astype(np.float32)
    sums, steps, output = f"sums{width}", f"steps{width}", f"y{width}"
    return [
        make_node("MatMulInteger", ["x", f"w{width}", "zero"], [sums], sums),
        make_node("Cast", [sums], [steps], steps, to=onnx.TensorProto.FLOAT),
        make_node("Mul", [steps, f"scales{width}"], [output], output),
    ]


def run(
    nodes: Sequence[onnx.NodeProto], values: dict[str, NDArray[np.generic]]
) -> list[NDArray[np.float32]]:
    info, types = make_tensor_value_info, onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        "products",
        [info("x", types.UINT8, [1, 1, DEPTH])],
        [info(f"y{width}", types.FLOAT, None) for width in (NARROW, WIDE)],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(0).integers(0, 255, (1, 1, DEPTH)).astype(np.uint8)
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def test_a_narrow_product_is_scaled_by_one_node_to_the_same_bits() -> None:
    """A wide product keeps two nodes, which are faster there."""
    values: dict[str, NDArray[np.generic]] = {"zero": np.array(128, np.uint8)}
    nodes = [*product(NARROW, values), *product(WIDE, values)]
    widths = {name: value.shape[-1] for name, value in values.items() if value.shape}
    fewer = list(fuse_narrow_scaling(nodes, widths))
    assert [node.op_type for node in fewer] == [
        *("MatMulInteger", "DequantizeLinear"),
        *("MatMulInteger", "Cast", "Mul"),
    ]
    for found, expected in zip(run(fewer, values), run(nodes, values), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("name", "expected"), [("prefill", 2), ("decode", 3)])
def test_the_flag_chooses_the_branch(name: str, expected: int) -> None:
    """The branches may use the same names; they share the inputs of the graph."""
    info, types = make_tensor_value_info, onnx.TensorProto
    inputs = [info("x", types.FLOAT, [2]), info("unused", types.FLOAT, [2])]
    graph = onnx.helper.make_graph([], "g", inputs, [info("y", types.FLOAT, [2])])
    branches = [Branch("prefill"), Branch("decode")]
    for branch, factor in zip(branches, (2.0, 3.0), strict=True):
        scale = branch.constant("scale", np.array(factor, np.float32))
        branch.node("Identity", [branch.node("Mul", ["x", scale], "scaled")], "y")
    write_choices(graph, branches)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.array([1, 10], np.float32)
    flags = {f"run.{branch.name}": np.array(branch.name == name) for branch in branches}
    (found,) = session.run([f"{name}.y"], {"x": x, "unused": x, **flags})
    np.testing.assert_array_equal(found, x * expected)


@pytest.mark.parametrize(("is_prompt", "expected"), [(True, 4), (False, 6)])
def test_a_lower_part_hands_on_what_an_upper_part_reads(is_prompt: bool, expected: int) -> None:
    info, types = make_tensor_value_info, onnx.TensorProto
    outputs = [info(name, types.FLOAT, [2]) for name in ("low", "y")]
    graph = onnx.helper.make_graph([], "g", [info("x", types.FLOAT, [2])], outputs)
    lower = [Branch("lower_prefill"), Branch("lower_decode")]
    for branch, factor in zip(lower, (2.0, 3.0), strict=True):
        scale = branch.constant("scale", np.array(factor, np.float32))
        branch.node("Mul", ["x", scale], "middle")
        branch.node("Identity", ["x"], "low")
    upper = Branch("decode", handed=frozenset({"middle"}))
    upper.node("Add", ["middle", "middle"], "y")
    write_if(graph, "is_prompt", lower[0], lower[1], ["middle"])
    write_choices(graph, [upper])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert [value.name for value in session.get_outputs()] == ["low", "decode.y"]
    x = np.array([1, 10], np.float32)
    feeds = {"x": x, "is_prompt": np.array(is_prompt), "run.decode": np.array(True)}
    low, found = session.run(None, feeds)
    np.testing.assert_array_equal(low, x)
    np.testing.assert_array_equal(found, x * expected)


def graphs(
    export: Path, folder: Path, scheme: Scheme
) -> tuple[onnx.GraphProto, onnx.GraphProto, dict[str, onnx.GraphProto]]:
    """Return a model's graph before and after it is split, and the branches by name."""
    fp32, int8 = folder / "fp32", folder / "int8"
    fuse(export, fp32, max_model_len=64)
    int8.mkdir()
    quantize(fp32, int8, scheme, TEXTS)
    before = read_graph(int8).graph
    write_int8_cache(int8, measure_peaks(fp32, TEXTS))
    after = read_graph(int8).graph
    return before, after, {way.g.name: way.g for node in after.node for way in node.attribute}


def test_the_weights_of_a_model_are_outside_of_its_branches(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """A prefill's many rows are scaled as before; each branch has its own attention."""
    before, after, branches = graphs(tiny_export("llama"), tmp_path, Scheme.INT8_W8A8)
    outside = {tensor.name for tensor in after.initializer}
    prefill, decode = (
        Counter(node.op_type for node in branches[name].node) for name in ("prefill", "decode")
    )
    num_products = prefill["MatMulInteger"]
    assert num_products == decode["MatMulInteger"] == decode["DequantizeLinear"] > 0
    assert prefill["DequantizeLinear"] == 0
    num_attentions = prefill["GroupQueryAttention"]
    assert num_attentions == decode["GroupQueryAttention"] == prefill["ScatterND"] / 2
    stored = [t for t in before.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert outside == {tensor.name for tensor in stored} != set()


def test_a_prefill_holds_nothing_to_the_end_of_its_run(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """ONNX Runtime holds an output that no node reads, and a cache update, until the run ends."""
    _, _, branches = graphs(tiny_export("llama"), tmp_path, Scheme.FP32)
    prefill = branches["prefill"]
    read = {name for node in prefill.node for name in node.input}
    written = {name for node in prefill.node for name in node.output if name}
    assert written - read == {"logits.prefill"}
