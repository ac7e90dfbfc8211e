"""Run a fused graph: the cache is bound once and updated in place.

Rule: a decode step allocates nothing of ours.
"""

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.engine.signature import Signature, read_signature

INPUTS = {
    "input_ids": "tensor(int64)",
    "seqlens_k": "tensor(int32)",
    "total_sequence_length": "tensor(int32)",
    "rows": "tensor(int64)",
}


@dataclass(frozen=True, slots=True)
class _Step:
    """The inputs and outputs of one shape, bound once."""

    binding: onnxruntime.IOBinding
    input_ids: NDArray[np.int64]
    logits: NDArray[np.float32]
    rows: NDArray[np.int64]


class FusedGraph:
    """A graph with grouped attention over a cache that it updates in place.

    Keys and values of earlier positions stay, so a start before the current length is a rewind.

    Raises:
        BundleError: the graph's inputs or outputs are not those of a fused graph.
    """

    def __init__(self, session: onnxruntime.InferenceSession, max_model_len: int) -> None:
        self._session = session
        self._signature = read_signature(session, INPUTS, {})
        self.vocab_size = self._signature.vocab_size
        self.max_model_len = max_model_len
        self.kv_bytes = max_model_len * self._signature.kv_bytes_per_token
        self._memory, self._cache = _allocate_cache(self._signature, max_model_len)
        self._seqlens = np.zeros(1, np.int32)
        self._total = np.zeros((), np.int32)
        self._length = 0
        self._decode = self._bind(1, num_rows=1)
        self._prefill = self._decode

    def forward(
        self, token_ids: NDArray[np.int64], start: int, *, all_rows: bool = False
    ) -> NDArray[np.float32]:
        """Run tokens at positions [start, start + n); blocks.

        Returns:
            Logits ``[1, vocabulary]`` of the last token, or ``[n, vocabulary]`` of all; the view
            is valid, and the caller's to write, until the next call.

        Raises:
            ValueError: no tokens, a gap after the current length, or a position past the limit.
        """
        check_positions(len(token_ids), start, self._length, self.max_model_len)
        count = len(token_ids)
        step = self._step(count, count if all_rows else 1)
        step.input_ids[0] = token_ids
        self._seqlens[0] = start + count - 1
        self._total[()] = start + count
        self._length = start
        self._session.run_with_iobinding(step.binding)
        self._length = start + count
        logits: NDArray[np.float32] = step.logits[0]
        return logits

    def release(self) -> None:
        """Forget all tokens and give the cache's memory back to the system."""
        self._length = 0
        self._memory.madvise(mmap.MADV_DONTNEED)

    def _step(self, count: int, num_rows: int) -> _Step:
        if count == 1:
            return self._decode
        step = self._prefill
        if (step.input_ids.size, step.rows.size) != (count, num_rows):
            step = self._prefill = self._bind(count, num_rows)
        return step

    def _bind(self, count: int, num_rows: int) -> _Step:
        step = _Step(
            binding=self._session.io_binding(),
            input_ids=np.zeros((1, count), np.int64),
            logits=np.zeros((1, num_rows, self.vocab_size), np.float32),
            rows=np.arange(count - num_rows, count, dtype=np.int64),
        )
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": step.input_ids,
            "seqlens_k": self._seqlens,
            "total_sequence_length": self._total,
            "rows": step.rows,
            **dict(zip(self._signature.cache_inputs, self._cache, strict=True)),
        }
        outputs: dict[str, NDArray[Any]] = {
            "logits": step.logits,
            **dict(zip(self._signature.cache_outputs, self._cache, strict=True)),
        }
        for name, array in inputs.items():
            step.binding.bind_input(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        for name, array in outputs.items():
            step.binding.bind_output(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        return step


def check_positions(count: int, start: int, length: int, max_model_len: int) -> None:
    """Refuse tokens that cannot stand at [start, start + count).

    Raises:
        ValueError: no tokens, a gap after the current length, or a position past the limit.
    """
    if count < 1:
        raise ValueError("no tokens to run")
    if not 0 <= start <= length:
        raise ValueError(f"start {start} leaves a gap after {length} known tokens")
    if start + count > max_model_len:
        raise ValueError(f"position {start + count} is past max_model_len {max_model_len}")


def _allocate_cache(signature: Signature, capacity: int) -> tuple[mmap.mmap, list[NDArray[Any]]]:
    """Map one zeroed region, so that pages no token has touched cost no memory."""
    shape = (1, signature.num_kv_heads, capacity, signature.head_size)
    memory = mmap.mmap(-1, capacity * signature.kv_bytes_per_token)
    # A huge page would commit 2 MiB for the first token of each head.
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    buffer = np.frombuffer(memory, signature.cache_type).reshape(
        len(signature.cache_inputs), *shape
    )
    return memory, list(buffer)
