"""Run a fused graph: grouped attention over a cache that is bound once and updated in place.

Rule: a decode step allocates no memory in Python code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.engine.cache import KeyValueCache
from edged.engine.graph import Graph
from edged.engine.steps import DecodeInput

# The input that selects the prefill or the decode branch; a graph with an fp32 cache has none.
IS_PROMPT = "is_prompt"
# Shapes of at most so many tokens recur: their bindings are kept and share one logits buffer.
_MAX_KEPT_TOKENS = 16

# First slot, slots, tokens of each, rows of logits of each.
_Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _BoundArrays:
    """The inputs and outputs of one shape, bound once."""

    binding: onnxruntime.IOBinding
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    """``seqlens_k``: for each slot its tokens after the run, with the spare row, minus 1."""
    total: NDArray[np.int32]
    counts: NDArray[np.int32]
    """``query_seqlens``: for each slot its tokens in this run, with the spare row; 0 for none."""
    rows: NDArray[np.int64]
    is_prefill: NDArray[np.bool_]
    logits: Sequence[NDArray[np.float32]]
    """For each slot the requested rows, ``[rows, vocabulary]``."""


class FusedGraph(Graph):
    """A graph with grouped attention over a cache that it updates in place."""

    required_inputs: ClassVar = {
        "input_ids": "tensor(int64)",
        "seqlens_k": "tensor(int32)",
        "total_sequence_length": "tensor(int32)",
        "query_seqlens": "tensor(int32)",
        "rows": "tensor(int64)",
    }
    optional_input: ClassVar = (IS_PROMPT, "tensor(bool)")
    _cache: KeyValueCache

    def _allocate(self) -> None:
        self._logits = np.zeros((_MAX_KEPT_TOKENS, self.vocab_size), np.float32)
        self._kept: dict[_Shape, _BoundArrays] = {}
        self._last: tuple[_Shape, _BoundArrays] | None = None
        # With an fp32 cache the graph runs a spare row after each sequence's tokens, so its counts
        # are one higher and a slot has one position more (builder/fuse/attention_nodes says why).
        self._spare = int(self._signature.cache_dtype == np.float32)
        capacity = self.max_model_len + self._spare
        self._cache = KeyValueCache(self._signature, self.num_slots, capacity)

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        """Run tokens of one sequence; see ``Graph.forward``."""
        count = len(token_ids)
        self._check_positions(count, start, slot)
        arrays = self._arrays((slot, 1, count, count if all_rows else 1))
        arrays.input_ids[0] = token_ids
        arrays.lengths[0] = start + count - 1 + self._spare
        arrays.counts[0] = count + self._spare
        arrays.total[()] = start + count + self._spare
        arrays.is_prefill[()] = is_prefill
        # An interrupted run leaves a cache that is valid up to its start only.
        self._lengths[slot] = start
        self._run(arrays.binding)
        self._lengths[slot] = start + count
        return arrays.logits[0]

    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        """Run one token of each of several sequences in one run; see ``Graph.decode``.

        The logits of one input do not depend on the others. Slots between those of the inputs keep
        their content.
        """
        for one in inputs:
            self._check_positions(1, one.position, one.slot)
        slots = [one.slot for one in inputs]
        first, width = min(slots), max(slots) - min(slots) + 1
        arrays = self._arrays((first, width, 1, 1))
        arrays.is_prefill[()] = False
        # Number by number: numpy's functions for many take longer, as a run's weights have replaced
        # their code in the processor's caches.
        lengths = [max(n - 1, 0) for n in self._lengths[first : first + width]]
        for index in range(width):
            arrays.counts[index] = 0
        for one in inputs:
            index = one.slot - first
            arrays.input_ids[index, 0] = one.token_id
            self._lengths[one.slot] = one.position
            lengths[index] = one.position + self._spare
            arrays.counts[index] = 1 + self._spare
        for index, length in enumerate(lengths):
            arrays.lengths[index] = length
        arrays.total[()] = max(lengths) + 1
        self._run_to_end(arrays.binding)
        for one in inputs:
            self._lengths[one.slot] = one.position + 1
        return [arrays.logits[slot - first][0] for slot in slots]

    def _arrays(self, shape: _Shape) -> _BoundArrays:
        if shape[1] * shape[2] <= _MAX_KEPT_TOKENS:
            if shape not in self._kept:
                self._kept[shape] = self._bind(*shape)
            return self._kept[shape]
        # The full chunks of a prompt have one shape; a second one is not worth its memory.
        if self._last is None or self._last[0] != shape:
            self._last = shape, self._bind(*shape)
        return self._last[1]

    def _bind(self, first: int, width: int, count: int, num_rows: int) -> _BoundArrays:
        size = width * num_rows
        is_kept = size <= _MAX_KEPT_TOKENS
        buffer = self._logits[:size] if is_kept else np.zeros((size, self.vocab_size), np.float32)
        logits = buffer.reshape(width, num_rows, -1)
        arrays = _BoundArrays(
            binding=self._session.io_binding(),
            input_ids=np.zeros((width, count), np.int64),
            lengths=np.zeros(width, np.int32),
            total=np.zeros((), np.int32),
            counts=np.zeros(width, np.int32),
            rows=np.arange(count - num_rows, count, dtype=np.int64),
            is_prefill=np.zeros((), np.bool_),
            logits=list(logits),
        )
        cache = self._cache.views(first, width)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": arrays.input_ids,
            "seqlens_k": arrays.lengths,
            "total_sequence_length": arrays.total,
            "query_seqlens": arrays.counts,
            "rows": arrays.rows,
            **dict(zip(self._signature.cache_inputs, cache, strict=True)),
        }
        if self._has_optional_input:
            inputs[IS_PROMPT] = arrays.is_prefill
        outputs: dict[str, NDArray[Any]] = {
            "logits": logits,
            **dict(zip(self._signature.cache_outputs, cache, strict=True)),
        }
        for bind, bound in (
            (arrays.binding.bind_input, inputs),
            (arrays.binding.bind_output, outputs),
        ):
            for name, array in bound.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return arrays
