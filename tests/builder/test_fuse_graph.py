"""The fused graph: operators, names, weights, caches, bytes."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("optimum")

import onnx
from onnx import numpy_helper

from edged.builder.fuse import FuseReport, fuse
from edged.builder.fuse.compare import run_export
from tests.builder.conftest import TinyExport
from tests.builder.tiny_families import VOCAB_SIZE, tiny_config, tiny_model

MAX_MODEL_LEN = 64


def _fused(folder: Path, export_folder: Path) -> tuple[FuseReport, onnx.ModelProto]:
    report = fuse(export_folder, folder, max_model_len=MAX_MODEL_LEN)
    return report, onnx.load(folder / "model.onnx")


def _attentions(model: onnx.ModelProto) -> list[dict[str, Any]]:
    return [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for node in model.graph.node
        if node.op_type == "GroupQueryAttention"
    ]


def _weights(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def test_a_llama_layer_is_twelve_nodes(tiny_export: TinyExport, tmp_path: Path) -> None:
    """No cast, reshape, transpose, mask or shape computation is left."""
    report, model = _fused(tmp_path, tiny_export("llama"))

    assert Counter(node.op_type for node in model.graph.node) == {
        "Gather": 1 + 2,  # the embedding; the wanted rows of the last attention and its residual
        "SimplifiedLayerNormalization": 1,
        "SkipSimplifiedLayerNormalization": 2 * 2,
        "MatMul": 2 * 4 + 1,
        "GroupQueryAttention": 2,
        "Pad": 2,
        "Slice": 2,
        "Split": 2,
        "QuickGelu": 2,
        "Mul": 2,
    }
    assert report.num_nodes_after == len(model.graph.node)
    assert report.num_nodes_before > 20 * report.num_nodes_after
    assert report.num_layers == 2


def test_nodes_are_named_by_module_and_weights_by_node(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    _, model = _fused(tmp_path, tiny_export("llama"))

    by_name = {node.name: node for node in model.graph.node}
    for name, op_type in {
        "model.embed_tokens": "Gather",
        "model.layers.1.attn": "GroupQueryAttention",
        "model.layers.1.attn.qkv_proj": "MatMul",
        "model.layers.1.attn.o_proj": "MatMul",
        "model.layers.1.mlp.gate_up_proj": "MatMul",
        "model.layers.1.mlp.down_proj": "MatMul",
        "model.norm": "SkipSimplifiedLayerNormalization",
        "lm_head": "MatMul",
    }.items():
        assert by_name[name].op_type == op_type
        if op_type != "GroupQueryAttention":
            assert f"{name}.weight" in by_name[name].input
    assert len(by_name) == len(model.graph.node)


def test_the_packed_weight_is_the_concatenation_of_query_key_and_value(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    _, model = _fused(tmp_path, tiny_export("qwen2"))

    state = tiny_model("qwen2").state_dict()
    parts = [state[f"model.layers.1.self_attn.{x}_proj.weight"].numpy().T for x in "qkv"]
    biases = [state[f"model.layers.1.self_attn.{x}_proj.bias"].numpy() for x in "qkv"]
    weights = _weights(model)
    np.testing.assert_array_equal(
        weights["model.layers.1.attn.qkv_proj.weight"], np.concatenate(parts, axis=1)
    )
    np.testing.assert_array_equal(
        weights["model.layers.1.attn.qkv_proj.bias"], np.concatenate(biases)
    )


def test_inputs_and_outputs_follow_the_fused_graph_interface(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    _fused(tmp_path, tiny_export("llama"))

    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    caches = [f"{i}.{kind}" for i in range(2) for kind in ("key", "value")]
    assert {i.name: (i.type, i.shape) for i in session.get_inputs()} == {
        "input_ids": ("tensor(int64)", ["batch", "tokens"]),
        "seqlens_k": ("tensor(int32)", ["batch"]),
        "total_sequence_length": ("tensor(int32)", []),
        "query_seqlens": ("tensor(int32)", ["batch"]),
        "rows": ("tensor(int64)", ["num_rows"]),
    } | {f"past_key_values.{n}": ("tensor(float)", ["batch", 2, "capacity", 16]) for n in caches}
    assert {o.name: (o.type, o.shape) for o in session.get_outputs()} == {
        "logits": ("tensor(float)", ["batch", "num_rows", VOCAB_SIZE]),
    } | {f"present.{n}": ("tensor(float)", ["batch", 2, "capacity", 16]) for n in caches}


@pytest.mark.parametrize("rows", [[5], [2, 0], [], [3, 3, 4]])
def test_any_rows_can_be_selected(tiny_export: TinyExport, tmp_path: Path, rows: list[int]) -> None:
    """In any order, more than once, or none, for a chunk in the middle of a prompt."""
    export_folder = tiny_export("llama")
    _fused(tmp_path, export_folder)
    token_ids = np.random.default_rng(1).integers(0, VOCAB_SIZE, 6)
    reference = ort.InferenceSession(
        export_folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    feeds: dict[str, Any] = {
        "input_ids": token_ids[None],
        # Six tokens and the spare row behind them.
        "seqlens_k": np.array([6], np.int32),
        "total_sequence_length": np.array(7, np.int32),
        "query_seqlens": np.array([7], np.int32),
        "rows": np.array(rows, np.int64),
    }
    for item in session.get_inputs()[5:]:
        feeds[item.name] = np.zeros((1, 2, 8, 16), np.float32)

    logits = session.run(["logits"], feeds)[0][0]

    np.testing.assert_allclose(logits, run_export(reference, token_ids)[rows], atol=1e-3)


def test_the_same_export_gives_the_same_bytes(tiny_export: TinyExport, tmp_path: Path) -> None:
    export_folder = tiny_export("gemma3_text")
    digests = []
    for name in ("one", "two"):
        fuse(export_folder, tmp_path / name, max_model_len=MAX_MODEL_LEN)
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == ["model.onnx", "model.onnx.data"]
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def test_a_tied_head_shares_the_stored_embedding(tiny_export: TinyExport, tmp_path: Path) -> None:
    _, model = _fused(tmp_path, tiny_export("llama", tie_word_embeddings=True))

    shapes = [list(tensor.dims) for tensor in model.graph.initializer]
    assert shapes.count([VOCAB_SIZE, 64]) == 1
    assert [64, VOCAB_SIZE] not in shapes
    transpose = next(node for node in model.graph.node if node.op_type == "Transpose")
    assert list(transpose.input) == ["model.embed_tokens.weight"]


def test_each_layer_has_its_own_window_rotation_and_scale(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    _, gemma = _fused(tmp_path / "gemma", tiny_export("gemma3_text"))
    _, smollm = _fused(tmp_path / "smollm", tiny_export("smollm3"))
    _, granite = _fused(tmp_path / "granite", tiny_export("granite"))

    assert [a["local_window_size"] for a in _attentions(gemma)] == [8, -1, 8]
    assert [a["do_rotary"] for a in _attentions(smollm)] == [1, 0, 1]
    assert [a["scale"] for a in _attentions(granite)] == pytest.approx([0.15, 0.15])
    assert [a["scale"] for a in _attentions(gemma)] == pytest.approx([24**-0.5] * 3)


def test_layers_share_rotary_tables_of_the_models_angles(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """Gemma 3 has two kinds; each is stored once, for all positions and the spare row after."""
    _, model = _fused(tmp_path, tiny_export("gemma3_text"))

    weights = _weights(model)
    tables = sorted(name for name in weights if name.startswith("rotary."))
    config = tiny_config("gemma3_text")
    position = np.arange(MAX_MODEL_LEN + 1)[:, None]
    assert tables == [f"rotary.{i}.{kind}_cache" for i in (0, 1) for kind in ("cos", "sin")]
    for index, theta in enumerate((config.rope_local_base_freq, config.rope_theta)):
        angles = position * theta ** (-np.arange(0, 16, 2) / 16)
        np.testing.assert_allclose(weights[f"rotary.{index}.cos_cache"], np.cos(angles), atol=1e-5)
        np.testing.assert_allclose(weights[f"rotary.{index}.sin_cache"], np.sin(angles), atol=1e-5)


def test_a_soft_cap_becomes_an_attribute_of_the_operator(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    report, model = _fused(tmp_path, tiny_export("gemma2"))

    assert [a["softcap"] for a in _attentions(model)] == [2.0, 2.0]
    assert report.window == 8
    assert report.notes == ("layers with a sliding window of 8 tokens",)


def test_a_window_as_wide_as_the_context_is_dropped(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    export_folder = tiny_export("mistral", sliding_window=8)

    report = fuse(export_folder, tmp_path, max_model_len=8)

    assert report.window is None
    assert _attentions(onnx.load(tmp_path / "model.onnx"))[0]["local_window_size"] == -1


def test_missing_rotary_angles_for_longer_texts_are_noted(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    factors = {"type": "longrope", "short_factor": [1.5] * 8, "long_factor": [2.0] * 8}
    export_folder = tiny_export("phi3", rope_scaling=factors, original_max_position_embeddings=48)

    report, _ = _fused(tmp_path, export_folder)

    assert report.notes == (
        "the longrope rotary angles of the export are those for up to 48 tokens",
    )


def test_phi3s_packed_gate_and_up_are_split_in_one_node(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    _, model = _fused(tmp_path, tiny_export("phi3"))

    op_types = Counter(node.op_type for node in model.graph.node)
    assert op_types["Split"] == 2
    assert op_types["Slice"] == op_types["GroupQueryAttention"]  # none but the spare rows'
