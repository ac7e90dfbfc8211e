"""Run a fused graph: the cache is bound once and updated in place.

With an fp32 cache the graph runs a spare row after each sequence's tokens, so that its counts are
one higher than ours and a slot has one position more (``builder/fuse/attention_nodes`` says why).

Rule: a decode step allocates nothing of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.bundle.manifest import ModelFacts
from edged.engine.cache import KeyValueCache
from edged.engine.signature import check_facts, read_signature
from edged.engine.steps import Row

_FATAL = 4
"""Of ONNX Runtime's log levels, the highest."""


class InterruptedRunError(RuntimeError):
    """The run was broken off on request; what it wrote into the cache is not to be used."""


class Runs:
    """The runs of one session, one at a time.

    Args:
        session: the loaded model.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._steady = _run_options()
        self._options = _run_options()

    def run(self, binding: onnxruntime.IOBinding, *, is_interruptible: bool = True) -> None:
        """Compute the outputs of a binding; blocks.

        A run that is over soon anyway need not be interruptible, and then has less to prepare.

        Raises:
            InterruptedRunError: ``interrupt`` was called meanwhile.
            RuntimeError: the run failed.
        """
        if not is_interruptible:
            self._session.run_with_iobinding(binding, self._steady)
            return
        # New for each run: an interruption that comes late hits the options of a run that is over.
        options = self._options = _run_options()
        try:
            self._session.run_with_iobinding(binding, options)
        except RuntimeError as error:
            if options.terminate:
                raise InterruptedRunError from error
            raise

    def interrupt(self) -> None:
        """Have the run in hand end at its next operator; from any thread, returns at once."""
        self._options.terminate = True


def _run_options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    # What fails is raised, with all that would be logged; an interruption is no failure at all.
    options.log_severity_level = _FATAL
    # Nothing is captured on a CPU; but onnxruntime looks, and not to find it costs it 60 us.
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options


INPUTS = {
    "input_ids": "tensor(int64)",
    "seqlens_k": "tensor(int32)",
    "total_sequence_length": "tensor(int32)",
    "query_seqlens": "tensor(int32)",
    "rows": "tensor(int64)",
}
IS_PROMPT = "is_prompt"
"""Chooses the way of a prompt or that of an answer; only a graph with an int8 cache has both."""
_KEPT_TOKENS = 16
"""Runs of at most so many tokens come again and again: what they are bound to is kept, and their
logits share one buffer."""

_Shape = tuple[int, int, int, int]
"""First slot, slots, tokens of each, rows of logits of each."""


@dataclass(frozen=True, slots=True)
class _Step:
    """The inputs and outputs of one shape, bound once."""

    binding: onnxruntime.IOBinding
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    """``seqlens_k``: for each slot its tokens after the run, with the spare one, minus 1."""
    total: NDArray[np.int32]
    counts: NDArray[np.int32]
    """``query_seqlens``: for each slot its tokens in this run, with the spare one; 0 for none."""
    rows: NDArray[np.int64]
    is_prompt: NDArray[np.bool_]
    logits: Sequence[NDArray[np.float32]]
    """For each slot the rows that were asked for, ``[rows, vocabulary]``."""


class FusedGraph:
    """A graph with grouped attention over a cache that it updates in place.

    Keys and values of earlier positions stay, so a start before the current length is a rewind.

    Args:
        session: the loaded model.
        max_model_len: positions of each sequence.
        num_slots: sequences that have a place in the cache.
        facts: what the manifest says of it; None does not compare.

    Raises:
        BundleError: the graph's inputs or outputs are not those of a fused graph, or not what the
            manifest says.
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
        self._signature = read_signature(session, INPUTS, {IS_PROMPT: "tensor(bool)"})
        if facts is not None:
            check_facts(self._signature, facts)
        self._has_prompts = any(node.name == IS_PROMPT for node in session.get_inputs())
        self.vocab_size = self._signature.vocab_size
        self.max_model_len = max_model_len
        self.num_slots = num_slots
        self._spare = int(self._signature.cache_dtype == np.float32)
        self.cache = KeyValueCache(self._signature, num_slots, max_model_len + self._spare)
        self.kv_bytes = num_slots * max_model_len * self._signature.kv_bytes_per_token
        self._lengths = [0] * num_slots
        self._logits = np.zeros((_KEPT_TOKENS, self.vocab_size), np.float32)
        self._kept: dict[_Shape, _Step] = {}
        self._last: tuple[_Shape, _Step] | None = None

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prompt: bool = True,
    ) -> NDArray[np.float32]:
        """Run tokens of one sequence at positions [start, start + n); blocks.

        ``is_prompt`` chooses the kernel for many tokens; without it each result has the bits that
        ``decode`` gives it.

        Returns:
            Logits ``[1, vocabulary]`` of the last token, or ``[n, vocabulary]`` of all; the view
            is valid, and the caller's to write, until the next call.

        Raises:
            ValueError: no tokens, a gap after the current length, or a position past the limit.
            InterruptedRunError: ``interrupt`` was called meanwhile.
        """
        count = len(token_ids)
        check_positions(count, start, self._lengths[slot], self.max_model_len)
        step = self._step((slot, 1, count, count if all_rows else 1))
        step.input_ids[0] = token_ids
        step.lengths[0] = start + count - 1 + self._spare
        step.counts[0] = count + self._spare
        step.total[()] = start + count + self._spare
        step.is_prompt[()] = is_prompt
        self._lengths[slot] = start
        self._runs.run(step.binding)
        self._lengths[slot] = start + count
        return step.logits[0]

    def decode(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Run one token of each of several sequences, in one run of the graph; blocks.

        A row's logits do not depend on the rows beside it. Slots between those of the rows are
        left as they are.

        Returns:
            Logits ``[vocabulary]`` of each row; as those of ``forward``.

        Raises:
            ValueError: a gap after a sequence's current length, or a position past the limit.
        """
        for row in rows:
            check_positions(1, row.position, self._lengths[row.slot], self.max_model_len)
        slots = [row.slot for row in rows]
        first, width = min(slots), max(slots) - min(slots) + 1
        step = self._step((first, width, 1, 1))
        step.is_prompt[()] = False
        # Number by number: numpy's ways to set many take longer, with all of a run's weights in
        # the processor's caches.
        lengths = [max(n - 1, 0) for n in self._lengths[first : first + width]]
        for place in range(width):
            step.counts[place] = 0
        for row in rows:
            place = row.slot - first
            step.input_ids[place, 0] = row.token_id
            self._lengths[row.slot] = row.position
            lengths[place] = row.position + self._spare
            step.counts[place] = 1 + self._spare
        for place, length in enumerate(lengths):
            step.lengths[place] = length
        step.total[()] = max(lengths) + 1
        self._runs.run(step.binding, is_interruptible=False)
        for row in rows:
            self._lengths[row.slot] = row.position + 1
        return [step.logits[slot - first][0] for slot in slots]

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot begin with the first ``length`` tokens of another."""
        self.cache.copy(source, target, length)
        self._lengths[target] = length

    def release(self, slot: int = 0) -> None:
        """Forget the tokens of a slot and give its memory back to the system."""
        self._lengths[slot] = 0
        self.cache.give_back(slot)

    def read(self, slot: int) -> NDArray[np.uint8]:
        """Return the keys and values of a slot's tokens as bytes, for ``write``."""
        return self.cache.read(slot, self._lengths[slot])

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> bool:
        """Set a slot's first ``length`` tokens; return whether ``data`` fits them."""
        if len(data) != length * self._signature.kv_bytes_per_token:
            return False
        self.cache.write(slot, length, data)
        self._lengths[slot] = length
        return True

    def interrupt(self) -> None:
        """Break off the ``forward`` in hand; from any thread, returns at once."""
        self._runs.interrupt()

    def _step(self, shape: _Shape) -> _Step:
        if shape[1] * shape[2] <= _KEPT_TOKENS:
            if shape not in self._kept:
                self._kept[shape] = self._bind(*shape)
            return self._kept[shape]
        if self._last is None or self._last[0] != shape:
            self._last = shape, self._bind(*shape)
        return self._last[1]

    def _bind(self, first: int, width: int, count: int, num_rows: int) -> _Step:
        logits = self._buffer(width * num_rows).reshape(width, num_rows, -1)
        step = _Step(
            binding=self._session.io_binding(),
            input_ids=np.zeros((width, count), np.int64),
            lengths=np.zeros(width, np.int32),
            total=np.zeros((), np.int32),
            counts=np.zeros(width, np.int32),
            rows=np.arange(count - num_rows, count, dtype=np.int64),
            is_prompt=np.zeros((), np.bool_),
            logits=list(logits),
        )
        cache = self.cache.views(first, width)
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": step.input_ids,
            "seqlens_k": step.lengths,
            "total_sequence_length": step.total,
            "query_seqlens": step.counts,
            "rows": step.rows,
            **({IS_PROMPT: step.is_prompt} if self._has_prompts else {}),
            **dict(zip(self._signature.cache_inputs, cache, strict=True)),
        }
        outputs: dict[str, NDArray[Any]] = {
            "logits": logits,
            **dict(zip(self._signature.cache_outputs, cache, strict=True)),
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

    def _buffer(self, num_rows: int) -> NDArray[np.float32]:
        if num_rows <= _KEPT_TOKENS:
            return self._logits[:num_rows]
        return np.zeros((num_rows, self.vocab_size), np.float32)


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
