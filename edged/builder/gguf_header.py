"""Compare every length in the metadata of a .gguf file with the file, before a library reads it.

``GGUFReader`` takes what lies behind the end of a file for an empty value, and makes an object of
each item of an array: a header of 40 bytes would keep it busy for ever, or take all memory.

Source: the specification of GGUF, in the documentation of ggml.
"""

import mmap
from pathlib import Path
from typing import Literal

_PLACE_OF_COUNTS = 8  # behind the magic number and the version
_STRING, _ARRAY = 8, 9
# By type of a value, its bytes.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# Of all arrays together: the largest vocabularies have 262,144 tokens with their types, scores and
# merges.
_MAX_ITEMS = 1 << 22


def check_lengths(path: Path) -> None:
    """Read the lengths of the metadata; takes less than a second.

    Raises:
        ValueError: The file ends before a value does, or holds more than a vocabulary needs.
        OSError: It cannot be read.
    """
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        _Walk(data).run()


class _Walk:
    """A place in the metadata, which goes from value to value."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._place = _PLACE_OF_COUNTS
        self._num_items = 0
        # The version is small, so the byte order is known by it.
        self._order: Literal["little", "big"] = "little" if any(data[4:6]) else "big"

    def run(self) -> None:
        self._number(8)  # of tensors: each takes bytes of the file, as the library reads it
        for _ in range(self._number(8)):
            self._skip(self._number(8))
            self._value(self._number(4))

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._skip(self._number(8))
        elif kind == _ARRAY:
            self._array(self._number(4), self._number(8))
        else:
            self._skip(self._size(kind))

    def _array(self, kind: int, count: int) -> None:
        self._num_items += count
        if self._num_items > _MAX_ITEMS:
            raise ValueError(f"its arrays have more than {_MAX_ITEMS} items")
        if kind != _STRING:
            self._skip(count * self._size(kind))
            return
        for _ in range(count):
            self._skip(self._number(8))

    def _size(self, kind: int) -> int:
        if kind not in _SIZES:
            raise ValueError(f"it has a value of type {kind}, or an array of arrays")
        return _SIZES[kind]

    def _number(self, size: int) -> int:
        begin = self._place
        self._skip(size)
        return int.from_bytes(self._data[begin : self._place], self._order)

    def _skip(self, size: int) -> None:
        self._place += size
        if self._place > len(self._data):
            raise ValueError("it ends in the middle of its metadata")
