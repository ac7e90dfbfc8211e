"""Run a fused graph: grouped attention over a cache that is bound once and updated in place.

Rule: a decode step allocates no memory in Python code.
"""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.engine.adapters import AdapterSlots
from edged.engine.cache import KeyValueCache
from edged.engine.graph import Graph, run_options
from edged.engine.signature import ADAPTED, DECODE, PREFILL, RUN
from edged.engine.steps import DecodeInput
from edged.specialists.adapter import Adapter

# The input that selects the prefill or the decode branch; in a bundle that takes adapters, of the
# lower layers. A graph with an fp32 cache has none.
IS_PROMPT = "is_prompt"
# The output with hidden states, and the input that names their rows; older bundles have neither.
HIDDEN, HIDDEN_ROWS = "hidden", "hidden_rows"
# Shapes of at most so many tokens recur: their bindings are kept and share one logits buffer.
_MAX_KEPT_TOKENS = 16


class _Shape(NamedTuple):
    first: int
    """Slot."""
    width: int
    """Slots."""
    num_tokens: int
    """Of each."""
    num_rows: int
    """Of logits of each."""
    num_hidden: int
    """Rows of hidden states of each."""
    branch: str


class _Bound(NamedTuple):
    """The inputs and outputs of one shape, bound once."""

    binding: onnxruntime.IOBinding
    inputs: dict[str, NDArray[Any]]
    logits: Sequence[NDArray[np.float32]]
    """For each slot the requested rows, ``[rows, vocabulary]``."""
    hidden: NDArray[np.float32]
    """``[slots, hidden rows, layers, features]``."""


