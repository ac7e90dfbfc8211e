"""The bytes of weights that one decode step reads, computed from the graph.

Every initializer is read once per step, except lookup tables: of the embedding table and the rotary
caches only one row is read. Keys and values are not counted.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

_ROW_READERS = {"Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding"}


def weight_bytes_per_token(model_path: Path) -> int:
    """Return the bytes of weights that a decode step of one token reads.

    Raises:
        ValueError: The file has no weights.
    """
    import onnx  # noqa: PLC0415 - of the builder: only a comparison needs it

    graph = onnx.load(model_path, load_external_data=False).graph
    if not graph.initializer:
        raise ValueError(f"{model_path}: no weights in it")
    readers: dict[str, set[str]] = defaultdict(set)
    _note_readers(graph, readers)
    return sum(_bytes_read(tensor, readers[tensor.name]) for tensor in graph.initializer)


def _note_readers(graph: Any, readers: dict[str, set[str]]) -> None:  # noqa: ANN401 - onnx is untyped
    """Note which operators read each tensor; of an ``If`` only the decode branch."""
    for node in graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
        for attribute in node.attribute:
            if attribute.name == "else_branch":
                _note_readers(attribute.g, readers)


def _bytes_read(tensor: Any, readers: set[str]) -> int:  # noqa: ANN401 - onnx is untyped
    if not readers:
        return 0
    places = {entry.key: entry.value for entry in tensor.external_data}
    size_bytes = int(places.get("length", len(tensor.raw_data)))
    if readers <= _ROW_READERS and tensor.dims:
        return size_bytes // max(1, int(tensor.dims[0]))
    return size_bytes
