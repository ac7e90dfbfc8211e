"""4-bit weights in blocks of 32 with an fp32 scale each, the output projection in 8 bits.

Half the memory of 8 bits and a quarter more steps away from fp32: for those who want it. The
operator quantizes activations to 8 bits, block by block.

Rule: symmetric only; the asymmetric form computes wrong results on AVX2 (onnxruntime 29853).
"""

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.blockwise import BLOCK, make_product
from edged.builder.compensate import BlockSteps, round_blocks
from edged.builder.onnx_files import GraphWriter
from edged.builder.tune import Tuning, check_finite
from edged.builder.w8a8 import PerTokenNodes

_BITS = 4
_ZERO_POINT = 8
"""What a stored 0.0 is; the operator's default when no zero points are given."""


def pack(steps: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Return [K, N] steps of whole blocks as the operator reads them: [N, blocks, 16] pairs."""
    stored = (steps.T + _ZERO_POINT).astype(np.uint8)
    pairs: NDArray[np.uint8] = stored[:, 0::2] | (stored[:, 1::2] << np.uint8(_BITS))
    return pairs.reshape(len(stored), -1, BLOCK // 2)


class FourBitNodes:
    """Makes ``MatMulNBits`` nodes of 4 bits; the head and the table are those of ``w8a8``.

    Args:
        writer: takes the weights.
        tuning: what was measured.
        head: output of the product that makes the logits.
    """

    def __init__(self, writer: GraphWriter, tuning: Tuning, head: str) -> None:
        self._writer = writer
        self._tuning = tuning
        self._head = head
        self._eight = PerTokenNodes(writer, tuning)
        self._stored: list[onnx.TensorProto] = []

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The constants that the returned nodes read."""
        return [*self._stored, *self._eight.initializers]

    def embedding(self, node: onnx.NodeProto, rows: NDArray[np.float32]) -> list[onnx.NodeProto]:
        """Return what looks the rows of ``node``'s ids up."""
        return self._eight.embedding(node, rows)

    def matmul(
        self,
        node: onnx.NodeProto,
        rows: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> list[onnx.NodeProto]:
        """Return what computes ``node``'s output."""
        if node.output[0] == self._head:
            return self._eight.matmul(node, rows, bias)
        name = node.name or node.output[0]
        weight = self._round(node, rows)
        inputs = [
            node.input[0],
            self._store(f"{name}.weight.int4", pack(weight.steps)),
            self._store(f"{name}.weight.scales", np.ascontiguousarray(weight.scales.T)),
        ]
        if bias is not None:
            inputs += ["", "", self._store(f"{name}.bias.fp32", bias)]
        return [make_product(node, inputs, rows.shape, bits=_BITS)]

    def _round(self, node: onnx.NodeProto, rows: NDArray[np.float32]) -> BlockSteps:
        turned, moments = self._tuning.turn(node, rows)
        check_finite(node, turned)
        padding = -rows.shape[1] % BLOCK
        weight = np.pad(turned.T, ((0, padding), (0, 0)))
        if moments is not None:
            moments = np.pad(moments, (0, padding))
        return round_blocks(weight, moments)

    def _store(self, name: str, values: NDArray[np.generic]) -> str:
        self._stored.append(self._writer.add(name, values))
        return name
