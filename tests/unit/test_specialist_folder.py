"""A specialist's folder: what is written is read again, and nothing else is believed."""

import errno
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.bundle.manifest import TOKENIZER, FileEntry
from edged.errors import BundleError, BundleUnavailableError, UsageError
from edged.specialists.decision import decide
from edged.specialists.examples import MAX_NUMBER
from edged.specialists.features import Layout
from edged.specialists.folder import (
    ARRAYS,
    DESCRIPTION,
    BaseModel,
    Specialist,
    read_specialist,
    write_specialist,
)
from edged.specialists.gate_examples import GATE_VIEW, max_gate_examples
from edged.specialists.lesson import taught
from tests.fake_disk import FakeDisk, PowerCutError
from tests.unit.lessons import (
    BASE,
    LAYOUT,
    NUM_LABELS,
    drawn,
    fields_lesson,
    lesson,
    number_lesson,
)
from tests.unit.test_manifest import make_manifest


@pytest.fixture(scope="module")
def made() -> Specialist:
    return taught(lesson(), lambda _: None)


def test_what_was_taught_decides_the_same_after_it_was_read(
    tmp_path: Path, made: Specialist
) -> None:
    write_specialist(tmp_path / "six", made)
    specialist = read_specialist(tmp_path / "six", BASE)
    assert replace(specialist.description, arrays_sha256="") == made.description
    features, labels = drawn(60, seed=2)
    before, after = ([decide(one, row) for row in features] for one in (made, specialist))
    assert [one.choice for one in before] == [one.choice for one in after]
    for one, other in zip(before, after, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=0.01)
    assert np.mean([one.choice for one in after] == labels) > 0.9


