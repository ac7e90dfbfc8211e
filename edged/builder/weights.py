"""Find the weights of an exported graph by how they are used.

Rule: shape and use decide, never a family's names, so a new family needs nothing here.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.onnx_files import read_graph, read_tensor

_INPUT_IDS = "input_ids"
_RESHAPING = {"Reshape", "Cast", "Identity", "Unsqueeze", "Squeeze", "Flatten"}
"""Operators that change the shape or type of token ids and nothing else."""
_MATRIX_RANK = 2


class SourceGraph:
    """A graph to be rewritten, with its constants by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.model = read_graph(folder)
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {out: node for node in self.model.graph.node for out in node.output}

    def matrix(self, name: str) -> NDArray[np.float32] | None:
        """Return the 2-D fp32 constant behind a value, looking through a transposition."""
        maker = self._makers.get(name)
        if maker is not None and maker.op_type in {"Transpose", "Identity"}:
            found = self.matrix(maker.input[0])
            return found if found is None or maker.op_type == "Identity" else found.T
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor.dims) != _MATRIX_RANK:
            return None
        return self._float32(tensor)

    def vector(self, name: str, length: int | None = None) -> NDArray[np.float32] | None:
        """Return the 1-D fp32 constant behind a value, if it is one, of ``length`` where given."""
        tensor = self._tensors.get(name)
        if tensor is None or len(tensor.dims) != 1 or length not in {None, tensor.dims[0]}:
            return None
        return self._float32(tensor)

    def override(self, name: str, values: NDArray[np.float32]) -> None:
        """Give a constant other values."""
        self._tensors[name] = onnx.numpy_helper.from_array(values, name)

    def _float32(self, tensor: onnx.TensorProto) -> NDArray[np.float32] | None:
        values = read_tensor(tensor, self._folder)
        return np.asarray(values, np.float32) if values.dtype == np.float32 else None

    def is_token_ids(self, name: str) -> bool:
        """Return whether a value is the graph's token ids, only shaped differently."""
        while name != _INPUT_IDS:
            maker = self._makers.get(name)
            if maker is None or maker.op_type not in _RESHAPING:
                return False
            name = maker.input[0]
        return True

    def remove_unused(self) -> None:
        """Drop the nodes whose results nobody reads any more."""
        used = {output.name for output in self.model.graph.output}
        kept = []
        for node in reversed(self.model.graph.node):
            if used.intersection(node.output):
                kept.append(node)
                used.update(inputs_of(node))
        del self.model.graph.node[:]
        self.model.graph.node.extend(reversed(kept))

    def constants(self) -> Iterator[tuple[str, NDArray[np.generic]]]:
        """Yield the constants still in use, in the graph's order."""
        used = {name for node in self.model.graph.node for name in inputs_of(node)}
        used.update(output.name for output in self.model.graph.output)
        for name, tensor in self._tensors.items():
            if name in used:
                yield name, read_tensor(tensor, self._folder)


def inputs_of(node: onnx.NodeProto) -> set[str]:
    """Return every value a node reads, those inside its branches and loops included."""
    names = set(node.input)
    for attribute in node.attribute:
        for branch in [attribute.g, *attribute.graphs]:
            for inner in branch.node:
                names |= inputs_of(inner)
            names.update(output.name for output in branch.output)
    return names
