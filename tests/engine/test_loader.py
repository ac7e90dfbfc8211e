"""READY is a promise: it is given after the model has answered, and not by one that cannot."""

import json
from pathlib import Path

import yaml

from edged.bundle.folder import open_bundle, write_manifest
from edged.bundle.manifest import MODEL, MODEL_DATA
from tests.system.broker.daemons import daemon, serve_arguments
from tests.tiny_graphs import import_onnx
from tests.tiny_model import write_tiny_bundle

NOBODY = "mqtt://127.0.0.1:1"


def test_a_model_that_loads_and_cannot_answer_is_never_ready(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    manifest = open_bundle(folder).manifest
    # The prompt's tokens are beyond its embedding: all is loaded, and the first answer fails.
    onnx = import_onnx()
    model = onnx.load(folder / MODEL)
    embed = next(tensor for tensor in model.graph.initializer if tensor.name == "embed")
    embed.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(embed)[:4], "embed"))
    (folder / MODEL_DATA).unlink()
    onnx.save_model(model, folder / MODEL)
    write_manifest(folder, manifest)
    with daemon(tmp_path, *serve_arguments(folder, NOBODY)) as process:
        assert "out of data bounds" in process.until("STATUS=waiting: "), "it failed earlier"
        assert process.stop() == 0
    assert "READY=1" not in process.told


def test_one_that_answers_is_ready_without_a_broker(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    with daemon(tmp_path, *serve_arguments(folder, NOBODY)) as process:
        process.until("READY=1")
        assert process.stop() == 0


def planned_cache(folder: Path, *prompts: str) -> int:
    """Return the bytes of the cache in the ledger of a node with these warm prompts."""
    state = folder / "state.json"
    config = {
        "node": "kitchen",
        "model": {"path": str(folder / "bundle"), "warm_prompts": list(prompts), "num_slots": 1},
        "broker": {"host": "127.0.0.1", "port": 1},
        "state": {"file": str(state)},
    }
    (folder / "edged.yaml").write_text(yaml.safe_dump(config))
    with daemon(folder, "--config", str(folder / "edged.yaml")) as process:
        process.until("STATUS=waiting")
        assert process.stop() == 0
    return int(json.loads(state.read_bytes())["ledger"]["kv"])


def test_the_ledger_has_the_tokens_of_warm_prompts_in_any_script(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    kv_bytes = open_bundle(folder).manifest.model.kv_bytes_per_token
    without = planned_cache(tmp_path)
    more = planned_cache(tmp_path, "简" * 30) - without
    # Each byte is a token of this tokenizer; the estimate is a third of a token for a character.
    assert more > 90 * kv_bytes
    assert planned_cache(tmp_path, "简" * 31) - without - more == 3 * kv_bytes
