"""The files that an ONNX graph reads its weights from, found without a library that reads graphs.

ONNX Runtime reads external data from whatever path the graph names. So every tensor of the graph is
looked at, wherever one may be: in nested graphs, attributes, functions and sparse tensors.

Rule: strict. What has a second encoding is refused, as is what occurs twice where one value counts,
so that no other reader finds another path. Nothing is copied; time and depth are bounded.

Source: "Encoding" in the documentation of Protocol Buffers; ``onnx.proto`` of ONNX, IR version 13.
"""

import mmap
from collections.abc import Iterator, Mapping

# The messages in which a tensor may be, by the field that holds them; all other fields are skipped.
FIELDS: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},
}
_ENTRY, _KEY, _VALUE = "StringStringEntryProto", 1, 2
_MAX_ENTRY_BYTES = 1024
_MEMBERS = frozenset({b"location", b"offset", b"length", b"checksum"})
# Thirty times those of a model with 30 layers and its prefill branch.
MAX_FIELDS = 1_000_000
# Of messages in messages, as in Google's own library.
MAX_DEPTH = 100
_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
_MAX_NUMBER, _MAX_VARINT_BYTES, _IS_CONTINUED = (1 << 29) - 1, 10, 0x80


class GraphFileError(ValueError):
    """A graph that must not be loaded; the text says why, without the file's name."""


def check_locations(data: bytes | mmap.mmap, location: str) -> None:
    """Check that all external data of a graph (a ``ModelProto``) is in the file ``location``.

    Raises:
        GraphFileError: It is not, or the graph cannot be read without doubt.
    """
    _Reader(data, location).check("ModelProto", 0, len(data), 1)


class _Reader:
    """Read the wire format; every method raises ``GraphFileError`` where it is broken."""

    def __init__(self, data: bytes | mmap.mmap, location: str) -> None:
        self._data = data
        self._location = location
        self._fields_left = MAX_FIELDS

    def check(self, name: str, start: int, end: int, depth: int) -> None:  # of a message
        if depth > MAX_DEPTH:
            raise GraphFileError(f"messages in messages, more than {MAX_DEPTH} deep")
        kinds, entries = FIELDS[name], dict[bytes, bytes]()
        for number, first, last in self.fields(start, end):
            kind = kinds.get(number)
            if kind == _ENTRY:
                key, value = self.entry(first, last)
                if key in entries or key not in _MEMBERS:
                    raise GraphFileError("external data with a key that is unknown or given twice")
                entries[key] = value
            elif kind is not None:
                self.check(kind, first, last, depth + 1)
        if entries and entries.get(b"location") != self._location.encode():
            raise GraphFileError(f"refers to weights outside {self._location}")

    def entry(self, start: int, end: int) -> tuple[bytes, bytes]:
        parts: dict[int, bytes] = {}
        for number, first, last in self.fields(start, end):
            if number not in (_KEY, _VALUE) or number in parts or last - first > _MAX_ENTRY_BYTES:
                raise GraphFileError("external data with more than one key and one value")
            parts[number] = self._data[first:last]
        return parts.get(_KEY, b""), parts.get(_VALUE, b"")

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        # Yields number, start and end of each field with a length, and skips the others.
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise GraphFileError(f"more than {MAX_FIELDS} fields")
            byte = self._data[at]
            tag, at = (byte, at + 1) if byte < _IS_CONTINUED else self.varint(at, end)
            if not 0 < tag >> 3 <= _MAX_NUMBER:
                raise GraphFileError("malformed: an impossible field number")
            size, start = self.size(tag & 7, at, end)
            at = start + size
            if at > end:
                raise GraphFileError("malformed: a value extends beyond its message")
            if tag & 7 == _BYTES:
                yield tag >> 3, start, at

    def size(self, wire_type: int, at: int, end: int) -> tuple[int, int]:  # and its start
        if wire_type == _BYTES:
            return self.varint(at, end)
        if wire_type == _VARINT:
            return 0, self.varint(at, end)[1]
        if wire_type not in _FIXED_BYTES:
            raise GraphFileError("malformed: a group")
        return _FIXED_BYTES[wire_type], at

    def varint(self, at: int, end: int) -> tuple[int, int]:  # a number, and where it ends
        value, shift, limit = 0, 0, min(end, at + _MAX_VARINT_BYTES)
        while at < limit:
            byte = self._data[at]
            at += 1
            if byte < _IS_CONTINUED:
                if not byte and shift:
                    break  # padded: another reader may stop somewhere else
                return value | byte << shift, at
            value |= (byte - _IS_CONTINUED) << shift
            shift += 7
        raise GraphFileError("malformed: a number")
