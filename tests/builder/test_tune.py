"""int8-w8a8 end to end: rotation changes nothing, compensated rounding helps, predictions hold."""

from importlib import resources
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
import yaml
from numpy.typing import NDArray
from tokenizers import models, pre_tokenizers

from edged.builder import calibrate, tune
from edged.builder.calibrate import calibration_ids, measure_moments
from edged.builder.fuse import fuse
from edged.builder.gate import gate_prompts
from edged.builder.gptq import column_scales, gptq_round
from edged.builder.measure import compare
from edged.builder.onnx_files import GraphWriter, read_graph
from edged.builder.quantize import Scaling, Scheme, quantize
from edged.builder.rotate import find_rotation
from edged.builder.tune import Kept
from edged.builder.verify import unseen_text
from edged.builder.weights import SourceGraph
from edged.bundle.manifest import MODEL, MODEL_DATA
from edged.engine.loading import load_graph
from tests.builder.conftest import TinyExport

Floats = NDArray[np.float32]

ROTATED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "smollm3")
NOT_ROTATED = ("gemma3_text", "granite")
"""Norms after the projections, or factors on the stream."""
PORTABLE = ("phi", "gemma", "gemma2", "gpt2", "opt", "falcon")
VOCAB_SIZE = 160
SEQUENCES = np.random.default_rng(0).integers(3, VOCAB_SIZE, (4, 60)).tolist()
CALIBRATION = np.random.default_rng(1).integers(3, VOCAB_SIZE, (6, 50)).tolist()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("fp32", "int8"):
        (tmp_path / name).mkdir()
    return tmp_path / "fp32", tmp_path / "int8"


def divergence(reference: Path, candidate: Path, *, fused: tuple[bool, bool]) -> float:
    graphs = [
        load_graph(folder / "model.onnx", is_fused=is_fused, max_model_len=64, num_threads=1)
        for folder, is_fused in zip((reference, candidate), fused, strict=True)
    ]
    return compare(graphs[0], graphs[1], SEQUENCES).mean_kl


def spread(reference: Path) -> float:
    """Return the divergence of the model's own predictions, one position from the next."""
    graph = load_graph(reference / "model.onnx", is_fused=False, max_model_len=64, num_threads=1)
    logits = graph.forward(np.asarray(SEQUENCES[0], np.int64), 0, all_rows=True).astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float((np.exp(log_p[1:]) * (log_p[1:] - log_p[:-1])).sum(axis=1).mean())


def operators(folder: Path) -> list[str]:
    return [node.op_type for node in read_graph(folder).graph.node]


def rotated_activations(folder: Path) -> list[str]:
    outputs = [name for node in read_graph(folder).graph.node for name in node.output]
    return [name for name in outputs if name.endswith(".rotated")]


@pytest.mark.parametrize("family", PORTABLE)
def test_a_portable_family_keeps_its_predictions(
    tiny_export: TinyExport, tmp_path: Path, family: str
) -> None:
    """A portable graph is not measured; all its activations are rotated at run time."""
    export = tiny_export(family)
    report = quantize(export, tmp_path, Scheme.INT8_W8A8, CALIBRATION)
    assert all("position" in kept or "wpe" in kept for kept in report.kept)
    assert "MatMulNBits" not in operators(tmp_path)
    assert divergence(export, tmp_path, fused=(False, False)) < 0.01 * spread(export)


@pytest.mark.parametrize("family", ROTATED + NOT_ROTATED)
def test_a_fused_family_keeps_its_predictions(
    tiny_export: TinyExport, folders: tuple[Path, Path], family: str
) -> None:
    """Where the stream is rotated, only the other activations are rotated at run time."""
    fp32, int8 = folders
    export = tiny_export(family)
    fuse(export, fp32, max_model_len=64)
    report = quantize(fp32, int8, Scheme.INT8_W8A8, CALIBRATION)
    assert report.kept == ()
    assert report.scaling is (Scaling.STATIC if family in ROTATED else Scaling.DYNAMIC)
    found = operators(int8)
    assert "GatherBlockQuantized" in found
    assert "MatMulNBits" not in found
    num_layers, num_rotated = found.count("GroupQueryAttention"), len(rotated_activations(int8))
    assert num_rotated == num_layers if family in ROTATED else num_rotated > 2 * num_layers
    # Means of values and gated activations; the outputs of norms keep their known scales.
    num_scaled = 2 * num_layers if family in ROTATED else found.count("QuantizeLinear")
    assert found.count("ReduceMax") == num_scaled
    assert found.count("Shape") == 0
    assert divergence(export, int8, fused=(False, True)) < 0.01 * spread(export)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "smollm3"])
