"""The KV cache: keys and values of earlier positions, one slot for each sequence."""

import mmap

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.engine.signature import CacheArray, Signature


class KeyValueCache:
    """One memory region for all slots of ``capacity`` positions, bound to the graph in place.

    Each layer's keys and values have the shape ``[slot, head, position, size]``.
    """

    def __init__(self, signature: Signature, num_slots: int, capacity: int) -> None:
        self.num_slots = num_slots
        # Anonymous pages cost no memory until a token is written to them.
        self._memory = mmap.mmap(-1, num_slots * capacity * signature.kv_bytes_per_token)
        # A huge page would commit 2 MiB for the first token of each head.
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        shape = (num_slots, signature.num_kv_heads, capacity, signature.head_size)
        buffer: CacheArray = np.frombuffer(self._memory, signature.cache_dtype)
        self._layers = list(buffer.reshape(len(signature.cache_inputs), *shape))
        self._slot_bytes = self._layers[0][0].nbytes

    def views(self, first: int, count: int) -> list[CacheArray]:
        """Return the slots from ``first`` on, for each input of the graph's cache."""
        return [layer[first : first + count] for layer in self._layers]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a slot over those of another."""
        for layer in self._layers:
            layer[target, :, :length] = layer[source, :, :length]

    def read(self, slot: int, length: int) -> NDArray[np.uint8]:
        """Return the bytes of a slot's first ``length`` positions, for ``write``."""
        rows = (np.ascontiguousarray(layer[slot, :, :length]) for layer in self._layers)
        return np.concatenate([part.view(np.uint8).reshape(-1) for part in rows])

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> None:
        """Set a slot's first ``length`` positions to what ``read`` returned for as many."""
        parts = data.reshape(len(self._layers), -1)
        for layer, part in zip(self._layers, parts, strict=True):
            rows = layer[slot, :, :length]
            rows[...] = part.view(layer.dtype).reshape(rows.shape)

    def release(self, slot: int) -> None:
        """Return a slot's pages to the system; its content is undefined afterwards."""
        page = mmap.PAGESIZE
        for layer in range(len(self._layers)):
            start = (layer * self.num_slots + slot) * self._slot_bytes
            first = -(-start // page) * page  # a page shared with a neighbouring slot stays
            length = (start + self._slot_bytes) // page * page - first
            if length > 0:
                self._memory.madvise(mmap.MADV_DONTNEED, first, length)


class GrowingCache:
    """The cache of a portable graph: values that each run replaces by longer ones."""

    def __init__(self, signature: Signature, num_slots: int) -> None:
        self._signature = signature
        self.slots: list[list[onnxruntime.OrtValue]] = [[] for _ in range(num_slots)]
        for slot in range(num_slots):
            self.release(slot)

    def copy(self, source: int, target: int, length: int) -> None:
        """Replace a slot by the first ``length`` positions of another, or of itself."""
        kept = (np.ascontiguousarray(v.numpy()[:, :, :length]) for v in self.slots[source])
        self.slots[target] = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in kept]

    def read(self, slot: int, _length: int) -> NDArray[np.uint8]:
        """Return the bytes of all of a slot's positions, for ``write``."""
        return np.concatenate([v.numpy().view(np.uint8).reshape(-1) for v in self.slots[slot]])

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> None:
        """Replace a slot by ``length`` positions that ``read`` returned."""
        graph = self._signature
        shape = (len(graph.cache_inputs), 1, graph.num_kv_heads, length, graph.head_size)
        parts = data.view(graph.cache_dtype).reshape(shape)
        self.slots[slot] = [onnxruntime.OrtValue.ortvalue_from_numpy(part) for part in parts]

    def release(self, slot: int) -> None:
        """Empty a slot."""
        self.write(slot, 0, np.zeros(0, np.uint8))
