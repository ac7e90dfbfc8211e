"""Run an exporter's own graph: the past goes in, the present comes out.

Rule: correct for every family, fast for none.
"""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.bundle.manifest import ModelFacts
from edged.engine.fused import Runs, check_positions
from edged.engine.signature import check_facts, read_signature
from edged.engine.steps import Row

INPUTS = {"input_ids": "tensor(int64)", "attention_mask": "tensor(int64)"}
OPTIONAL_INPUTS = {"position_ids": "tensor(int64)"}


class PortableGraph:
    """A graph whose cache grows: outputs of one call are bound as inputs of the next.

    Args:
        session: the loaded model.
        max_model_len: positions of each sequence.
        num_slots: sequences that are kept; they are run one after the other.
        facts: what the manifest says of it; None does not compare.

    Raises:
        BundleError: the graph's inputs or outputs are not those of a portable graph, or not what
            the manifest says.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        max_model_len: int,
        num_slots: int = 1,
        facts: ModelFacts | None = None,
    ) -> None:
        self._session = session
        self._runs = Runs(session)
        self._signature = read_signature(session, INPUTS, OPTIONAL_INPUTS)
        if facts is not None:
            check_facts(self._signature, facts)
        self._has_positions = any(node.name == "position_ids" for node in session.get_inputs())
        self.vocab_size = self._signature.vocab_size
        self.max_model_len = max_model_len
        self.num_slots = num_slots
        self.kv_bytes = num_slots * max_model_len * self._signature.kv_bytes_per_token
        self._lengths = [0] * num_slots
        self._past: list[list[onnxruntime.OrtValue]] = [[] for _ in range(num_slots)]
        for slot in range(num_slots):
            self.release(slot)

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prompt: bool = True,  # noqa: ARG002 - it has one way only
    ) -> NDArray[np.float32]:
        """Run tokens at positions [start, start + n); blocks; see ``FusedGraph.forward``.

        Raises:
            ValueError: no tokens, a gap after the current length, or a position past the limit.
            InterruptedRunError: ``interrupt`` was called meanwhile.
        """
        count = len(token_ids)
        check_positions(count, start, self._lengths[slot], self.max_model_len)
        if start < self._lengths[slot]:
            self._cut(slot, slot, start)
        binding = self._session.io_binding()
        inputs = {
            "input_ids": np.asarray(token_ids, np.int64)[None, :],
            "attention_mask": np.ones((1, start + count), np.int64),
        }
        if self._has_positions:
            inputs["position_ids"] = np.arange(start, start + count, dtype=np.int64)[None, :]
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._signature.cache_inputs, self._past[slot], strict=True):
            binding.bind_ortvalue_input(name, value)
        logits = np.empty((1, count, self.vocab_size), np.float32)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        for name in self._signature.cache_outputs:
            binding.bind_output(name)
        self._runs.run(binding)
        self._past[slot] = binding.get_outputs()[1:]
        self._lengths[slot] = start + count
        return logits[0] if all_rows else logits[0, -1:]

    def decode(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Run one token of each of several sequences, one after the other; blocks.

        See ``FusedGraph.decode``.

        Raises:
            ValueError: a gap after a sequence's current length, or a position past the limit.
            InterruptedRunError: ``interrupt`` was called meanwhile.
        """
        return [
            self.forward(np.array([row.token_id]), row.position, slot=row.slot)[0] for row in rows
        ]

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot begin with the first ``length`` tokens of another."""
        self._cut(source, target, length)

    def release(self, slot: int = 0) -> None:
        """Forget the tokens of a slot and the memory of their keys and values."""
        shape = (1, self._signature.num_kv_heads, 0, self._signature.head_size)
        empty = np.zeros(shape, self._signature.cache_dtype)
        self._past[slot] = [
            onnxruntime.OrtValue.ortvalue_from_numpy(empty) for _ in self._signature.cache_inputs
        ]
        self._lengths[slot] = 0

    def read(self, slot: int) -> NDArray[np.uint8]:
        """Return the keys and values of a slot's tokens as bytes, for ``write``."""
        return np.concatenate(
            [value.numpy().view(np.uint8).reshape(-1) for value in self._past[slot]]
        )

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> bool:
        """Set a slot's first ``length`` tokens; return whether ``data`` fits them."""
        signature = self._signature
        if len(data) != length * signature.kv_bytes_per_token:
            return False
        shape = (1, signature.num_kv_heads, length, signature.head_size)
        parts = data.reshape(len(signature.cache_inputs), -1)
        self._past[slot] = [
            onnxruntime.OrtValue.ortvalue_from_numpy(
                part.view(signature.cache_dtype).reshape(shape)
            )
            for part in parts
        ]
        self._lengths[slot] = length
        return True

    def interrupt(self) -> None:
        """Break off the run in hand; from any thread, returns at once."""
        self._runs.interrupt()

    def _cut(self, source: int, target: int, length: int) -> None:
        kept = (np.ascontiguousarray(value.numpy()[:, :, :length]) for value in self._past[source])
        self._past[target] = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in kept]
        self._lengths[target] = length
