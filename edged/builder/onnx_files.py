"""Read an ONNX graph without its weights, and write one with all its weights in one data file.

Rule: the bytes written depend on the graph alone, never on paths, dates or the exporter's notes.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from edged.bundle.manifest import MODEL, MODEL_DATA
from edged.errors import BuildError

# The domain of ONNX Runtime's own operators.
MICROSOFT = "com.microsoft"

# Smaller tensors stay in the graph, where ONNX Runtime reads shapes and axes.
_INLINE_BYTES_MAX = 1024
_PAGE_BYTES = 4096
_LARGE_BYTES = 1 << 20
_SMALL_ALIGNMENT = 64


def read_graph(folder: Path) -> onnx.ModelProto:
    """Load ``model.onnx`` of ``folder``; weights in a data file beside it are left there.

    Raises:
        BuildError: there is no readable graph.
    """
    path = folder / MODEL
    try:
        return onnx.load(path, load_external_data=False)
    except (OSError, ValueError, DecodeError) as error:
        raise BuildError(f"{path}: not a readable ONNX graph ({error})") from error


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> NDArray[np.generic]:
    """Return a tensor's values; those in a data file are mapped, not read.

    Raises:
        BuildError: the data file is outside ``folder`` or too short.
    """
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries["location"]
    if Path(location).name != location:
        raise BuildError(f"{tensor.name}: its data file {location!r} is outside the export")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    try:
        return np.memmap(
            folder / location, dtype, "r", int(entries.get("offset", 0)), tuple(tensor.dims)
        )
    except (OSError, ValueError) as error:
        raise BuildError(f"{tensor.name}: cannot be read from {location} ({error})") from error


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:  # noqa: ANN401 - ONNX's own
    """Return the value of a node's attribute, or ``default``."""
    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default


def write_graph(folder: Path, model: onnx.ModelProto, name: str = MODEL) -> int:
    """Write a graph into ``folder`` and sync it to disk; return its size in bytes."""
    data = model.SerializeToString(deterministic=True)
    with (folder / name).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data)


class GraphWriter:
    """Write the tensors of a new graph to its data file, then the graph.

    A context manager; after an exception the caller deletes the incomplete files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / MODEL_DATA).open("wb")
        self._offsets: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, name: str, values: NDArray[np.generic]) -> onnx.TensorProto:
        """Store ``values`` and return the initializer that refers to them."""
        data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = onnx.TensorProto(name=name, data_type=data_type, dims=values.shape)
        if values.nbytes <= _INLINE_BYTES_MAX:
            tensor.raw_data = values.tobytes()
            return tensor
        view = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        # A table used twice, such as a tied output projection, is stored once.
        digest = hashlib.sha256(view).digest()
        if digest not in self._offsets:
            self._offsets[digest] = self._append(view)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", MODEL_DATA),
            ("offset", str(self._offsets[digest])),
            ("length", str(values.nbytes)),
        ):
            tensor.external_data.add(key=key, value=value)
        return tensor

    def _append(self, view: memoryview) -> int:
        # ONNX Runtime maps a page-aligned tensor instead of reading it.
        alignment = _PAGE_BYTES if len(view) >= _LARGE_BYTES else _SMALL_ALIGNMENT
        self._file.write(bytes(-self._file.tell() % alignment))
        offset = self._file.tell()
        self._file.write(view)
        return offset

    def finish(self, model: onnx.ModelProto, initializers: Iterable[onnx.TensorProto]) -> int:
        """Write ``model`` with these initializers; return the size on disk in bytes."""
        strip(model)
        del model.graph.initializer[:]
        model.graph.initializer.extend(initializers)
        size_bytes = write_graph(self._folder, model) + self._file.tell()
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._file.tell() == 0:
            (self._folder / MODEL_DATA).unlink()
        return size_bytes


def strip(model: onnx.ModelProto) -> None:
    """Remove documentation, metadata and the exporter's shape annotations."""
    model.producer_name = "edged"
    model.producer_version = ""
    model.doc_string = ""
    del model.metadata_props[:]
    model.graph.doc_string = ""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
