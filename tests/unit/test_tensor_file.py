"""Named arrays in one file: what goes in comes out, and what is no such file says what is wrong."""

import json
from typing import Any

import numpy as np
import pytest

from edged.bundle.tensor_file import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    TensorFileError,
    Tensors,
    read_tensors,
    write_tensors,
)


def file(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype: Any = "I8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:  # noqa: ANN401
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_what_is_written_is_read() -> None:
    arrays: Tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.array([-127, 127], np.int8),
        "half": np.array([[0.5]], np.float16),
        "none": np.zeros((0, 4), np.float32),
    }
    found, metadata = read_tensors(write_tensors(arrays, {"format": "pt"}))
    assert metadata == {"format": "pt"}
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_brain_floats_become_fp32() -> None:
    bits = (np.array([1.0, -2.5], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    found, _ = read_tensors(file({"x": entry("BF16", (2,), (0, 4))}, bits.tobytes()))
    np.testing.assert_array_equal(found["x"], np.array([1.0, -2.5], np.float32))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "header"),
        ((1 << 63).to_bytes(8, "little"), "header is longer than the file"),
        (file(b" " * (MAX_HEADER_BYTES + 1)), "header is longer than the file, or too long"),
        (file(b"{"), "not valid JSON"),
        (file(b"[" * 100_000), "not valid JSON"),
        (file([]), "not an object"),
        (file(b'{"x":1,"x":2}'), "stands twice"),
        (file({"__metadata__": {"a": 1}}), "__metadata__ must hold strings"),
        (file({"x": 1}), "x: must have dtype, shape and data_offsets"),
        (file({"x": entry("F64")}), "x: dtype 'F64' is not one of F32"),
        (file({"x": entry(["I8"])}), "x: dtype"),
        (file({"x": entry(shape=[-1])}), "x: shape must be"),
        (file({"x": entry(shape=[1] * 5)}), "x: shape must be"),
        (file({"x": entry(shape=[True])}), "x: shape must be"),
        (file({"x": entry(offsets=[0])}), "x: data_offsets must be two"),
        (file({"x": entry(shape=[1 << 62])}), "x: data_offsets do not have the size"),
        (file({"x": entry()}, b"1"), "x: data_offsets go beyond the end"),
        (file({"x": entry(offsets=(1, 3))}, b"123"), "x: data_offsets leave a gap"),
        (file({"x": entry(), "y": entry()}, b"12"), "data_offsets leave a gap or overlap"),
        (file({"x": entry()}, b"123"), "bytes that belong to no array"),
        (
            file({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(MAX_TENSORS + 1)}),
            "arrays, more than",
        ),
    ],
)
def test_what_is_no_such_file_says_why(data: bytes, problem: str) -> None:
    with pytest.raises(TensorFileError, match=problem):
        read_tensors(data)