class FusedGraph(Graph):
    """A graph with grouped attention over a cache that it updates in place."""

    required_inputs: ClassVar = {
        "input_ids": "tensor(int64)",
        "seqlens_k": "tensor(int32)",
        "total_sequence_length": "tensor(int32)",
        "query_seqlens": "tensor(int32)",
        "rows": "tensor(int64)",
    }
    optional_inputs: ClassVar = {IS_PROMPT: "tensor(bool)", HIDDEN_ROWS: "tensor(int64)"}
    _cache: KeyValueCache

    def _allocate(self) -> None:
        self._logits = np.zeros((_MAX_KEPT_TOKENS, self.vocab_size), np.float32)
        self._decode_options = run_options()
        self._kept: dict[_Shape, _Bound] = {}
        self._last: tuple[_Shape, _Bound] | None = None
        # With an fp32 cache the graph runs a spare row after each sequence's tokens, so its counts
        # are one higher and a slot has one position more (builder/fuse/attention_nodes says why).
        self._spare = int(self._signature.cache_dtype == np.float32)
        capacity = self.max_model_len + self._spare
        self._cache = KeyValueCache(self._signature, self.num_slots, capacity)
        self._adapters = AdapterSlots(self.adapter_shape, self.num_slots)

    def adapt(self, slot: int, adapter: Adapter | None) -> None:
        """Give a slot an adapter, or take it away; see ``Graph.adapt``."""
        if adapter is not None and not self.adapter_shape:
            super().adapt(slot, adapter)
        self._adapters.give(slot, adapter)

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
        branch = PREFILL if is_prefill else DECODE
        if self._adapters.is_adapted(slot):
            branch = ADAPTED + branch
        shape = _Shape(slot, 1, count, count if all_rows else 1, 0, branch)
        return self._run_prompts(shape, [token_ids], start).logits[0]

    def prefill(
        self, prompts: Sequence[NDArray[np.int64]], start: int, *, slot: int = 0
    ) -> list[NDArray[np.float32]]:
        """Run tokens of prompts in one run; see ``Graph.prefill``."""
        is_adapted = any(self._adapters.is_adapted(slot + index) for index in range(len(prompts)))
        branch = ADAPTED + PREFILL if is_adapted else PREFILL
        ends = sorted({len(ids) - 1 for ids in prompts})
        shape = _Shape(slot, len(prompts), ends[-1] + 1, len(ends), 0, branch)
        self._bound(shape).inputs["rows"][:] = ends
        logits = self._run_prompts(shape, prompts, start).logits
        pairs = zip(logits, prompts, strict=True)
        return [rows[ends.index(len(ids) - 1)] for rows, ids in pairs]

    def hidden(
        self,
        prompts: Sequence[NDArray[np.int64]],
        start: int,
        num_skipped: int = 0,
        *,
        slot: int = 0,
    ) -> list[NDArray[np.float32]]:
        """Run tokens of prompts for their hidden states; see ``Graph.hidden``.

        Raises:
            ValueError: as there.
        """
        if not math.prod(self.hidden_shape):
            raise ValueError("this graph gives no hidden states; rebuild the bundle")
        longest, width = max(map(len, prompts)), math.prod(self.hidden_shape)
        num_hidden = max(longest - num_skipped, 0)
        shape = _Shape(slot, len(prompts), longest, 0, num_hidden, PREFILL)
        hidden = self._run_prompts(shape, prompts, start).hidden
        return [
            np.reshape(rows[: max(len(ids) - num_skipped, 0)], (-1, width))
            for ids, rows in zip(prompts, hidden, strict=True)
        ]

    def _run_prompts(
        self, shape: _Shape, prompts: Sequence[NDArray[np.int64]], start: int
    ) -> _Bound:
        slot, width, longest = shape.first, shape.width, shape.num_tokens
        for index, token_ids in enumerate(prompts):
            self._check_positions(len(token_ids), start, slot + index)
        bound = self._bound(shape)
        binding, inputs = bound.binding, bound.inputs
        for index, token_ids in enumerate(prompts):
            count = len(token_ids)
            # Behind a shorter prompt stands what an earlier run left there: no token sees it, and
            # the slot's next run overwrites its keys and values.
            inputs["input_ids"][index, :count] = token_ids
            inputs["seqlens_k"][index] = start + count - 1 + self._spare
            inputs["query_seqlens"][index] = count + self._spare
        inputs["total_sequence_length"][()] = start + longest + self._spare
        # An interrupted run leaves a cache that is valid up to its start only.
        self._lengths[slot : slot + width] = [start] * width
        self._run(binding)
        self._lengths[slot : slot + width] = [start + len(token_ids) for token_ids in prompts]
        return bound

    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        """Run the next tokens of each of several sequences in one run; see ``Graph.decode``.

        The logits of one input do not depend on the others. Slots between those of the inputs keep
        their content.
        """
        for one in inputs:
            self._check_positions(1 + len(one.following), one.position, one.slot)
        slots = [one.slot for one in inputs]
        first, width = min(slots), max(slots) - min(slots) + 1
        is_adapted = any(self._adapters.is_adapted(slot) for slot in slots)
        branch = ADAPTED + DECODE if is_adapted else DECODE
        ends = sorted({len(one.following) for one in inputs})
        shape = _Shape(first, width, ends[-1] + 1, len(ends), 0, branch)
        binding, arrays, logits, _ = self._bound(shape)
        input_ids, seqlens = arrays["input_ids"], arrays["seqlens_k"]
        counts, rows = arrays["query_seqlens"], arrays["rows"]
        # Number by number: numpy's functions for many take longer, as a run's weights have replaced
        # their code in the processor's caches.
        lengths = [0] * width
        for index in range(width):
            counts[index] = 0
        for index, end in enumerate(ends):
            rows[index] = end
        for one in inputs:
            index, count = one.slot - first, 1 + len(one.following)
            input_ids[index, 0] = one.token_id
            for place, token_id in enumerate(one.following, 1):
                input_ids[index, place] = token_id
            self._lengths[one.slot] = one.position
            lengths[index] = one.position + count - 1 + self._spare
            counts[index] = count + self._spare
        for index, length in enumerate(lengths):
            seqlens[index] = length
        arrays["total_sequence_length"][()] = max(lengths) + 1
        # The same options each time: a step is too short to be interrupted.
        self._session.run_with_iobinding(binding, self._decode_options)
        for one in inputs:
            self._lengths[one.slot] = one.position + 1 + len(one.following)
        return [logits[one.slot - first][ends.index(len(one.following))] for one in inputs]

    def _bound(self, shape: _Shape) -> _Bound:
        if shape.width * shape.num_tokens <= _MAX_KEPT_TOKENS:
            if shape not in self._kept:
                self._kept[shape] = self._bind(shape)
            return self._kept[shape]
        # The full chunks of a prompt have one shape; a second one is not worth its memory.
        if self._last is None or self._last[0] != shape:
            self._last = None  # its buffers go before others come
            self._last = shape, self._bind(shape)
        return self._last[1]

    def _bind(self, shape: _Shape) -> _Bound:
        width, num_rows = shape.width, shape.num_rows
        size = width * num_rows
        is_kept = size <= _MAX_KEPT_TOKENS
        buffer = self._logits[:size] if is_kept else np.zeros((size, self.vocab_size), np.float32)
        logits = buffer.reshape(width, num_rows, self.vocab_size)
        hidden = np.zeros((width, shape.num_hidden, *self.hidden_shape), np.float32)
        cache = self._cache.views(shape.first, width)
        inputs = self._inputs(shape, cache)
        outputs = {"logits": logits, **dict(zip(self._signature.cache_outputs, cache, strict=True))}
        if shape.num_hidden:
            outputs[HIDDEN] = hidden
        if self._signature.branches:
            own = {"logits", HIDDEN, *self._signature.upper_outputs}
            outputs = {f"{shape.branch}." * (n in own) + n: array for n, array in outputs.items()}
        binding = self._session.io_binding()
        for bind, arrays in (
            (binding.bind_input, inputs),
            (binding.bind_output, outputs),
        ):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return _Bound(binding, inputs, list(logits), hidden)

    def _inputs(self, shape: _Shape, cache: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        width, count, branch = shape.width, shape.num_tokens, shape.branch
        inputs: dict[str, NDArray[Any]] = {
            "input_ids": np.zeros((width, count), np.int64),
            # For each slot its tokens after the run, with the spare row, minus 1.
            "seqlens_k": np.zeros(width, np.int32),
            "total_sequence_length": np.zeros((), np.int32),
            # For each slot its tokens in this run, with the spare row; 0 for none.
            "query_seqlens": np.zeros(width, np.int32),
            "rows": np.arange(count - shape.num_rows, count, dtype=np.int64),
            IS_PROMPT: np.array(branch.endswith(PREFILL)),
            HIDDEN_ROWS: np.arange(count - shape.num_hidden, count, dtype=np.int64),
            **dict(zip(self._signature.cache_inputs, cache, strict=True)),
        }
        for name in self.optional_inputs.keys() - self._signature.optional_inputs:
            del inputs[name]
        for other in self._signature.branches:
            inputs[f"{RUN}{other}"] = np.array(other == branch)
        if branch.startswith(ADAPTED):
            inputs |= self._adapters.inputs(shape.first, width)
        return inputs
