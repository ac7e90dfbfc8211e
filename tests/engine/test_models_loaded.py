"""A model is loaded before it may serve; one that cannot answer never does."""

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edged.bundle.folder import open_bundle, write_manifest
from edged.bundle.manifest import MODEL, MODEL_DATA
from edged.cli import main
from edged.commands import load_child
from edged.commands.load_child import Measured
from edged.engine import golden
from edged.errors import ExitCode
from tests.engine.test_hostile_bundles import with_huge_sum
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


def write_endless_bundle(folder: Path) -> Path:
    """Write a bundle whose graph loops for ever, in the first of its golden answers."""
    golden.record(open_bundle(write_tiny_bundle(folder, fused=False)))
    manifest = open_bundle(folder).manifest
    onnx = import_onnx()
    helper, kinds = onnx.helper, onnx.TensorProto
    model = onnx.load(folder / MODEL, load_external_data=False)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["once" if name == "logits" else name for name in node.output]
    body = helper.make_graph(
        [
            helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"])
            for name in ("go", "logits")
        ],
        "body",
        [
            helper.make_tensor_value_info("index", kinds.INT64, []),
            helper.make_tensor_value_info("go_in", kinds.BOOL, []),
            helper.make_tensor_value_info("logits_in", kinds.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", kinds.BOOL, []),
            helper.make_tensor_value_info("logits_out", kinds.FLOAT, None),
        ],
    )
    graph.initializer.append(helper.make_tensor("times", kinds.INT64, [], [1 << 60]))
    graph.initializer.append(helper.make_tensor("go", kinds.BOOL, [], [True]))
    graph.node.append(helper.make_node("Loop", ["times", "go", "once"], ["logits"], body=body))
    onnx.save(model, folder / MODEL)
    write_manifest(folder, manifest)
    return folder


def test_what_loops_for_ever_is_ended_and_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, store = device(tmp_path)
    bad = write_endless_bundle(tmp_path / "bad")
    monkeypatch.setattr("edged.commands.candidate._LIMIT_S", 1)
    assert main(["model", "install", str(bad), *options]) == ExitCode.CONFIG
    assert "has not answered within" in capsys.readouterr().err
    assert not (store / "model" / "loading").exists()
    assert list((store / "model" / "models").iterdir()) == []


def test_what_wants_too_much_for_its_golden_answers_gets_no_more_than_what_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, store = device(tmp_path)
    with (tmp_path / "edged.yaml").open("a") as config:
        config.write("budget: {memory: 300M}\n")
    bad = write_tiny_bundle(tmp_path / "bad")
    golden.record(open_bundle(bad))
    with_huge_sum(bad, 1 << 28)
    assert main(["model", "install", str(bad), *options]) == ExitCode.CONFIG
    said = capsys.readouterr().err
    assert "alloc" in said
    assert "it is loaded" not in said
    assert list((store / "model" / "models").iterdir()) == []


def test_what_the_golden_answers_took_is_free_for_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def does(name: str, given: object = None) -> Callable[..., object]:
        def do(*_: object) -> object:
            done.append(name)
            return given

        return do

    cost = SimpleNamespace(prefill_token_s=1.0, decode_token_s=1.0)
    loaded = SimpleNamespace(engine=SimpleNamespace(measure=lambda: cost))
    folder, config = write_tiny_bundle(tmp_path / "good"), tmp_path / "edged.yaml"
    config.write_text(f"model: {{path: {folder}}}\n")
    monkeypatch.setattr("edged.engine.golden.check", does("checked", "same"))
    monkeypatch.setattr("edged.daemon.memory.return_freed", does("returned"))
    monkeypatch.setattr(load_child, "load", does("loaded", loaded))
    options = {"config": config, "model": folder, "golden": True, "state": tmp_path}
    assert load_child.main(argparse.Namespace(**options)) == ExitCode.OK
    assert done == ["checked", "returned", "loaded"]


def device(tmp_path: Path) -> tuple[list[str], Path]:
    """Return the options for a device without a service, and its store."""
    store, config = tmp_path / "store", tmp_path / "edged.yaml"
    config.write_text(
        f"model: {{path: {store}/model/current}}\nsecurity: {{keys: {tmp_path}/keys}}\n"
    )
    return ["--store", str(store), "--config", str(config), "--no-reload"], store


def test_what_loads_and_answers_serves_and_what_does_not_is_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, store = device(tmp_path)
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


class Stopwatch:
    """Measures models as slow as it is told, in place of the child."""

    def __init__(self, *typical_s: float) -> None:
        self._typical_s = iter(typical_s)
        self.num_measured = 0
        self.options: list[tuple[str, ...]] = []

    def __call__(self, _store: object, _id: str, _config: Path, *options: str) -> Measured:
        self.num_measured += 1
        self.options.append(options)
        return Measured("as where it was built", next(self._typical_s))


@pytest.mark.parametrize(
    ("typical_s", "more", "is_installed"),
    [
        ([1, 1, 1.2], [], True),
        # What is slow once, beside the service that answers, is measured again.
        ([4, 1, 4, 1, 1.1], [], True),
        ([4, 1, 4, 1, 4, 1, 4], [], False),
        ([4], ["--slower"], True),
    ],
)
def test_what_is_much_slower_is_not_installed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typical_s: list[float],
    more: list[str],
    is_installed: bool,
) -> None:
    options, store = device(tmp_path)
    write = write_tiny_bundle
    assert main(["model", "install", str(write(tmp_path / "old")), "--unloaded", *options]) == 0
    serving = (store / "model" / "current").resolve()
    new = write(tmp_path / "new")
    (new / "version.json").write_text('{"version": 7}')
    stopwatch = Stopwatch(*typical_s)
    monkeypatch.setattr("edged.commands.candidate._loaded", stopwatch)
    status = main(["model", "install", str(new), *more, *options])
    assert status == (ExitCode.OK if is_installed else ExitCode.CONFIG)
    assert stopwatch.num_measured == len(typical_s)
    # Only what is to serve is asked for its golden answers, and once.
    assert stopwatch.options == [("--golden",), *[()] * (len(typical_s) - 1)]
    assert ((store / "model" / "current").resolve() != serving) is is_installed
    said = capsys.readouterr()
    assert ("25% as fast" in said.err) is not is_installed
    assert len(list((store / "model" / "models").iterdir())) == 1 + is_installed


def test_what_served_before_and_is_too_slow_now_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, store = device(tmp_path)
    old, new = write_tiny_bundle(tmp_path / "old"), write_tiny_bundle(tmp_path / "new")
    (new / "version.json").write_text('{"version": 7}')
    for folder in (old, new):
        assert main(["model", "install", str(folder), "--unloaded", *options]) == 0
    assert main(["model", "commit", *options]) == 0
    (store / "model" / "versions.json").unlink()
    monkeypatch.setattr("edged.commands.candidate._loaded", Stopwatch(*[4, 1] * 3, 4))
    assert main(["model", "install", str(old), *options]) == ExitCode.CONFIG
    assert "25% as fast" in capsys.readouterr().err
    assert len(list((store / "model" / "models").iterdir())) == 2
