"""How many bytes of weights one decode step must read, from the graph alone.

Every initializer is read once a step, whole, except those that are looked up by position: of an
embedding table and of the rotary caches one row is read. Keys and values are not counted: they
grow with the context, and the figure is that of the weights.

Rule: reads the few fields of the ONNX format that it needs; the device has no onnx package.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ROW_READERS = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}

# Field numbers of onnx.proto; the wire format is Protocol Buffers' own.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OP_TYPE, _NODE_ATTRIBUTE = 1, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_GRAPH = 1, 6
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_RAW_DATA, _TENSOR_EXTERNAL = 1, 8, 9, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    size_bytes: int = 0
    dims: list[int] = field(default_factory=list)


def weight_bytes_per_token(model_path: Path) -> int:
    """Return the bytes of weights that a decode step of one token reads.

    Raises:
        ValueError: the file is not an ONNX model.
    """
    readers: dict[str, set[str]] = {}
    tensors: list[_Tensor] = []
    for graph in _messages(memoryview(model_path.read_bytes()), _MODEL_GRAPH):
        _note_readers(graph, readers)
        tensors += [_read_tensor(tensor) for tensor in _messages(graph, _GRAPH_INITIALIZER)]
    if not tensors:  # nor is an empty file a model
        raise ValueError(f"{model_path}: no weights in it; not an ONNX model")
    return sum(_bytes_read(tensor, readers.get(tensor.name, set())) for tensor in tensors)


def _note_readers(graph: memoryview, readers: dict[str, set[str]]) -> None:
    """Note which operators read each tensor; a choice's are those of its way for an answer."""
    for node in _messages(graph, _GRAPH_NODE):
        op_type = "".join(_texts(node, _NODE_OP_TYPE))
        for name in _texts(node, _NODE_INPUT):
            readers.setdefault(name, set()).add(op_type)
        for attribute in _messages(node, _NODE_ATTRIBUTE):
            if "else_branch" in _texts(attribute, _ATTRIBUTE_NAME):
                for branch in _messages(attribute, _ATTRIBUTE_GRAPH):
                    _note_readers(branch, readers)


def _bytes_read(tensor: _Tensor, readers: set[str]) -> int:
    if not readers:
        return 0
    if readers <= _ROW_READERS and tensor.dims:
        return tensor.size_bytes // max(1, tensor.dims[0])
    return tensor.size_bytes


def _read_tensor(data: memoryview) -> _Tensor:
    tensor = _Tensor()
    for number, value in _fields(data):
        if number == _TENSOR_NAME and isinstance(value, memoryview):
            tensor.name = str(value, "utf-8")
        elif number == _TENSOR_RAW_DATA and isinstance(value, memoryview):
            tensor.size_bytes = len(value)
        elif number == _TENSOR_DIMS:
            tensor.dims += [value] if isinstance(value, int) else _varints(value)
        elif number == _TENSOR_EXTERNAL and isinstance(value, memoryview):
            key, text = "".join(_texts(value, _ENTRY_KEY)), "".join(_texts(value, _ENTRY_VALUE))
            tensor.size_bytes = int(text) if key == "length" else tensor.size_bytes
    return tensor


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _texts(data: memoryview, wanted: int) -> list[str]:
    return [str(value, "utf-8") for value in _messages(data, wanted)]


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field; a message, text or packed list is a view.

    Raises:
        ValueError: not Protocol Buffers.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if kind == _LENGTH:
            size, position = _varint(data, position)
            yield number, data[position : position + size]
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"not an ONNX model: wire type {kind}")
        position += size


def _varints(data: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it.

    Raises:
        ValueError: the data ends within it.
    """
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte has its top bit clear
            return value, position
        shift += 7
    raise ValueError("not an ONNX model: it ends within a number")