def test_a_rotated_graph_computes_the_same(
    tiny_export: TinyExport, folders: tuple[Path, Path], family: str
) -> None:
    """The rotation alone, without any rounding, does not change the logits."""
    fp32, rotated = folders
    fuse(tiny_export(family), fp32, max_model_len=64)
    graph = SourceGraph(fp32)
    rotation = find_rotation(graph)
    assert rotation is not None
    values = dict(graph.constants())
    for node in graph.model.graph.node:
        weight = graph.matrix(node.input[1]) if node.op_type == "MatMul" else None
        if weight is not None:
            values[f"{node.output[0]}.rotated"] = rotation.product(node, weight.T).T
            node.input[1] = f"{node.output[0]}.rotated"
        elif node.op_type == "Gather" and graph.is_token_ids(node.input[1]):
            table = graph.matrix(node.input[0])
            assert table is not None
            values["table.rotated"] = rotation.table(table)
            node.input[0] = "table.rotated"
    values |= {name: np.ones_like(values[name]) for name in rotation.gains}
    with GraphWriter(rotated) as writer:
        writer.finish(graph.model, [writer.add(name, value) for name, value in values.items()])
    assert divergence(fp32, rotated, fused=(True, True)) < 1e-6


@pytest.mark.parametrize("family", NOT_ROTATED)
def test_a_residual_stream_with_another_reader_is_not_rotated(
    tiny_export: TinyExport, tmp_path: Path, family: str
) -> None:
    fuse(tiny_export(family), tmp_path, max_model_len=64)
    assert find_rotation(SourceGraph(tmp_path)) is None