def test_a_folder_keeps_examples_of_every_label_for_the_gate(
    tmp_path: Path, made: Specialist, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_specialist(tmp_path, made)
    gate = read_specialist(tmp_path, BASE).gate
    assert gate is not None
    assert gate.features.shape == (60, LAYOUT.hidden_size)
    np.testing.assert_allclose(
        gate.features, LAYOUT.view(lesson().features, GATE_VIEW), rtol=1e-2, atol=1e-2
    )
    assert gate.labels.tolist() == list(range(NUM_LABELS)) * 10
    assert max_gate_examples(Layout(5, 4096)) == 256  # 2 MiB
    monkeypatch.setattr("edged.specialists.gate_examples.MAX_GATE_EXAMPLES", NUM_LABELS)
    grouped = lesson().part(sorted(range(60), key=lambda index: index % NUM_LABELS))
    few = taught(grouped, lambda _: None).gate
    assert few is not None
    assert {tuple(row) for row in few.features} == {
        tuple(row) for row in gate.features[:NUM_LABELS]
    }


def test_info_says_what_can_be_answered(made: Specialist) -> None:
    assert made.info()["labels"] == [f"label {index}" for index in range(NUM_LABELS)]
    fields = taught(fields_lesson(), lambda _: None).info()["fields"]
    assert fields == {"room": ["bath", "hall", None], "state": ["off", "on"]}
    number = taught(number_lesson(), lambda _: None).info()
    assert (number["kind"], number["minimum"], number["maximum"]) == ("number", 0.0, 5.0)


def test_half_the_bytes_are_kept_in_memory_too(tmp_path: Path, made: Specialist) -> None:
    write_specialist(tmp_path, made)
    specialist = read_specialist(tmp_path, BASE)
    assert specialist.heads[0].arrays["projection"].dtype == np.float16
    assert specialist.size_bytes < made.size_bytes
    assert specialist.size_bytes <= (tmp_path / ARRAYS).stat().st_size


def test_a_specialist_of_another_base_is_refused_with_what_to_do(
    tmp_path: Path, made: Specialist
) -> None:
    write_specialist(tmp_path, made)
    for other in (
        replace(BASE, source="c" * 64),
        replace(BASE, tokenizer="c" * 64),
        replace(BASE, form="int8-blockwise/fp32"),
        replace(BASE, features=2),
    ):
        with pytest.raises(BundleError, match=r"another model; teach it again with `edged teach`"):
            read_specialist(tmp_path, other)


def test_a_specialist_of_other_features_is_refused(tmp_path: Path, made: Specialist) -> None:
    write_specialist(tmp_path, made)
    assert read_specialist(tmp_path, BASE, LAYOUT).layout == LAYOUT
    with pytest.raises(BundleError, match=r"the model gives Layout\(num_layers=5, hidden_size=9\)"):
        read_specialist(tmp_path, BASE, Layout(5, 9))


SCALE = {"low": 0, "high": 9, "decimals": 0, "tolerance": 1, "noise": 1, "prior": 1}


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("format", 9, "format 9 is not known"),
        ("name", "../etc", "name must match"),
        ("colour", 1, "colour is not a known key"),
        ("hidden_size", 9, "is not"),
        ("hidden_size", 0, "5 layers of 0 features"),
        ("hidden_size", 1 << 40, "features"),
        ("num_layers", 1, "view names what there is not"),
        ("arrays_sha256", "0" * 64, "is not what specialist.json says"),
        ("heads", [], "heads has 0 entries"),
        ("kind", "fields", "must have a field each"),
        ("kind", "number", "labels has 6 entries"),
        ("kind", "labels", "is not"),
        ("kind", "poem", "must be one of"),
        ("name", "model", "name 'model' is taken"),
        ("escalate", "auto", "escalate 'auto' must be another specialist, or model"),
        ("escalate", "six", "escalate 'six' must be another specialist, or model"),
        ("escalate", "Lamp", "escalate 'Lamp' must be another specialist, or model"),
        ("scale", SCALE, "scale must be there for a number, and only then"),
    ],
)
def test_a_wrong_description_is_refused_by_its_key(
    tmp_path: Path, made: Specialist, key: str, value: object, complaint: str
) -> None:
    write_specialist(tmp_path, made)
    path = tmp_path / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(BundleError, match=complaint):
        read_specialist(tmp_path, BASE)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("labels", ["one"], "labels has 1 entries"),
        ("labels", [f"label {index}" for index in range(600)], "labels has 600 entries"),
        ("labels", ["a", "a", "b", "c", "d", "e"], "labels must be different texts"),
        ("labels", ["a", "", "b", "c", "d", "e"], "labels must be different texts"),
        ("labels", ["a", None, "b", "c", "d", "e"], "and null the last"),
        ("view", [], "view names what there is not"),
        ("view", [[0]], "view names what there is not"),
        ("view", [[9, 0]], "view names what there is not"),
        ("temperature", 0, "temperature must be above 0"),
        ("field", "room", "must have a field each"),
    ],
)
def test_a_wrong_head_is_refused_by_its_key(
    tmp_path: Path, made: Specialist, key: str, value: object, complaint: str
) -> None:
    write_specialist(tmp_path, made)
    path = tmp_path / DESCRIPTION
    tree = json.loads(path.read_text())
    tree["heads"][0][key] = value
    path.write_text(json.dumps(tree))
    with pytest.raises(BundleError, match=complaint):
        read_specialist(tmp_path, BASE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 9},
        {"high": 1e300},
        {"decimals": 99},
        {"tolerance": -1},
        {"noise": 0},
        {"prior": 1e300},
    ],
)
def test_a_scale_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, float]) -> None:
    write_specialist(tmp_path, taught(number_lesson(), lambda _: None))
    path = tmp_path / DESCRIPTION
    tree = json.loads(path.read_text())
    assert read_specialist(tmp_path, BASE).description.scale is not None
    path.write_text(json.dumps(tree | {"scale": tree["scale"] | wrong}))
    with pytest.raises(BundleError, match="scale is none"):
        read_specialist(tmp_path, BASE)


