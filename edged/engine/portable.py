"""Run the exporter's own graph, for families that the builder cannot fuse.

It is correct for every family and slower than a fused graph: the past is an input, and each run
returns all of it with the new positions.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edged.engine.cache import GrowingCache
from edged.engine.graph import Graph
from edged.engine.steps import DecodeInput


class PortableGraph(Graph):
    """A graph whose cache grows: outputs of one call are bound as inputs of the next."""

    required_inputs: ClassVar = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
    optional_inputs: ClassVar = {"position_ids": "tensor(int64)"}
    _cache: GrowingCache

    def _allocate(self) -> None:
        self._cache = GrowingCache(self._signature, self.num_slots)

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,  # noqa: ARG002 - it has one branch only
    ) -> NDArray[np.float32]:
        """Run tokens of one sequence; see ``Graph.forward``."""
        count = len(token_ids)
        self._check_positions(count, start, slot)
        if start < self._lengths[slot]:
            self.copy(slot, slot, start)
        binding = self._session.io_binding()
        inputs = {
            "input_ids": np.asarray(token_ids, np.int64)[None, :],
            "attention_mask": np.ones((1, start + count), np.int64),
        }
        if self._signature.optional_inputs:
            inputs["position_ids"] = np.arange(start, start + count, dtype=np.int64)[None, :]
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        past = self._cache.slots[slot]
        for name, value in zip(self._signature.cache_inputs, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        logits = np.empty((1, count, self.vocab_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for name in self._signature.cache_outputs:
            # Without a buffer of ours: ONNX Runtime allocates the longer cache.
            binding.bind_output(name)
        self._run(binding)
        self._cache.slots[slot] = binding.get_outputs()[1:]
        self._lengths[slot] = start + count
        return logits[0] if all_rows else logits[0, -1:]

    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        """Run the next tokens of several sequences, one after the other; see ``Graph.decode``."""
        return [
            self.forward(np.array([one.token_id, *one.following]), one.position, slot=one.slot)[0]
            for one in inputs
        ]
