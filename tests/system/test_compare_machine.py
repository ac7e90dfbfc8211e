"""Facts of machine and model: bandwidth, bytes of weights."""

import importlib
from pathlib import Path

import pytest

from benchmarks.compare.bandwidth import measure_bandwidth
from benchmarks.compare.weights import weight_bytes_per_token
from tests.tiny_graphs import TinyConfig, import_onnx
from tests.tiny_model import write_tiny_bundle


def test_the_measured_bandwidth_is_plausible() -> None:
    assert 1e6 < measure_bandwidth(2, 1 << 20) < 1e13


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_reads_all_weights_but_one_row_of_each_table(tmp_path: Path, *, fused: bool) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", fused=fused)
    import_onnx()
    onnx, numpy_helper = (
        importlib.import_module("onnx"),
        importlib.import_module("onnx.numpy_helper"),
    )
    model = onnx.load(bundle / "model.onnx")
    sizes = {t.name: numpy_helper.to_array(t).nbytes for t in model.graph.initializer}
    config = TinyConfig()
    table_bytes = config.vocab_size * config.hidden * 4
    read = weight_bytes_per_token(bundle / "model.onnx")
    tables = [name for name, size in sizes.items() if size == table_bytes]
    assert tables, "the toy has an embedding table"
    assert read < sum(sizes.values())
    assert read > sum(sizes.values()) - 2 * table_bytes - 4 * config.max_model_len * config.hidden


def test_a_tied_table_is_read_completely_and_a_lookup_reads_one_row(tmp_path: Path) -> None:
    import_onnx()
    onnx = importlib.import_module("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    floats = [helper.make_tensor(n, tensor.FLOAT, [10, 4], [0.0] * 40) for n in ("table", "head")]
    unused = helper.make_tensor("unused", tensor.FLOAT, [3], [0.0] * 3, raw=False)
    for each in [*floats, unused]:
        each.raw_data = bytes(4 * (3 if each is unused else 40))
        each.ClearField("float_data")
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Gemm", ["x", "head"], ["y"], transB=1, alpha=0.5),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [*floats, unused])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert weight_bytes_per_token(path) == 160 + 16


def test_of_an_if_only_the_decode_branch_counts(tmp_path: Path) -> None:
    import_onnx()
    onnx = importlib.import_module("onnx")
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    weights = [helper.make_tensor(f"of_{way}", floats, [5], [0.0] * 5) for way in ("then", "else")]
    for weight in weights:
        weight.raw_data = bytes(20)
    branches = {}
    for way in ("then", "else"):
        node = helper.make_node("Add", ["x", f"of_{way}"], [way])
        output = helper.make_tensor_value_info(way, floats, [5])
        branches[f"{way}_branch"] = helper.make_graph([node], way, [], [output])
    choice = helper.make_node("If", ["flag"], ["y"], **branches)
    graph = helper.make_graph([choice], "g", [], [], weights)
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert weight_bytes_per_token(path) == 20


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    import_onnx()
    path = tmp_path / "model.onnx"
    path.touch()
    with pytest.raises(ValueError, match="no weights in it"):
        weight_bytes_per_token(path)
