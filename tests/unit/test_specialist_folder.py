"""A specialist's folder: what is written is read again, and nothing else is believed."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.errors import BundleError, BundleUnavailableError
from edged.specialists.decision import decide
from edged.specialists.folder import (
    ARRAYS,
    DESCRIPTION,
    FORMAT,
    BaseModel,
    Description,
    HeadDescription,
    Result,
    TaughtHead,
    read_specialist,
    write_specialist,
)
from edged.specialists.head import Head
from edged.specialists.training import teach
from tests.unit.test_heads import LAYOUT, NUM_LABELS, drawn, examples

BASE = BaseModel("a" * 64, "b" * 64, "int8-w8a8/int8", 1)


@pytest.fixture(scope="module")
def made() -> tuple[Description, TaughtHead]:
    taught = teach(examples(), LAYOUT, lambda _: None, seed=0)
    labels = tuple(f"label {index}" for index in range(NUM_LABELS))
    head = HeadDescription(None, labels, taught.view, taught.head.temperature, 0.5, 0.1)
    result = Result(0.9, 0.8, 0.95, 0.02, 60)
    sizes = LAYOUT.num_layers, LAYOUT.hidden_size
    description = Description(FORMAT, "six", BASE, *sizes, (head,), result, "")
    return description, TaughtHead(head, taught.scaler, taught.head)


def test_what_was_taught_decides_the_same_after_it_was_read(
    tmp_path: Path, made: tuple[Description, TaughtHead]
) -> None:
    description, taught = made
    write_specialist(tmp_path / "six", description, [taught])
    specialist = read_specialist(tmp_path / "six", BASE)
    assert replace(specialist.description, arrays_sha256="") == description
    (head,) = specialist.heads
    features, labels = drawn(60, seed=2)
    for row in features:
        before, after = (decide(one, LAYOUT, row) for one in (taught, head))
        assert before.choice == after.choice
        np.testing.assert_allclose(before.probabilities, after.probabilities, atol=0.01)
    choices = [decide(head, LAYOUT, row).choice for row in features]
    assert np.mean(choices == labels) > 0.9


def test_below_either_threshold_it_is_unsure(made: tuple[Description, TaughtHead]) -> None:
    _, taught = made
    row = drawn(1, seed=2)[0][0]
    assert not decide(taught, LAYOUT, row).is_unsure
    said = taught.description
    for strictly in (replace(said, unsure_below=1.1), replace(said, unfamiliar_below=1.1)):
        strict = replace(taught, description=strictly)
        assert decide(strict, LAYOUT, row).is_unsure


def test_a_specialist_of_another_base_is_refused_with_what_to_do(
    tmp_path: Path, made: tuple[Description, TaughtHead]
) -> None:
    write_specialist(tmp_path, made[0], [made[1]])
    for other in (
        replace(BASE, source="c" * 64),
        replace(BASE, tokenizer="c" * 64),
        replace(BASE, form="int8-blockwise/fp32"),
        replace(BASE, features=2),
    ):
        with pytest.raises(BundleError, match=r"another model; teach it again with `edged teach`"):
            read_specialist(tmp_path, other)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("format", 9, "format 9 is not known"),
        ("name", "../etc", "name must match"),
        ("colour", 1, "colour is not a known key"),
        ("hidden_size", 9, "is not"),
        ("num_layers", 1, "view names what there is not"),
        ("arrays_sha256", "0" * 64, "is not what specialist.json says"),
        ("heads", [], None),
    ],
)
def test_a_wrong_description_is_refused_by_its_key(
    tmp_path: Path,
    made: tuple[Description, TaughtHead],
    key: str,
    value: object,
    complaint: str | None,
) -> None:
    write_specialist(tmp_path, made[0], [made[1]])
    path = tmp_path / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    if complaint is None:
        assert read_specialist(tmp_path, BASE).heads == ()
        return
    with pytest.raises(BundleError, match=complaint):
        read_specialist(tmp_path, BASE)


def rewrite(
    folder: Path, made: tuple[Description, TaughtHead], name: str, array: NDArray[np.float32]
) -> None:
    """Write the folder with another array, and its right hash."""
    description, taught = made
    head, scaler = taught.head, taught.scaler
    if name == "std":
        scaler = replace(scaler, std=array)
    else:
        arrays = {"offset": head.offset, "means": head.means, "variances": head.variances}
        head = Head(head.projection, **(arrays | {name: array}), temperature=head.temperature)
    write_specialist(folder, description, [TaughtHead(taught.description, scaler, head)])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            (name, damage)
            for name in ("means", "variances", "offset", "std")
            for damage in ("nan", "shape")
        ),
        ("variances", "zero"),
        ("std", "zero"),
    ],
)
def test_arrays_that_fit_nothing_are_refused(
    tmp_path: Path, made: tuple[Description, TaughtHead], name: str, damage: str
) -> None:
    source = made[1].scaler if name == "std" else made[1].head
    array = np.array(getattr(source, name))
    if damage == "nan":
        array.flat[0] = np.nan
    elif damage == "shape":
        array = array[..., :-1]
    else:
        array.flat[0] = 0.0
    rewrite(tmp_path, made, name, array)
    with pytest.raises(BundleError, match=r"finite numbers|not above 0"):
        read_specialist(tmp_path, BASE)


def test_what_unpacks_to_too_much_is_refused_before_it_is_read(
    tmp_path: Path, made: tuple[Description, TaughtHead], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_specialist(tmp_path, made[0], [made[1]])
    monkeypatch.setattr("edged.specialists.folder.MAX_ARRAYS_BYTES", 100)
    with pytest.raises(BundleError, match="larger than 100 bytes"):
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
