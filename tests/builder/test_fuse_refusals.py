"""An export that cannot be fused is refused with the reason."""

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optimum")

import onnx

from edged.builder.fuse import NotFusable, fuse
from edged.builder.fuse.positions import read_window
from edged.errors import BuildError
from tests.builder.changed_exports import CHANGES
from tests.builder.conftest import TinyExport


@pytest.mark.parametrize(
    ("head_dim", "reason"),
    [
        (12, "head size 12 is not a multiple of 8"),
        (20, "head size 20 is not a multiple of 8"),
        (24, "head size 24 with rotary size 24"),
    ],
)
def test_an_unsupported_head_size_is_not_fusable(
    tiny_export: TinyExport, tmp_path: Path, head_dim: int, reason: str
) -> None:
    export_folder = tiny_export("llama", head_dim=head_dim)

    with pytest.raises(NotFusable, match=reason):
        fuse(export_folder, tmp_path, max_model_len=64)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("phi", "rotary size 8"),
        ("gpt2", "Sqrt inside attention"),
        ("opt", "Reshape outside attention"),
        ("falcon", "Sqrt inside attention"),
        ("bloom", "scores in an unknown way"),
        ("olmo2", "normalizes all heads together"),
        ("cohere", "neighbouring pairs"),
        ("qwen3_moe", "outside attention is not known"),
    ],
)
def test_a_family_of_another_structure_is_not_fusable(
    tiny_export: TinyExport, tmp_path: Path, family: str, reason: str
) -> None:
    """Learned positions, position biases, experts: each with the part that is not supported."""
    sizes: dict[str, dict[str, int]] = {
        "bloom": {"n_head": 4, "n_layer": 2},
        "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    }
    export_folder = tiny_export(family, **sizes.get(family, {}))

    with pytest.raises(NotFusable, match=reason):
        fuse(export_folder, tmp_path, max_model_len=64)


def test_a_different_packing_order_is_caught_by_the_comparison(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    """GPT-NeoX packs query, key and value head by head, in a projection of the usual width."""
    export_folder = tiny_export("gpt_neox", rotary_pct=1.0)

    with pytest.raises(NotFusable, match="fused logits differ from the export by"):
        fuse(export_folder, tmp_path, max_model_len=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [-1, 1])
def test_a_window_off_by_one_is_caught_by_the_comparison(
    tiny_export: TinyExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(
        "edged.builder.fuse.decoder.read_window", lambda *args: (read_window(*args) or 0) + error
    )

    with pytest.raises(NotFusable, match="fused logits differ"):
        fuse(tiny_export("mistral", sliding_window=8), tmp_path, max_model_len=64)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_export_is_not_fusable(
    tiny_export: TinyExport, tmp_path: Path, name: str
) -> None:
    """Each change to a good export is detected in its structure, before logits are compared."""
    change, reason = CHANGES[name]
    changed = tmp_path / "changed"
    shutil.copytree(tiny_export("llama"), changed)
    model = onnx.load(changed / "model.onnx")
    change(model.graph)
    onnx.save(model, changed / "model.onnx")

    with pytest.raises(NotFusable, match=reason):
        fuse(changed, tmp_path / "fused", max_model_len=64)


def test_a_slice_by_the_number_of_tokens_is_not_fusable(
    tiny_export: TinyExport, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(tiny_export("phi3"), changed)
    model = onnx.load(changed / "model.onnx")
    gather = next(node for node in model.graph.node if node.name == "/model/layers.0/mlp/Gather")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "token_axis"))
    gather.input[1] = "token_axis"
    onnx.save(model, changed / "model.onnx")

    with pytest.raises(NotFusable, match="a slice depends on the number of tokens"):
        fuse(changed, tmp_path / "fused", max_model_len=64)


def test_an_unknown_form_of_a_norm_is_copied(tiny_export: TinyExport, tmp_path: Path) -> None:
    """An unknown token-wise operator costs speed, not correctness."""
    changed = tmp_path / "changed"
    shutil.copytree(tiny_export("llama"), changed)
    model = onnx.load(changed / "model.onnx")
    square = next(
        n for n in model.graph.node if n.name == "/model/layers.1/post_attention_layernorm/Pow"
    )
    square.op_type = "Mul"
    square.input[1] = square.input[0]
    onnx.save(model, changed / "model.onnx")

    report = fuse(changed, tmp_path / "fused", max_model_len=64)

    plain = fuse(tiny_export("llama"), tmp_path / "plain", max_model_len=64)
    assert report.max_abs_diff < 1e-3
    assert report.num_nodes_after == plain.num_nodes_after + 7


def test_a_graph_that_does_not_run_is_not_fusable(
    tiny_export: TinyExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a rule for a size, the comparison still finds that the graph does not run."""
    monkeypatch.setattr("edged.builder.fuse._check_operator", lambda _: None)

    with pytest.raises(NotFusable, match="the fused graph does not run"):
        fuse(tiny_export("llama", head_dim=12), tmp_path, max_model_len=64)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_an_export_is_a_build_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"model\.onnx"):
        fuse(tmp_path, tmp_path / "fused", max_model_len=64)