def rewrite(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Exchange an array, and give its right hash."""
    with np.load(folder / ARRAYS) as packed:
        arrays = dict(packed)
    arrays[name] = array
    np.savez(folder / ARRAYS, **arrays)
    digest = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
    path = folder / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {"arrays_sha256": digest}))


LABEL_ARRAYS = ("0.mean", "0.std", "0.projection", "0.offset", "0.label_directions")


@pytest.mark.parametrize("damage", ["nan", "infinite", "shape", "scalar", "type"])
@pytest.mark.parametrize("name", [*LABEL_ARRAYS, "0.weights", "0.known", "gate"])
def test_arrays_that_fit_nothing_are_refused(
    tmp_path: Path, made: Specialist, name: str, damage: str
) -> None:
    is_linear = name in {"0.weights", "0.known"}
    write_specialist(tmp_path, taught(number_lesson(), lambda _: None) if is_linear else made)
    with np.load(tmp_path / ARRAYS) as packed:
        array = np.array(packed[name])
    if damage == "shape":
        array = array[..., :-1] if array.ndim == 1 or name == "gate" else array[:-1]
    elif damage == "scalar":
        array = array.reshape(-1)[0]
    elif damage == "type":
        array = array.astype(np.float64)
    else:
        array.flat[0] = np.nan if damage == "nan" else np.inf
    rewrite(tmp_path, name, array)
    with pytest.raises(BundleError, match=r"finite|is not"):
        read_specialist(tmp_path, BASE)


@pytest.mark.parametrize(
    "labels", [np.zeros(60, np.int64), np.zeros(59, np.int16), np.zeros((60, 1), np.int16)]
)
def test_labels_of_the_gate_that_fit_its_rows_nowhere_are_refused(
    tmp_path: Path, made: Specialist, labels: NDArray[Any]
) -> None:
    write_specialist(tmp_path, made)
    rewrite(tmp_path, "gate_labels", labels)
    with pytest.raises(BundleError, match="gate_labels is not 60 integers of 16 bits"):
        read_specialist(tmp_path, BASE)


@pytest.mark.parametrize("name", ["0.std"])
def test_a_spread_of_nothing_is_refused(tmp_path: Path, made: Specialist, name: str) -> None:
    write_specialist(tmp_path, made)
    with np.load(tmp_path / ARRAYS) as packed:
        array = np.array(packed[name])
    array.flat[0] = 0.0
    rewrite(tmp_path, name, array)
    with pytest.raises(BundleError, match="must be above 0"):
        read_specialist(tmp_path, BASE)


def test_a_gate_of_too_many_examples_is_refused(tmp_path: Path, made: Specialist) -> None:
    write_specialist(tmp_path, made)
    rewrite(tmp_path, "gate", np.zeros((513, LAYOUT.hidden_size), np.float16))
    with pytest.raises(BundleError, match="gate is not at most 512 rows"):
        read_specialist(tmp_path, BASE)


def test_a_base_is_what_every_build_of_it_has_in_common() -> None:
    files = {TOKENIZER: FileEntry(9, "b" * 64), "model.onnx": FileEntry(9, "c" * 64)}
    manifest = make_manifest(files)
    base = BaseModel.of(manifest)
    assert base.tokenizer == "b" * 64
    assert base.source == manifest.source.sha256
    rebuilt = {**files, "model.onnx": FileEntry(10, "d" * 64)}
    assert BaseModel.of(make_manifest(rebuilt)) == base
    assert BaseModel.of(make_manifest({TOKENIZER: FileEntry(9, "e" * 64)})) != base


def test_what_unpacks_to_too_much_is_refused_before_it_is_read(
    tmp_path: Path, made: Specialist, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_specialist(tmp_path, made)
    monkeypatch.setattr("edged.specialists.folder.MAX_ARRAYS_BYTES", 100)
    with pytest.raises(BundleError, match="longer than 100 bytes"):
        read_specialist(tmp_path, BASE)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, zeros=np.zeros(100_000))
    data = buffer.getvalue()
    (tmp_path / ARRAYS).write_bytes(data)
    monkeypatch.setattr("edged.specialists.folder.MAX_ARRAYS_BYTES", len(data))
    path = tmp_path / DESCRIPTION
    digest = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"arrays_sha256": digest}))
    with pytest.raises(BundleError, match="unpacks to more than"):
        read_specialist(tmp_path, BASE)


def test_a_folder_without_its_files_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(BundleUnavailableError, match="cannot be read"):
        read_specialist(tmp_path, BASE)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    given, labels = number_lesson(), drawn(60, seed=1)[1]
    numbers = labels * 4e5 - 1e6
    examples = zip(given.examples, numbers, strict=True)
    answers = [replace(one, answer=float(number)) for one, number in examples]
    made = taught(replace(given, examples=answers), lambda _: None)
    with pytest.raises(UsageError, match=r"weights has numbers .*give numbers in a larger unit"):
        write_specialist(tmp_path / "six", made)
    assert not (tmp_path / "six").exists()


def test_the_numbers_that_may_be_taught_are_those_that_are_read(tmp_path: Path) -> None:
    made = taught(number_lesson(), lambda _: None)
    assert made.description.scale is not None
    scale = replace(made.description.scale, low=-float(MAX_NUMBER), high=float(MAX_NUMBER))
    write_specialist(tmp_path, replace(made, description=replace(made.description, scale=scale)))
    assert read_specialist(tmp_path, BASE).description.scale == scale


def after_a_cut(disk: FakeDisk, folder: Path, to: Path) -> Path:
    """Copy a folder of a disk in memory to where it can be read."""
    for name in disk.names(folder):
        if (content := disk.read(folder / name)) is None:
            after_a_cut(disk, folder / name, to / name)
        else:
            to.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(content)
    return to


def power_cuts(
    monkeypatch: pytest.MonkeyPatch, folder: Path, old: Callable[[], None], new: Callable[[], None]
) -> Iterator[FakeDisk]:
    """Yield the disk after ``new`` was cut before each of its steps."""
    for step in itertools.count():
        for is_kept in (lambda: False, lambda: True):
            disk = FakeDisk()
            monkeypatch.setattr("edged.specialists.replacing.Disk", lambda disk=disk: disk)
            monkeypatch.setattr("edged.specialists.replacing.make_folders", disk.make_folder)
            disk.make_folder(folder)
            old()
            disk.cut(lambda: True)
            disk.steps_left = step
            try:
                new()
            except PowerCutError:
                disk.cut(is_kept)
                yield disk
            else:
                return


def test_a_power_cut_leaves_the_old_specialist_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Specialist
) -> None:
    folder, other = Path("/six"), taught(lesson(seed=2), lambda _: None)
    found: list[str] = []
    for disk in power_cuts(
        monkeypatch,
        folder,
        lambda: write_specialist(folder, made),
        lambda: write_specialist(folder, other),
    ):
        copy = after_a_cut(disk, folder, tmp_path / str(len(found)))
        found.append(read_specialist(copy, BASE).description.arrays_sha256)
    assert len(set(found)) == 2


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have no room for a file of this name."""
    sync, names = os.fsync, {name, f"{name}.new"}

    def refuse(file_fd: int) -> None:
        if Path(f"/proc/self/fd/{file_fd}").readlink().name in names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file_fd)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.parametrize("name", [ARRAYS, DESCRIPTION])
def test_a_full_disk_leaves_the_specialist_that_was_there(
    tmp_path: Path, made: Specialist, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_specialist(tmp_path, made)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    full_disk(monkeypatch, name)
    with pytest.raises(OSError, match="No space left"):
        write_specialist(tmp_path, taught(lesson(seed=3), lambda _: None))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    read_specialist(tmp_path, BASE)