def test_a_summand_or_norm_weight_with_a_second_reader_is_not_rotated(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """A second reader would see the rotated values."""
    fuse(tiny_export("llama"), tmp_path, max_model_len=64)
    rotation = find_rotation(SourceGraph(tmp_path))
    assert rotation is not None
    for name in (min(rotation.writers), rotation.gains[0]):
        graph = SourceGraph(tmp_path)
        graph.model.graph.node.append(onnx.helper.make_node("Identity", [name], ["more"]))
        assert find_rotation(graph) is None


def test_norms_are_scaled_per_token_if_requested(
    tiny_export: TinyExport, folders: tuple[Path, Path]
) -> None:
    fp32, int8 = folders
    fuse(tiny_export("llama"), fp32, max_model_len=64)
    quantize(fp32, int8, Scheme.INT8_W8A8, CALIBRATION, Scaling.DYNAMIC)
    found = operators(int8)
    assert found.count("ReduceMax") == found.count("QuantizeLinear")


def test_a_second_scaling_reuses_the_weights_of_the_first_and_writes_the_same_bytes(
    tiny_export: TinyExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse(tiny_export("llama"), tmp_path / "fp32", max_model_len=64)
    kept = Kept()
    for scaling in (Scaling.STATIC, Scaling.DYNAMIC):
        for name, given in (("alone", None), ("second", kept)):
            folder = tmp_path / f"{name}-{scaling}"
            folder.mkdir()
            if name == "second" and scaling is Scaling.DYNAMIC:
                monkeypatch.delattr(tune, "gptq_round")
                monkeypatch.delattr(tune, "measure_moments")
            quantize(tmp_path / "fp32", folder, Scheme.INT8_W8A8, CALIBRATION, scaling, given)
    for scaling in (Scaling.STATIC, Scaling.DYNAMIC):
        alone, second = (tmp_path / f"{name}-{scaling}" for name in ("alone", "second"))
        for name in (MODEL, MODEL_DATA):
            assert (alone / name).read_bytes() == (second / name).read_bytes()


def test_without_text_all_activations_are_rotated_at_run_time(
    tiny_export: TinyExport, folders: tuple[Path, Path]
) -> None:
    fp32, int8 = folders
    fuse(tiny_export("llama"), fp32, max_model_len=64)
    quantize(fp32, int8, Scheme.INT8_W8A8)
    assert len(rotated_activations(int8)) == operators(int8).count("QuantizeLinear")


def test_the_same_text_gives_the_same_bytes(
    tiny_export: TinyExport, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    fp32, int8 = folders
    fuse(tiny_export("llama"), fp32, max_model_len=64)
    again = tmp_path / "again"
    again.mkdir()
    for folder in (int8, again):
        quantize(fp32, folder, Scheme.INT8_W8A8, CALIBRATION)
    for name in ("model.onnx", "model.onnx.data"):
        assert (int8 / name).read_bytes() == (again / name).read_bytes()


def test_moments_are_those_of_the_activations(
    tiny_export: TinyExport, folders: tuple[Path, Path]
) -> None:
    """They are symmetric, positive, and grow with the text; one for each input of a product."""
    fp32, _ = folders
    fuse(tiny_export("llama"), fp32, max_model_len=64)
    one, both = (measure_moments(fp32, CALIBRATION[:count]) for count in (1, 2))
    weights = [n.input[0] for n in read_graph(fp32).graph.node if n.op_type == "MatMul"]
    assert list(one) == list(dict.fromkeys(weights))
    for name, moments in one.items():
        np.testing.assert_allclose(moments, moments.T, rtol=1e-5, atol=1e-5)
        assert np.trace(both[name]) > np.trace(moments) > 0


def test_moments_are_the_same_however_many_texts_are_multiplied_at_once(
    tiny_export: TinyExport, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fp32, _ = folders
    fuse(tiny_export("llama"), fp32, max_model_len=64)
    texts = [*CALIBRATION, *CALIBRATION]
    at_once = measure_moments(fp32, texts)
    monkeypatch.setattr(calibrate, "_ROWS", len(CALIBRATION[0]) + 1)
    for name, moments in measure_moments(fp32, texts).items():
        np.testing.assert_allclose(moments, at_once[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [40, 200])
def test_compensated_rounding_loses_less_than_rounding_to_nearest(width: int) -> None:
    """On correlated activations, which the method needs."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, width))
    noise = 0.1 * rng.standard_normal((300, width))
    x = (rng.standard_normal((300, 6)) @ mixing + noise).astype(np.float32)
    weight = rng.standard_normal((width, 24)).astype(np.float32)
    scales = column_scales(weight)

    def loss(moments: Floats | None) -> float:
        steps = gptq_round(weight, scales, moments)
        pairs = np.maximum(steps[0::2], 0).astype(int) + np.maximum(steps[1::2], 0)
        assert pairs.max() <= 128
        return float(np.square(x @ (steps * scales - weight)).sum())

    assert loss(x.T @ x) < 0.5 * loss(None)


def test_a_constant_zero_feature_is_quantized_without_error() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 5)).astype(np.float32)
    weight[:, 2] = 0.0
    scales = column_scales(weight)
    steps = gptq_round(weight, scales, np.zeros((8, 8), np.float32))
    assert (np.abs(steps * scales - weight) <= 0.501 * scales).all()


def test_the_calibration_text_is_truncated_to_the_context(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - no secret
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = calibration_ids(tmp_path / "tokenizer.json", 16)
    assert len(texts) > 30
    assert max(map(len, texts)) == 16


def test_the_calibration_text_differs_from_the_gates_text() -> None:
    """No six words in a row are in both, so that the gate is independent."""
    source = resources.files("edged.builder") / "data" / "calibration.yaml"
    texts = yaml.safe_load(source.read_text(encoding="utf-8"))

    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {tuple(words[start : start + 6]) for start in range(len(words) - 5)}

    ours = set().union(*map(runs, texts))
    assert not ours & set().union(*map(runs, gate_prompts()))
    assert not ours & runs(unseen_text())
    assert len(unseen_text()) > 5000
