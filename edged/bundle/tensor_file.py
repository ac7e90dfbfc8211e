"""Named arrays in one file, in the format of safetensors: a JSON header, then their bytes.

Adapters come and go in it, PEFT's among them.

Rule: a file may be a stranger's. Every size is compared with the file's before anything is made of
it, nothing is executed, and the arrays are views of the bytes that were read.

Source: "Format" in the documentation of safetensors 0.5.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.bundle.strict_json import read_json

# Of 30 layers with seven adapted projections each: 70 KB.
MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 16_384
_MAX_RANK = 4
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_BRAIN_FLOAT = "BF16"
_TYPES: Mapping[str, Any] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    _BRAIN_FLOAT: np.dtype("<u2"),
    "I8": np.dtype("i1"),
}

Tensors = dict[str, NDArray[Any]]


class TensorFileError(ValueError):
    """A file that is damaged, or of another format; the text names the array, not the file."""


def read_tensors(data: bytes) -> tuple[Tensors, dict[str, str]]:
    """Return the arrays of a file and its metadata; numbers of type bfloat16 become fp32.

    Raises:
        TensorFileError: the file is damaged, or has what is not known here.
    """
    header, start = _read_header(data)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise TensorFileError(f"{_METADATA} must hold strings")
    if len(header) > MAX_TENSORS:
        raise TensorFileError(f"has {len(header)} arrays, more than {MAX_TENSORS}")
    body, end = memoryview(data)[start:], 0
    entries = sorted((_entry(name, said), name) for name, said in header.items())
    tensors = {}
    for (first, last, kind, shape), name in entries:
        # Without a gap, as the format wants: nothing is hidden, and nothing is read twice.
        if first != end:
            raise TensorFileError(f"{name}: data_offsets leave a gap or overlap")
        end = last
        if end > len(body):
            raise TensorFileError(f"{name}: data_offsets go beyond the end of the file")
        array = np.frombuffer(body[first:last], _TYPES[kind]).reshape(shape)
        if kind == _BRAIN_FLOAT:
            array = (array.astype("<u4") << 16).view("<f4")
        tensors[name] = array
    if end != len(body):
        raise TensorFileError("has bytes that belong to no array")
    return tensors, metadata


def write_tensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a file; arrays are of fp32, fp16 or int8."""
    names = {kind: name for name, kind in _TYPES.items()}
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    parts, end = [], 0
    for name, array in sorted(tensors.items()):
        part = np.ascontiguousarray(array).tobytes()
        offsets = [end, end := end + len(part)]
        header[name] = {
            "dtype": names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        parts.append(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return b"".join([len(text).to_bytes(_LENGTH_BYTES, "little"), text, *parts])


def _read_header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header, and where the arrays begin.

    Raises:
        TensorFileError: it is none.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > MAX_HEADER_BYTES or len(data) < start:
        raise TensorFileError("its header is longer than the file, or too long")
    try:
        header = read_json(data[_LENGTH_BYTES:start])
    except (ValueError, RecursionError) as error:
        raise TensorFileError(f"its header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise TensorFileError("its header is not an object")
    return header, start


def _entry(name: str, said: object) -> tuple[int, int, str, tuple[int, ...]]:
    """Return where an array lies, its type and its shape.

    Raises:
        TensorFileError: the header says something else of it.
    """
    if not isinstance(said, dict) or said.keys() != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"{name}: must have dtype, shape and data_offsets")
    kind, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise TensorFileError(f"{name}: dtype {kind!r} is not one of {', '.join(_TYPES)}")
    if not _is_sizes(shape) or len(shape) > _MAX_RANK:
        raise TensorFileError(f"{name}: shape must be {_MAX_RANK} whole numbers at most")
    if not _is_sizes(offsets) or len(offsets) != 2:  # noqa: PLR2004 - begin and end
        raise TensorFileError(f"{name}: data_offsets must be two whole numbers")
    first, last = offsets
    if last - first != math.prod(shape) * _TYPES[kind].itemsize:
        raise TensorFileError(f"{name}: data_offsets do not have the size of the shape")
    return first, last, kind, tuple(shape)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
