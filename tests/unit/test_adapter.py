"""An adapter's files: what is written is read, and nothing of a stranger's is believed."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.bundle.tensor_file import write_tensors
from edged.errors import BundleError, BundleUnavailableError
from edged.specialists.adapter import (
    ARRAYS,
    DESCRIPTION,
    MAX_BYTES,
    AdaptedModel,
    AdapterPart,
    ProductShape,
    adapter_bytes,
    read_adapter,
    write_adapter,
)

MODEL = AdaptedModel("0" * 64, "1" * 64, "int8-w8a8/static/int8")
SHAPE = {"1.mlp.down_proj": ProductShape(inputs=6, inners=1, blocks=2, rank=3, width=4)}


def part(seed: int = 0) -> AdapterPart:
    random = np.random.default_rng(seed)
    return AdapterPart(
        random.integers(-127, 128, (6, 3)).astype(np.int8),
        random.random(3).astype(np.float32),
        random.integers(-127, 128, (2, 3, 4)).astype(np.int8),
        random.random((2, 1, 4)).astype(np.float32),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "home", "home", MODEL, {"1.mlp.down_proj": part()}, 0.005)
    return tmp_path / "home"


def rewrite(folder: Path, arrays: dict[str, Any]) -> None:
    """Exchange the arrays, and the hash with them, as its maker can."""
    data = write_tensors(arrays, {})
    (folder / ARRAYS).write_bytes(data)
    said = json.loads((folder / DESCRIPTION).read_text())
    said["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / DESCRIPTION).write_text(json.dumps(said))


def arrays() -> dict[str, Any]:
    return {f"1.mlp.down_proj.{name}": array for name, array in part().arrays.items()}


def test_what_is_written_is_read(folder: Path) -> None:
    said, adapter = read_adapter(folder, MODEL, SHAPE)
    assert (said.name, said.mean_kl, said.size_bytes) == (
        "home",
        0.005,
        (folder / ARRAYS).stat().st_size,
    )
    (found,) = adapter.parts.values()
    for name, array in part().arrays.items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert adapter.size_bytes == 6 * 3 + 4 * 3 + 2 * 3 * 4 + 4 * 2 * 4
    assert adapter.slot_bytes == 6 * 3 + 4 * 2 * 3 * 4


def test_the_key_is_that_of_the_content(folder: Path, tmp_path: Path) -> None:
    """So what was computed with it before a reload is reused after it."""
    write_adapter(tmp_path / "copy", "other", MODEL, {"1.mlp.down_proj": part()}, 0.0)
    write_adapter(tmp_path / "new", "home", MODEL, {"1.mlp.down_proj": part(1)}, 0.0)
    keys = [
        read_adapter(one, MODEL, SHAPE)[1].key
        for one in (folder, tmp_path / "copy", tmp_path / "new")
    ]
    assert keys[0] == keys[1] != keys[2]


def test_what_runs_has_both_scales(folder: Path) -> None:
    _, adapter = read_adapter(folder, MODEL, SHAPE)
    (one,) = adapter.parts.values()
    target = np.empty((2, 3, 4), np.float32)
    one.write_up(target)
    expected = one.up * one.up_scales * one.down_scales[None, :, None]
    np.testing.assert_allclose(target, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "shape", "problem"),
    [
        (replace(MODEL, source="2" * 64), SHAPE, "made for another model"),
        (replace(MODEL, form="int8-w8a8/dynamic/int8"), SHAPE, "made for another model"),
        (MODEL, {}, "takes no adapters; rebuild it with this version's `edged build`"),
        (MODEL, {"2.mlp.down_proj": SHAPE["1.mlp.down_proj"]}, "no product that this model"),
        (
            MODEL,
            {"1.mlp.down_proj": ProductShape(6, 1, 2, 2, 4)},
            r"down_proj.down is not \(6, 2\) of int8",
        ),
    ],
)
def test_another_models_adapter_is_refused(
    folder: Path, model: AdaptedModel, shape: dict[str, ProductShape], problem: str
) -> None:
    with pytest.raises(BundleError, match=problem):
        read_adapter(folder, model, shape)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"down_scales": np.array([1, np.nan, 1], np.float32)}, "down_scales has numbers that"),
        ({"up_scales": np.full((2, 1, 4), np.inf, np.float32)}, "up_scales has numbers that"),
        ({"up_scales": np.full((2, 1, 4), 1e5, np.float32)}, "larger than 10000"),
        ({"down": np.zeros((6, 3), np.float32)}, r"down is not \(6, 3\) of int8"),
        ({"up": np.zeros((2, 4, 3), np.int8)}, "up is not"),
        ({"more": np.zeros(1, np.int8)}, "and nothing else"),
    ],
)
def test_an_array_that_is_wrong_is_named(
    folder: Path, change: dict[str, Any], problem: str
) -> None:
    changed = {f"1.mlp.down_proj.{name}": array for name, array in change.items()}
    rewrite(folder, arrays() | changed)
    with pytest.raises(BundleError, match=problem):
        read_adapter(folder, MODEL, SHAPE)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 2}, "format 2 is not known"),
        ({"name": "auto"}, "name 'auto' is taken"),
        ({"size_bytes": MAX_BYTES + 1}, "size_bytes is"),
        ({"more": 1}, "more is not a known key"),
        ({"sha256": "0" * 64}, "is not what adapter.json says"),
    ],
)
def test_a_description_that_is_wrong_names_the_key(
    folder: Path, change: dict[str, Any], problem: str
) -> None:
    said = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(said | change))
    with pytest.raises(BundleError, match=problem):
        read_adapter(folder, MODEL, SHAPE)


def test_a_file_that_is_damaged_or_too_long_is_refused(folder: Path) -> None:
    rewrite(folder, {})
    with pytest.raises(BundleError, match="must have down, down_scales, up, up_scales"):
        read_adapter(folder, MODEL, SHAPE)
    (folder / ARRAYS).write_bytes(bytes(MAX_BYTES + 1))
    with pytest.raises(BundleUnavailableError, match=ARRAYS):
        read_adapter(folder, MODEL, SHAPE)
    (folder / ARRAYS).unlink()
    (folder / ARRAYS).symlink_to("/dev/zero")
    with pytest.raises(BundleUnavailableError, match="cannot be read"):
        read_adapter(folder, MODEL, SHAPE)


def test_an_adapter_that_is_too_large_is_not_written(tmp_path: Path) -> None:
    large = replace(part(), down=np.zeros((MAX_BYTES, 1), np.int8))
    assert len(adapter_bytes({"x": large})) > MAX_BYTES
    with pytest.raises(ValueError, match="lower its rank"):
        write_adapter(tmp_path / "large", "large", MODEL, {"x": large}, 0.0)
    assert not (tmp_path / "large").exists()
