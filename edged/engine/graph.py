"""A loaded model: token ids in, logits out, with a KV cache that has a slot for each sequence."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.bundle.manifest import ModelFacts
from edged.engine.cache import GrowingCache, KeyValueCache
from edged.engine.signature import read_signature
from edged.engine.steps import DecodeInput, InterruptedRunError
from edged.specialists.adapter import Adapter, AdapterShape

_LOG_FATAL_ONLY = 4


class Graph(ABC):
    """A loaded model whose cache has a slot for each of a few sequences.

    Keys and values of earlier positions stay, so a start before the current length is a rewind.

    Args:
        session: the loaded model.
        max_model_len: positions of each sequence.
        num_slots: sequences that have a place in the cache.
        facts: the manifest's figures, compared before memory is taken; None compares nothing.

    Raises:
        BundleError: the graph's inputs or outputs are not those of its form, or not what the
            manifest says.
    """

    required_inputs: ClassVar[Mapping[str, str]]
    """Name and ONNX Runtime type, without the cache."""
    optional_inputs: ClassVar[Mapping[str, str]]
    _cache: KeyValueCache | GrowingCache

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        max_model_len: int,
        num_slots: int = 1,
        facts: ModelFacts | None = None,
    ) -> None:
        self._signature = read_signature(session, self.required_inputs, self.optional_inputs, facts)
        self._session = session
        self._options = run_options()
        self.vocab_size = self._signature.vocab_size
        self.hidden_shape = self._signature.hidden_shape
        """Layers and features of a token's hidden states; zeros for a bundle that gives none."""
        self.adapter_shape: AdapterShape = self._signature.adapter_shape
        """The products that take adapters; none in a bundle without such branches."""
        self.max_model_len = max_model_len
        self.num_slots = num_slots
        self._lengths = [0] * num_slots
        self._allocate()

    @abstractmethod
    def _allocate(self) -> None:
        """Set ``_cache``, and whatever else a run needs."""

    @abstractmethod
    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        """Run tokens of one sequence at positions [start, start + n); blocks.

        ``is_prefill`` selects the kernels for many tokens; without it each result has the bits that
        ``decode`` computes.

        Returns:
            Logits ``[1, vocabulary]`` of the last token, or ``[n, vocabulary]`` of all; the view
            is valid, and the caller's to write, until the next call.

        Raises:
            ValueError: no tokens, a gap after the current length, or a position past the limit.
            InterruptedRunError: ``interrupt`` was called during the run.
        """

    def hidden(
        self,
        prompts: Sequence[NDArray[np.int64]],  # noqa: ARG002 - a fused graph's own method uses them
        start: int,  # noqa: ARG002
        num_skipped: int = 0,  # noqa: ARG002
        *,
        slot: int = 0,  # noqa: ARG002
    ) -> list[NDArray[np.float32]]:
        """Run tokens of prompts, like ``forward``, for hidden states instead of logits; blocks.

        The result of one prompt has the same bits whatever is run beside it.

        Args:
            prompts: tokens of one prompt or several, at positions from ``start`` on.
            start: the first position, the same for all.
            num_skipped: first tokens of each whose hidden states are not wanted.
            slot: the first prompt's; the others have those behind it.

        Returns:
            For each prompt ``[tokens - num_skipped, layers * features]``; valid until the next
            call.

        Raises:
            ValueError: as ``forward``, or the graph gives none.
            InterruptedRunError: as ``forward``.
        """
        raise ValueError("this graph gives no hidden states")

    def prefill(
        self, prompts: Sequence[NDArray[np.int64]], start: int, *, slot: int = 0
    ) -> list[NDArray[np.float32]]:
        """Run tokens of prompts, as ``forward`` does those of one; blocks.

        Args:
            prompts: tokens of one prompt or several, at positions from ``start`` on.
            start: the first position, the same for all.
            slot: the first prompt's; the others have those behind it.

        Returns:
            Logits ``[vocabulary]`` of the last token of each; as those of ``forward``, and with its
            errors.
        """
        rows = enumerate(prompts, slot)
        return [self.forward(ids, start, slot=index)[0] for index, ids in rows]

    @abstractmethod
    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        """Run the next tokens of each of several sequences; blocks.

        Returns:
            Logits ``[vocabulary]`` of each input's last token; as those of ``forward``, and with
            its errors.
        """

    def adapt(self, slot: int, adapter: Adapter | None) -> None:  # noqa: ARG002 - as in ``hidden``
        """Have a slot's tokens run with an adapter of the graph's shape from now on, or with none.

        Its keys and values stay, so they must be those of the same adapter, or be run again.

        Raises:
            ValueError: the graph takes none.
        """
        if adapter is not None:
            raise ValueError("this graph takes no adapters; rebuild the bundle")

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot begin with the first ``length`` tokens of another."""
        self._cache.copy(source, target, length)
        self._lengths[target] = length

    def release(self, slot: int = 0) -> None:
        """Forget the tokens of a slot and return its memory to the system."""
        self._lengths[slot] = 0
        self._cache.release(slot)

    def read(self, slot: int) -> NDArray[np.uint8]:
        """Return the keys and values of a slot's tokens as bytes, for ``write``."""
        return self._cache.read(slot, self._lengths[slot])

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> bool:
        """Set a slot's first ``length`` tokens; return whether ``data`` has their size."""
        if len(data) != length * self._signature.kv_bytes_per_token:
            return False
        self._cache.write(slot, length, data)
        self._lengths[slot] = length
        return True

    def interrupt(self) -> None:
        """End the current ``forward`` with ``InterruptedRunError``; from any thread, at once."""
        self._options.terminate = True

    def _run(self, binding: onnxruntime.IOBinding) -> None:
        # New options for each run: an interruption that comes when it is over ends no later one.
        options = self._options = run_options()
        try:
            self._session.run_with_iobinding(binding, options)
        except RuntimeError as error:
            if options.terminate:
                raise InterruptedRunError from error
            raise

    def _check_positions(self, count: int, start: int, slot: int) -> None:
        if count < 1:
            raise ValueError("no tokens to run")
        if not 0 <= start <= self._lengths[slot]:
            raise ValueError(f"start {start} leaves a gap after {self._lengths[slot]} known tokens")
        if start + count > self.max_model_len:
            raise ValueError(f"position {start + count} is past max_model_len {self.max_model_len}")


def run_options() -> onnxruntime.RunOptions:
    """Return the options of one run."""
    options = onnxruntime.RunOptions()
    # Failures are raised with the text that would be logged; an interruption is no failure.
    options.log_severity_level = _LOG_FATAL_ONLY
    # Without this entry onnxruntime searches for one in each run, which takes 60 us.
    options.add_run_config_entry("gpu_graph_id", "-1")
    return options
