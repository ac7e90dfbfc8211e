"""Run an exporter's own graph: the past goes in, the present comes out.

Rule: correct for every family, fast for none.
"""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.engine.fused import check_positions
from edged.engine.signature import read_signature

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
OPTIONAL_INPUTS = {"position_ids": "tensor(int64)"}


class PortableGraph:
    """A graph whose cache grows: outputs of one call are bound as inputs of the next.

    Raises:
        BundleError: the graph's inputs or outputs are not those of a portable graph.
    """

    def __init__(self, session: onnxruntime.InferenceSession, max_model_len: int) -> None:
        self._session = session
        self._signature = read_signature(session, INPUTS, OPTIONAL_INPUTS)
        self._has_positions = any(node.name == "position_ids" for node in session.get_inputs())
        self.vocab_size = self._signature.vocab_size
        self.max_model_len = max_model_len
        self.kv_bytes = max_model_len * self._signature.kv_bytes_per_token
        self._length = 0
        self._past: list[onnxruntime.OrtValue] = []
        self.release()

    def forward(
        self, token_ids: NDArray[np.int64], start: int, *, all_rows: bool = False
    ) -> NDArray[np.float32]:
        """Run tokens at positions [start, start + n); blocks; see ``FusedGraph.forward``.

        Raises:
            ValueError: no tokens, a gap after the current length, or a position past the limit.
        """
        count = len(token_ids)
        check_positions(count, start, self._length, self.max_model_len)
        if start < self._length:
            self._rewind(start)
        binding = self._session.io_binding()
        inputs = {
            "input_ids": np.asarray(token_ids, np.int64)[None, :],
            "attention_mask": np.ones((1, start + count), np.int64),
        }
        if self._has_positions:
            inputs["position_ids"] = np.arange(start, start + count, dtype=np.int64)[None, :]
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._signature.cache_inputs, self._past, strict=True):
            binding.bind_ortvalue_input(name, value)
        logits = np.empty((1, count, self.vocab_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for name in self._signature.cache_outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        self._past = binding.get_outputs()[1:]
        self._length = start + count
        return logits[0] if all_rows else logits[0, -1:]

    def release(self) -> None:
        """Forget all tokens and the memory of their keys and values."""
        shape = (1, self._signature.num_kv_heads, 0, self._signature.head_size)
        empty = np.zeros(shape, np.float32)
        self._past = [
            onnxruntime.OrtValue.ortvalue_from_numpy(empty) for _ in self._signature.cache_inputs
        ]
        self._length = 0

    def _rewind(self, length: int) -> None:
        kept = (np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._past)
        self._past = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in kept]
        self._length = length
