"""An export is used only if its logits equal those of the torch model."""

import io
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the build extra")

import onnx
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edged.builder import child, export, optimum
from edged.builder.fetch import Checkpoint, fetch
from edged.builder.gguf import read_gguf
from edged.builder.gguf_tokenizer import build_tokenizer
from edged.builder.progress import Progress
from edged.builder.recipe import Recipe, Source, SourceKind
from edged.engine.loading import load_graph
from edged.errors import BuildError
from tests.builder import tiny_gguf
from tests.builder.tiny_families import tiny_model

pytestmark = pytest.mark.usefixtures("forked_steps")
SHAPE: dict[str, Any] = {
    "vocab_size": 700,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": True,
}


def quiet() -> Progress:
    return Progress(io.StringIO())


def no_child(step: child.Step, *_: object) -> None:
    pytest.fail(f"{step.title} was started")


def write_checkpoint(folder: Path, **config: object) -> Checkpoint:
    """Write a random model as a Hugging Face folder and fetch it."""
    folder.mkdir()
    torch.manual_seed(3)
    settings = AutoConfig.for_model("llama", **{**SHAPE, **config})
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    path = tiny_gguf.write(folder / "t.gguf", tiny_gguf.byte_level("smollm"), weights=False)
    build_tokenizer(read_gguf(path).vocabulary).save(str(folder / "tokenizer.json"))
    path.unlink()
    source = Source(SourceKind.FOLDER, folder.name, path=folder)
    return fetch(Recipe("tiny", source), folder / "cache", quiet())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("export") / "hf")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, cache: Path) -> export.Export:
    return export.export(checkpoint, cache, quiet())


