"""A model is loaded before it may serve; one that cannot answer never does."""

from pathlib import Path

import pytest

from edged.bundle.folder import open_bundle, write_manifest
from edged.bundle.manifest import MODEL, MODEL_DATA
from edged.cli import main
from edged.errors import ExitCode
from tests.tiny_graphs import import_onnx
from tests.tiny_model import write_tiny_bundle


def spoil(folder: Path) -> None:
    """Make a bundle that is loaded and cannot answer: the prompt's tokens are not in it."""
    manifest = open_bundle(folder).manifest
    onnx = import_onnx()
    model = onnx.load(folder / MODEL)
    embed = next(tensor for tensor in model.graph.initializer if tensor.name == "embed")
    embed.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(embed)[:4], "embed"))
    (folder / MODEL_DATA).unlink()
    onnx.save_model(model, folder / MODEL)
    write_manifest(folder, manifest)


def test_what_loads_and_answers_serves_and_what_does_not_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, config = tmp_path / "store", tmp_path / "edged.yaml"
    config.write_text(
        f"model: {{path: {store}/model/current}}\nsecurity: {{keys: {tmp_path}/keys}}\n"
    )
    options = ["--store", str(store), "--config", str(config), "--no-reload"]
    good, bad = write_tiny_bundle(tmp_path / "good"), write_tiny_bundle(tmp_path / "bad")
    assert main(["model", "install", str(good), *options]) == 0
    serving = (store / "model" / "current").resolve()
    spoil(bad)
    assert main(["model", "install", str(bad), *options]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert "cannot be loaded and answer here, so it is not installed" in said
    assert "it is loaded and cannot answer" in said
    assert (store / "model" / "current").resolve() == serving
    assert [path.name for path in (store / "model" / "models").iterdir()] == [serving.name]
    assert not (store / "model" / "loading").exists()
