"""Load a model as a graph: token ids in, logits out, whichever form it has."""

from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edged.bundle.manifest import ModelFacts
from edged.engine.abstract_graph import Graph
from edged.engine.fused import FusedGraph
from edged.engine.portable import PortableGraph
from edged.engine.session import open_session

__all__ = ["Graph", "SingleGraph", "load_graph", "make_graph"]


class SingleGraph(Protocol):
    """The part of ``Graph`` that runs one sequence, for measurements and comparisons."""

    vocab_size: int
    max_model_len: int

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        all_rows: bool = False,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        """Run tokens of the sequence; see ``Graph.forward``."""
        ...

    def release(self) -> None:
        """Forget all tokens; see ``Graph.release``."""
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
        model_path: ``model.onnx``; its weights are beside it.
        is_fused: the form of the graph; see ``edged.bundle.manifest.GraphKind``.
        max_model_len: positions that a slot of the cache can hold.
        num_threads: None takes the CPUs that this process may use.
        num_slots: sequences that have a place in the cache.
        has_flash: whether attention is computed in tiles.

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
    """Make the graph of a loaded model, with its cache; see ``Graph`` for the arguments.

    Raises:
        BundleError: its inputs are not those of the form, or it is not what ``facts`` say.
    """
    form = FusedGraph if is_fused else PortableGraph
    return form(session, max_model_len, num_slots, facts)
