"""An adapter's arrays: what is written is read, and nothing of a stranger's is believed."""

from typing import Any

import numpy as np
import pytest

from edged.bundle.tensor_file import write_tensors
from edged.specialists.adapter import AdapterPart, ProductShape, adapter_bytes, read_adapter

SHAPE = {"1.mlp.down_proj": ProductShape(inputs=6, inners=1, blocks=2, rank=3, width=4)}


def part(seed: int = 0) -> AdapterPart:
    random = np.random.default_rng(seed)
    return AdapterPart(
        random.integers(-127, 128, (6, 3)).astype(np.int8),
        random.random(3).astype(np.float32),
        random.integers(-127, 128, (2, 3, 4)).astype(np.int8),
        random.random((2, 1, 4)).astype(np.float32),
    )


def written(seed: int = 0) -> bytes:
    return adapter_bytes({"1.mlp.down_proj": part(seed)})


def arrays() -> dict[str, Any]:
    return {f"1.mlp.down_proj.{name}": array for name, array in part().arrays.items()}


def test_what_is_written_is_read() -> None:
    adapter = read_adapter(written(), SHAPE)
    (found,) = adapter.parts.values()
    for name, array in part().arrays.items():
        np.testing.assert_array_equal(getattr(found, name), array)
    assert adapter.size_bytes == 6 * 3 + 4 * 3 + 2 * 3 * 4 + 4 * 2 * 4
    assert adapter.slot_bytes == 6 * 3 + 4 * 2 * 3 * 4


def test_the_key_is_that_of_the_content() -> None:
    """So what was computed with it before a reload is reused after it."""
    keys = [read_adapter(written(seed), SHAPE).key for seed in (0, 0, 1)]
    assert keys[0] == keys[1] != keys[2]


def test_what_runs_has_both_scales() -> None:
    (one,) = read_adapter(written(), SHAPE).parts.values()
    target = np.empty((2, 3, 4), np.float32)
    one.write_up(target)
    expected = one.up * one.up_scales * one.down_scales[None, :, None]
    np.testing.assert_allclose(target, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"2.mlp.down_proj": SHAPE["1.mlp.down_proj"]}, "no product that this model"),
        (
            {"1.mlp.down_proj": ProductShape(6, 1, 2, 2, 4)},
            r"down_proj.down is not \(6, 2\) of int8",
        ),
    ],
)
def test_another_models_adapter_is_refused(shape: dict[str, ProductShape], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_adapter(written(), shape)


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
def test_an_array_that_is_wrong_is_named(change: dict[str, Any], problem: str) -> None:
    changed = {f"1.mlp.down_proj.{name}": array for name, array in change.items()}
    with pytest.raises(ValueError, match=problem):
        read_adapter(write_tensors(arrays() | changed, {}), SHAPE)


def test_without_arrays_it_is_refused() -> None:
    with pytest.raises(ValueError, match="must have down, down_scales, up, up_scales"):
        read_adapter(write_tensors({}, {}), SHAPE)
