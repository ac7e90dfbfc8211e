"""A loaded model as the generation loop sees it: token ids in, logits out.

Rule: nothing above this module knows which form of graph runs.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edged.engine.fused import FusedGraph
from edged.engine.portable import PortableGraph
from edged.engine.session import open_session

__all__ = ["FusedGraph", "Graph", "PortableGraph", "load_graph"]


class Graph(Protocol):
    """A model with one sequence in its cache."""

    vocab_size: int
    max_model_len: int
    """Positions the cache can hold."""
    kv_bytes: int
    """Memory of a full cache."""

    def forward(
        self, token_ids: NDArray[np.int64], start: int, *, all_rows: bool = False
    ) -> NDArray[np.float32]:
        """Run tokens at positions [start, start + n); blocks.

        A start before the current length forgets what stood from there on.

        Returns:
            Logits ``[1, vocabulary]`` of the last token, or ``[n, vocabulary]`` of all; the view
            is valid, and the caller's to write, until the next call.
        """
        ...

    def release(self) -> None:
        """Forget all tokens and give the memory of their keys and values back."""
        ...


def load_graph(
    model_path: Path, *, is_fused: bool, max_model_len: int, num_threads: int | None = None
) -> Graph:
    """Load a model of any numeric scheme; blocks until its weights are prepacked.

    Args:
        model_path: ``model.onnx``; its weights lie beside it.
        is_fused: which form the graph has; see ``edged.manifest.GraphKind``.
        max_model_len: positions the cache can hold.
        num_threads: None takes what the process may use.

    Raises:
        BundleError: ONNX Runtime refuses the model, or its inputs are not those of the form.
    """
    session = open_session(model_path, num_threads=num_threads)
    form = FusedGraph if is_fused else PortableGraph
    return form(session, max_model_len)
