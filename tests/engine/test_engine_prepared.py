"""The prepared copy: made once, tried before it is used, and never missed when it is not there."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.bundle.folder import Bundle, open_bundle, write_manifest
from edged.bundle.manifest import ADAPTED_MODEL, GraphKind
from edged.engine import prepared
from edged.engine.loading import load_engine
from edged.engine.prepared import device_key, prepared_model
from edged.engine.session import PREPARED, save_prepared
from edged.engine.steps import EngineSettings, Token
from edged.errors import BundleError
from edged.protocol.request import SamplingParams
from tests.damages import DAMAGES
from tests.tiny_graphs import TinyConfig
from tests.tiny_model import write_tiny_bundle

ROOM = 1 << 30
ALIGNED = TinyConfig(num_heads=2, num_kv_heads=1, head_size=32)
MISALIGNED = TinyConfig(hidden=264)
"""Its norms take 1056 bytes each: kept with the weights, and no multiple of 64."""


@pytest.fixture(autouse=True, scope="module")
def _small_is_enough() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepared, "MIN_WEIGHTS_BYTES", 0)
        yield


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(write_tiny_bundle(tmp_path / "bundle", config=ALIGNED))


def tokens(bundle: Bundle, model_path: Path | None) -> list[int]:
    engine = load_engine(bundle, EngineSettings(64, model_path=model_path))
    steps = engine.generate([3, 4, 5], SamplingParams(), max_tokens=12)
    return [step.token_id for step in steps if isinstance(step, Token)]


def test_the_copy_gives_the_same_tokens(bundle: Bundle, tmp_path: Path) -> None:
    copy = prepared_model(bundle, tmp_path / "copies", ROOM)
    assert copy is not None
    assert tokens(bundle, copy) == tokens(bundle, None)


def test_a_portable_graph_has_one_too(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", fused=False, config=ALIGNED)
    bundle = open_bundle(folder)
    copy = prepared_model(bundle, tmp_path / "copies", ROOM)
    assert copy is not None
    assert tokens(bundle, copy) == tokens(bundle, None)


def test_the_graph_that_takes_adapters_has_one_of_its_own(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of the other one's: nobody runs both."""
    made, make = list[str](), prepared._make

    def note(graph: tuple[Path, GraphKind], *others: Any) -> None:  # noqa: ANN401
        made.append(graph[0].name)
        make(graph, *others)

    monkeypatch.setattr(prepared, "_make", note)
    (bundle.folder / ADAPTED_MODEL).write_bytes(bundle.model_path.read_bytes())
    both, copies = write_manifest(bundle.folder, bundle.manifest), tmp_path / "copies"
    plain = prepared_model(both, copies, ROOM)
    assert plain is not None
    adapted = prepared_model(both, copies, ROOM, is_adapted=True)
    assert adapted is not None
    assert list(copies.iterdir()) == [adapted.parent] != [plain.parent]
    assert made == ["model.onnx", "adapted.onnx"]
    assert tokens(both, adapted) == tokens(both, None)


