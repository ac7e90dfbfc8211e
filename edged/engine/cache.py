"""The memory of keys and values: one region, divided into slots of one sequence each.

Rule: mapped once and bound where it lies. Pages that no token has touched cost no memory, and a
slot that is given up gives its pages back.
"""

import mmap

import numpy as np
from numpy.typing import NDArray

from edged.engine.signature import CacheArray, Signature


class KeyValueCache:
    """Keys and values of ``num_slots`` sequences, in each layer ``[slot, head, position, size]``.

    Args:
        signature: what the graph wants.
        num_slots: sequences.
        capacity: positions of each.
    """

    def __init__(self, signature: Signature, num_slots: int, capacity: int) -> None:
        self.num_slots = num_slots
        self._memory = mmap.mmap(-1, num_slots * capacity * signature.kv_bytes_per_token)
        # A huge page would commit 2 MiB for the first token of each head.
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        shape = (num_slots, signature.num_kv_heads, capacity, signature.head_size)
        buffer: CacheArray = np.frombuffer(self._memory, signature.cache_dtype)
        self._layers = list(buffer.reshape(len(signature.cache_inputs), *shape))
        self._slot_bytes = self._layers[0][0].nbytes

    def views(self, first: int, count: int) -> list[CacheArray]:
        """Return the slots from ``first`` on of each layer's keys and values, in their order."""
        return [layer[first : first + count] for layer in self._layers]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a slot over those of another."""
        for layer in self._layers:
            layer[target, :, :length] = layer[source, :, :length]

    def read(self, slot: int, length: int) -> NDArray[np.uint8]:
        """Return the bytes of a slot's first ``length`` positions, for ``write``."""
        rows = [
            np.ascontiguousarray(layer[slot, :, :length]).view(np.uint8) for layer in self._layers
        ]
        return np.concatenate([part.reshape(-1) for part in rows])

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> None:
        """Set a slot's first ``length`` positions to what ``read`` gave for as many."""
        parts = data.reshape(len(self._layers), -1)
        for layer, part in zip(self._layers, parts, strict=True):
            rows = layer[slot, :, :length]
            rows[...] = part.view(layer.dtype).reshape(rows.shape)

    def give_back(self, slot: int) -> None:
        """Give a slot's memory to the system; what it held reads as zeros, or as before."""
        page = mmap.PAGESIZE
        for layer in range(len(self._layers)):
            start = (layer * self.num_slots + slot) * self._slot_bytes
            first = -(-start // page) * page  # a page shared with a neighbour stays
            length = (start + self._slot_bytes) // page * page - first
            if length > 0:
                self._memory.madvise(mmap.MADV_DONTNEED, first, length)
