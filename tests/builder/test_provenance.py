"""The facts of a model, and the tool versions of a bundle."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from edged.builder.provenance import context_limit, model_facts, read_config, tool_versions
from edged.bundle.manifest import ModelFacts
from edged.errors import BuildError
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_model


@pytest.mark.parametrize(
    ("config", "wanted", "expected"),
    [
        ({"max_position_embeddings": 8192}, None, 8192),
        ({"max_position_embeddings": 8192}, 4096, 4096),
        ({"n_positions": 1024}, None, 1024),
        ({"max_position_embeddings": 131072}, None, 32768),
        ({"max_position_embeddings": 131072}, 65536, 65536),
        ({}, None, 2048),
        ({"max_position_embeddings": -5, "n_positions": 1024}, None, 1024),
        ({"max_position_embeddings": True}, None, 2048),
        ({}, 512, 512),
    ],
)
def test_the_context_is_the_recipes_or_the_models_own(
    config: dict[str, Any], wanted: int | None, expected: int
) -> None:
    assert context_limit(config, wanted) == expected


def test_a_context_beyond_the_models_own_is_refused() -> None:
    with pytest.raises(BuildError, match="max_model_len: 4096 is more than the model's own 2048"):
        context_limit({"max_position_embeddings": 2048}, 4096)


def test_a_nested_config_is_found(tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "text_config": {"max_position_embeddings": 99}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_limit(read_config(tmp_path), None) == 99


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_broken_config_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(BuildError, match=r"config\.json: "):
        read_config(tmp_path)


@pytest.mark.parametrize("fused", [True, False])
def test_sizes_are_read_from_the_graph(tmp_path: Path, fused: bool) -> None:
    write_tiny_model(tmp_path / "model.onnx", TinyConfig(), fused=fused)
    facts = model_facts({"model_type": "llama"}, 1000, tmp_path)
    # Two layers, keys and values, two heads of 16 floats.
    assert facts == ModelFacts("llama", 1000, 296, 2, 2 * 2 * 2 * 16 * 4)


def test_a_graph_without_a_cache_is_refused(tmp_path: Path) -> None:
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, "s", 10])
    onnx.save_model(
        helper.make_model(helper.make_graph([], "g", [], [logits])), tmp_path / "model.onnx"
    )
    with pytest.raises(BuildError, match="logits or caches have no fixed size"):
        model_facts({}, 1, tmp_path)


def test_the_tools_name_this_code_and_no_machine() -> None:
    tools = tool_versions()
    assert {"edged", "builder", "onnxruntime", "torch"} <= tools.keys()
    assert not any("/" in value for value in tools.values())
