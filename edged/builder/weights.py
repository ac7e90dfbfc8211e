"""Find the weights of a graph by their shape and use.

Rule: names are never looked at, so a new family needs no change here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.onnx_files import read_graph, read_tensor

_INPUT_IDS = "input_ids"
# Operators that change only the shape or type of token ids.
_RESHAPING = {"Reshape", "Cast", "Identity", "Unsqueeze", "Squeeze", "Flatten"}
_MATRIX_RANK = 2


class SourceGraph:
    """A graph to be rewritten, with its constants by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.model = read_graph(folder)
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {out: node for node in self.model.graph.node for out in node.output}

    def matrix(self, name: str) -> NDArray[np.float32] | None:
        """Return the values of a 2-D fp32 constant, also behind a transposition, or None."""
        maker = self._makers.get(name)
        if maker is not None and maker.op_type in {"Transpose", "Identity"}:
            found = self.matrix(maker.input[0])
            return found if found is None or maker.op_type == "Identity" else found.T
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor.dims) != _MATRIX_RANK:
            return None
        return self._float32(tensor)

    def vector(self, name: str, length: int | None = None) -> NDArray[np.float32] | None:
        """Return the value of a 1-D fp32 constant, of ``length`` where given, or None."""
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor.dims) != 1 or length not in {None, tensor.dims[0]}:
            return None
        return self._float32(tensor)

    def override(self, name: str, values: NDArray[np.float32]) -> None:
        """Replace the values of a constant."""
        self._tensors[name] = onnx.numpy_helper.from_array(values, name)

    def _float32(self, tensor: onnx.TensorProto) -> NDArray[np.float32] | None:
        values = read_tensor(tensor, self._folder)
        return np.asarray(values, np.float32) if values.dtype == np.float32 else None

    def is_token_ids(self, name: str) -> bool:
        """Return whether a tensor holds the graph's token ids, in any shape or type."""
        while name != _INPUT_IDS:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in _RESHAPING:
                return False
            name = maker.input[0]
        return True

    def remove_unused(self) -> None:
        """Remove the nodes whose outputs are not read."""
        used = {output.name for output in self.model.graph.output}
        kept = []
        for node in reversed(self.model.graph.node):
            if used.intersection(node.output):
                kept.append(node)
                used.update(inputs_of(node))
        del self.model.graph.node[:]
        self.model.graph.node.extend(reversed(kept))

    def constants(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield the constants that are read, in the graph's order."""
        used = {name for node in self.model.graph.node for name in inputs_of(node)}
        used.update(output.name for output in self.model.graph.output)
        for name, tensor in self._tensors.items():
            if name in used:
                yield name, read_tensor(tensor, self._folder)


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Return every tensor that a node reads, also in its branches and loops."""
    names = set(node.input)
    for attribute in node.attribute:
        for branch in [attribute.g, *attribute.graphs]:
            for inner in branch.node:
                names |= inputs_of(inner)
            names.update(output.name for output in branch.output)
    return names