def test_the_export_computes_the_logits_of_the_torch_model(
    checkpoint: Checkpoint, exported: export.Export
) -> None:
    assert 0 <= exported.max_abs_diff <= 1e-3 * exported.logit_scale
    assert exported.model_path.is_file()
    token_ids = np.array([5, 600, 7, 7, 2])
    graph = load_graph(exported.model_path, is_fused=False, max_model_len=8)
    found = graph.forward(token_ids, 0, all_rows=True)
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(token_ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_tokenizer_is_copied_unchanged(checkpoint: Checkpoint, exported: export.Export) -> None:
    names = {path.name for path in exported.folder.iterdir()}
    assert {"model.onnx", "config.json", "generation_config.json", "tokenizer.json"} <= names
    ours = (exported.folder / "tokenizer.json").read_bytes()
    assert ours == (checkpoint.folder / "tokenizer.json").read_bytes()


def test_the_output_of_optimum_goes_to_the_log(exported: export.Export, cache: Path) -> None:
    log = (cache / "logs" / "export.log").read_text(encoding="utf-8")
    assert exported.folder.is_relative_to(cache)
    assert "Warning" in log
    assert "peak resident memory: " in log


def test_an_export_is_cached(
    checkpoint: Checkpoint, exported: export.Export, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "run", no_child)
    assert export.export(checkpoint, cache, quiet()) == exported
    assert export.find_export(checkpoint.sha256, cache) == exported
    assert export.find_export("0" * 64, cache) is None


@pytest.mark.usefixtures("exported")
def test_an_export_by_other_tool_versions_is_repeated(
    checkpoint: Checkpoint, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "run", no_child)
    monkeypatch.setattr(export, "version", lambda _name: "0.0")
    with pytest.raises(pytest.fail.Exception, match="the export was started"):
        export.export(checkpoint, cache, quiet())


def test_a_damaged_export_is_not_used(
    checkpoint: Checkpoint, exported: export.Export, cache: Path
) -> None:
    intact = exported.model_path.read_bytes()
    try:
        exported.model_path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        assert export.find_export(checkpoint.sha256, cache) is None
    finally:
        exported.model_path.write_bytes(intact)


def test_two_exports_are_identical(
    checkpoint: Checkpoint, exported: export.Export, tmp_path: Path
) -> None:
    again = export.export(checkpoint, tmp_path, quiet())
    for path in exported.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_an_export_that_differs_from_torch_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exporting(source: Path, *_: object) -> tuple[Any, Any]:
        assert source == checkpoint.folder
        return np.arange(4), np.ones((4, 3), np.float32)

    monkeypatch.setattr(optimum, "_export", exporting)
    monkeypatch.setattr(optimum, "_run", lambda *_: np.full((4, 3), 1.01, np.float32))
    with pytest.raises(BuildError, match=r"not the same model: .* differ by 0.01 at a scale of 1"):
        optimum.export_checkpoint(lambda *_: None, str(checkpoint.folder), str(tmp_path))
    monkeypatch.setattr(optimum, "_run", lambda *_: np.full((4, 3), np.nan, np.float32))
    with pytest.raises(BuildError, match="differ by nan"):
        optimum.export_checkpoint(lambda *_: None, str(checkpoint.folder), str(tmp_path))


def test_a_family_unknown_to_optimum_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    checkpoint = write_checkpoint(folder)
    config = json.loads((folder / "config.json").read_bytes())
    for name in ("not_a_family", "mamba"):
        text = json.dumps({**config, "model_type": name, "architectures": None})
        (folder / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(BuildError, match=f"cannot export a {name} model"):
            optimum.export_checkpoint(lambda *_: None, str(checkpoint.folder), str(tmp_path / "o"))


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    """Transformers would initialize them at random and only warn."""
    checkpoint = write_checkpoint(tmp_path / "hf")
    path = checkpoint.folder / "config.json"
    config = json.loads(path.read_bytes())
    for changes, message in (
        ({"num_hidden_layers": 3}, r"weights are missing: .*layers.2."),
        ({"intermediate_size": 72}, r"weights are of another shape: .*mlp"),
    ):
        path.write_text(json.dumps({**config, **changes}), encoding="utf-8")
        with pytest.raises(BuildError, match=message):
            optimum.export_checkpoint(lambda *_: None, str(checkpoint.folder), str(tmp_path / "o"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Each alone would take more than the memory of a machine, or hours.
        ({"vocab_size": 10**9}, r"a model of \d{11} parameters, and there are \d{5}:"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and there are 20 tensors"),
    ],
)
def test_a_model_that_is_far_larger_than_its_weights_is_not_made(
    checkpoint: Checkpoint, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(checkpoint.folder, folder)
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    with pytest.raises(BuildError, match=f"{folder}: .*{message}"):
        optimum.export_checkpoint(lambda *_: None, str(folder), str(tmp_path / "o"))


def test_too_little_memory_is_refused_before_the_start(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "run", no_child)
    monkeypatch.setattr(export, "_available_bytes", lambda: 2**28)
    with pytest.raises(BuildError, match=r"needs about \d.\d GiB of memory and 0.2 GiB are free"):
        export.export(checkpoint, tmp_path, quiet())
    assert not (tmp_path / "exports").exists()


def test_a_full_disk_is_refused_before_the_start(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "run", no_child)
    monkeypatch.setattr(export, "_fp32_bytes", lambda _checkpoint: 10**15)
    monkeypatch.setattr(export, "_available_bytes", lambda: 10**17)
    with pytest.raises(BuildError, match=r"exports: the disk is full: .* 2000000.00 GB"):
        export.export(checkpoint, tmp_path, quiet())


def test_the_estimate_follows_the_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    larger = write_checkpoint(tmp_path / "hf", num_hidden_layers=4, tie_word_embeddings=False)
    more = export.count_parameters(larger) - export.count_parameters(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(larger.folder)
    assert export.count_parameters(larger) == model.num_parameters()
    estimate = export.estimate_memory_bytes
    assert estimate(larger) - estimate(checkpoint) > 4 * more


def put_header(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"),
        lambda path: path.write_bytes(b"\x10" + bytes(7) + b'{"a": {"x": [1]}}'),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: put_header(path, b"[" * 300_000),
        lambda path: put_header(path, b'{"a": {"shape": ["x"], "data_offsets": [0, 0]}}'),
        lambda path: put_header(path, b'{"a": {"shape": [%d], "data_offsets": [0, 0]}}' % 2**60),
    ],
)
def test_damaged_safetensors_are_named(
    checkpoint: Checkpoint, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    for path in checkpoint.folder.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    damage(folder / "model.safetensors")
    with pytest.raises(BuildError, match=r"hf/model.safetensors: .*; download it again"):
        export.estimate_memory_bytes(replace(checkpoint, folder=folder))


def test_available_memory_is_read_from_the_kernel() -> None:
    total = next(
        int(line.split()[1])
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemTotal")
    )
    assert 2**20 < export._available_bytes() <= 1024 * total * 100


def test_a_soft_cap_on_attention_reaches_the_export(tmp_path: Path) -> None:
    """torch's fast attention ignores gemma2's, and then the reference would too."""
    source, target = tmp_path / "hf", tmp_path / "onnx"
    target.mkdir()
    tiny_model("gemma2").save_pretrained(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every shape it turns constant
        optimum.export_checkpoint(lambda *_: None, str(source), str(target))
    nodes = onnx.load(str(target / "model.onnx"), load_external_data=False).graph.node
    capped = {node.name.split("/")[2] for node in nodes if "self_attn/Tanh" in node.name}
    assert capped == {"layers.0", "layers.1"}