def test_it_is_made_once(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared_model(bundle, tmp_path / "copies", ROOM)
    monkeypatch.setattr(prepared, "_make", lambda *_: pytest.fail("it was there"))
    assert prepared_model(bundle, tmp_path / "copies", ROOM) == first


def test_a_damaged_copy_is_made_anew(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = prepared_model(bundle, tmp_path / "copies", ROOM)
    assert copy is not None
    data = copy.with_name(copy.name + ".data")
    good = data.read_bytes()
    data.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert prepared_model(bundle, tmp_path / "copies", ROOM) == copy
    assert data.read_bytes() == good
    assert "damaged" in caplog.text


@pytest.mark.parametrize("record", ["", "{}", '{"prepared.onnx": "1-00000000"}'])
def test_a_damaged_record_costs_a_copy_and_no_start(
    bundle: Bundle, tmp_path: Path, record: str
) -> None:
    copy = prepared_model(bundle, tmp_path / "copies", ROOM)
    assert copy is not None
    (copy.parent / "record.json").write_text(record)
    assert prepared_model(bundle, tmp_path / "copies", ROOM) == copy
    assert set(json.loads((copy.parent / "record.json").read_text())) == {
        "prepared.onnx",
        "prepared.onnx.data",
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Path]:
    """A bundle and the folder of its copy."""
    folder = tmp_path_factory.mktemp("made")
    bundle = open_bundle(write_tiny_bundle(folder / "bundle", config=ALIGNED))
    copy = prepared_model(bundle, folder / "copies", ROOM)
    assert copy is not None
    return bundle, copy.parent


@pytest.mark.parametrize("name", ["record.json", PREPARED, f"{PREPARED}.data", ""])
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_in_the_place_of_a_file_the_copy_is_made_anew(
    made: tuple[Bundle, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: str,
) -> None:
    """And a pipe is not waited for, nor a terabyte read."""
    bundle, good = made
    copy = shutil.copytree(good, tmp_path / good.name)

    def make(*_: object) -> None:
        prepared._clear(tmp_path)
        shutil.copytree(good, copy)

    monkeypatch.setattr(prepared, "_make", make)
    DAMAGES[damage](copy / name)
    assert prepared_model(bundle, tmp_path, ROOM) == copy / PREPARED
    for path in good.iterdir():
        assert path.read_bytes() == (copy / path.name).read_bytes()


def test_a_new_model_takes_the_old_ones_place(bundle: Bundle, tmp_path: Path) -> None:
    old = prepared_model(bundle, tmp_path / "copies", ROOM)
    (tmp_path / "copies" / ".partial-of-a-crash").mkdir()
    other = open_bundle(write_tiny_bundle(tmp_path / "other", seed=1, config=ALIGNED))
    new = prepared_model(other, tmp_path / "copies", ROOM)
    assert old is not None
    assert new is not None
    assert [path.name for path in (tmp_path / "copies").iterdir()] == [new.parent.name]
    assert old != new


def test_too_little_memory_costs_the_copy_and_no_start(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A child that is killed for memory takes the service with it (OOMPolicy=stop)."""
    assert prepared_model(bundle, tmp_path / "copies", 64 << 20) is None
    assert "budget.memory" in caplog.text
    assert not (tmp_path / "copies").exists()
    copy = prepared_model(bundle, tmp_path / "copies", ROOM)
    assert prepared_model(bundle, tmp_path / "copies", 0) == copy  # nothing is made, only mapped


def test_a_full_disk_costs_the_copy_and_no_start(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1 << 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert prepared_model(bundle, tmp_path / "copies", ROOM) is None
    assert "MiB of disk are needed" in caplog.text
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_folder_that_cannot_be_made_costs_the_copy_and_no_start(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert prepared_model(bundle, tmp_path / "file" / "copies", ROOM) is None
    (line,) = caplog.messages
    assert "no prepared copy" in line


def test_weights_off_the_kernels_alignment_are_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", config=MISALIGNED))
    assert prepared_model(bundle, tmp_path / "copies", ROOM) is None
    assert "not aligned" in caplog.text
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_child_that_gets_other_tokens_refuses_its_copy(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_bundle(write_tiny_bundle(tmp_path / "other", seed=1, config=ALIGNED))
    monkeypatch.setattr(
        prepared, "save_prepared", lambda _, copy: save_prepared(other.model_path, copy)
    )
    (tmp_path / "copy").mkdir()
    complaint = prepared.main(bundle.model_path, tmp_path / "copy", GraphKind.FUSED)
    assert complaint is not None
    assert "instead of" in complaint


def test_a_child_that_dies_costs_the_copy_and_no_start(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle.model_path.write_bytes(b"not a model")
    assert prepared_model(bundle, tmp_path / "copies", ROOM) is None
    assert "cannot be loaded" in caplog.text


def test_a_small_model_has_none(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "MIN_WEIGHTS_BYTES", 16 << 20)
    assert prepared_model(bundle, tmp_path / "copies", ROOM) is None
    assert not (tmp_path / "copies").exists()


def test_a_copy_belongs_to_one_processor_and_one_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    keys: set[str] = set()
    for flags in ("avx2", "avx2 avx512_vnni"):
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\ncpu MHz\t: {len(keys)}\n")
        keys |= {device_key(sha256, cpuinfo) for sha256 in ("a" * 64, "b" * 64)}
    assert len(keys) == 4
    again = cpuinfo.read_text().replace("MHz\t: 2", "MHz\t: 3")
    cpuinfo.write_text(again)
    assert device_key("a" * 64, cpuinfo) in keys
    assert device_key("a" * 64, tmp_path / "none") not in keys


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be loaded"):
        save_prepared(tmp_path / "model.onnx", tmp_path / PREPARED)
