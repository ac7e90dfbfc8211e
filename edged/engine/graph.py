"""A loaded model as the generation loop sees it: token ids in, logits out.

Rule: nothing above this module knows which form of graph runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.bundle.manifest import ModelFacts
from edged.engine.fused import FusedGraph
from edged.engine.portable import PortableGraph
from edged.engine.session import open_session
from edged.engine.steps import Row

__all__ = ["FusedGraph", "Graph", "PortableGraph", "SingleGraph", "load_graph", "make_graph"]


class SingleGraph(Protocol):
    """A model with one sequence in its cache."""

    vocab_size: int
    max_model_len: int
    """Positions that a sequence can have."""

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        all_rows: bool = False,
        is_prompt: bool = True,
    ) -> NDArray[np.float32]:
        """Run tokens of the sequence at positions [start, start + n); blocks.

        A start before the current length forgets what stood from there on. The way for a prompt is
        the faster one for many tokens; without it the results are those of single tokens.

        Returns:
            Logits ``[1, vocabulary]`` of the last token, or ``[n, vocabulary]`` of all; the view
            is valid, and the caller's to write, until the next call.
        """
        ...

    def release(self) -> None:
        """Forget all tokens and give the memory of their keys and values back."""
        ...


class Graph(SingleGraph, Protocol):
    """A model with a few sequences in its cache, each in a slot of its own."""

    num_slots: int
    kv_bytes: int
    """Memory of a full cache."""

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        all_rows: bool = False,
        is_prompt: bool = True,
    ) -> NDArray[np.float32]:
        """Run tokens of the sequence in a slot; blocks; see ``SingleGraph.forward``."""
        ...

    def decode(self, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
        """Run one token of each of several sequences; blocks; see ``FusedGraph.decode``."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Make a slot begin with the first ``length`` tokens of another."""
        ...

    def release(self, slot: int = 0) -> None:
        """Forget the tokens of a slot and give the memory of their keys and values back."""
        ...

    def read(self, slot: int) -> NDArray[np.uint8]:
        """Return the keys and values of a slot's tokens as bytes, for ``write``."""
        ...

    def write(self, slot: int, length: int, data: NDArray[np.uint8]) -> bool:
        """Set a slot's first ``length`` tokens; return whether ``data`` fits them."""
        ...

    def interrupt(self) -> None:
        """Break off the ``forward`` in hand: it raises ``InterruptedRunError``; from any thread."""
        ...


def load_graph(
    model_path: Path,
    *,
    is_fused: bool,
    max_model_len: int,
    num_threads: int | None = None,
    num_slots: int = 1,
    has_flash: bool = True,
) -> Graph:
    """Load a model of any numeric scheme; blocks until its weights are prepacked.

    Args:
        model_path: ``model.onnx``; its weights lie beside it.
        is_fused: which form the graph has; see ``edged.bundle.manifest.GraphKind``.
        max_model_len: positions that a slot of the cache can hold.
        num_threads: None takes what the process may use.
        num_slots: sequences that have a place in the cache.
        has_flash: whether attention may be computed in tiles.

    Raises:
        BundleError: ONNX Runtime refuses the model, or its inputs are not those of the form.
    """
    session = open_session(model_path, num_threads=num_threads, has_flash=has_flash)
    return make_graph(session, is_fused=is_fused, max_model_len=max_model_len, num_slots=num_slots)


def make_graph(
    session: onnxruntime.InferenceSession,
    *,
    is_fused: bool,
    max_model_len: int,
    num_slots: int = 1,
    facts: ModelFacts | None = None,
) -> Graph:
    """Make the graph of a loaded model, with its cache.

    Args:
        session: the loaded model.
        is_fused: which form the graph has; see ``edged.bundle.manifest.GraphKind``.
        max_model_len: positions that a slot of the cache can hold.
        num_slots: sequences that have a place in the cache.
        facts: what the manifest says of it, compared before memory is taken; None compares nothing.

    Raises:
        BundleError: its inputs are not those of the form, or it is not what ``facts`` say.
    """
    form = FusedGraph if is_fused else PortableGraph
    return form(session, max_model_len, num_slots, facts)
