"""8-bit weights in blocks of 32, each with an fp32 scale, for ONNX Runtime's own operators.

The operator also quantizes the activations in blocks.

Rule: a weight's bytes depend on its values alone, so a table that is both embedding and output
projection is stored once.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.onnx_files import MICROSOFT, GraphWriter
from edged.errors import BuildError

# The stored value of 0.0; the operators' default when they get no zero points.
BLOCK = 32
ZERO_POINT = 128
_RANGE = 127.0
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class BlockwiseWeight:
    """A quantized matrix of N rows and K columns, K padded up to whole blocks."""

    data: NDArray[np.uint8]
    """[N, blocks, 32]"""
    scales: NDArray[np.float32]
    """[N, blocks]"""


def quantize_rows(name: str, rows: NDArray[np.float32]) -> BlockwiseWeight:
    """Quantize an [N, K] matrix along K, symmetrically, rounding half to even.

    Args:
        name: of the weight, for the error.
        rows: any strides; processed in chunks, so a mapped file is not read into memory.

    Raises:
        BuildError: the weight holds NaN or infinity.
    """
    num_rows, num_columns = rows.shape
    num_blocks = -(-num_columns // BLOCK)
    data = np.empty((num_rows, num_blocks, BLOCK), np.uint8)
    scales = np.empty((num_rows, num_blocks), np.float32)
    step = max(1, _CHUNK_ELEMENTS // (num_blocks * BLOCK))
    for start in range(0, num_rows, step):
        chunk = np.zeros((min(step, num_rows - start), num_blocks * BLOCK), np.float32)
        chunk[:, :num_columns] = rows[start : start + step]
        if not np.isfinite(chunk).all():
            raise BuildError(f"{name}: holds NaN or infinity; the source is damaged")
        blocks = chunk.reshape(-1, num_blocks, BLOCK)
        stop = start + len(blocks)
        data[start:stop], scales[start:stop] = _quantize_blocks(blocks)
    return BlockwiseWeight(data, scales)


def _quantize_blocks(
    blocks: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    scales = np.abs(blocks).max(axis=-1) / np.float32(_RANGE)
    # The engine flushes denormals to zero, so a denormal scale would be 0.
    scales[scales < np.finfo(np.float32).tiny] = 0.0
    divisors = np.where(scales == 0.0, np.float32(np.inf), scales)
    steps = np.rint(blocks / divisors[..., None])
    return (steps + np.float32(ZERO_POINT)).astype(np.uint8), scales


class BlockwiseNodes:
    """Writes ``MatMulNBits`` and ``GatherBlockQuantized`` nodes and their weights."""

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        self.initializers: list[onnx.TensorProto] = []

    def matmul(
        self,
        node: onnx.NodeProto,
        rows: NDArray[np.float32],
        bias: NDArray[np.float32] | None,
    ) -> list[onnx.NodeProto]:
        """Return one ``MatMulNBits`` that computes ``node``'s output."""
        name = node.name or node.output[0]
        weight = quantize_rows(name, rows)
        inputs = [
            node.input[0],
            self._store(f"{name}.weight.int8", weight.data),
            self._store(f"{name}.weight.scales", weight.scales),
        ]
        if bias is not None:
            inputs += ["", "", self._store(f"{name}.bias.fp32", bias)]
        product = onnx.helper.make_node(
            "MatMulNBits",
            inputs,
            node.output,
            name,
            domain=MICROSOFT,
            N=rows.shape[0],
            K=rows.shape[1],
            bits=8,
            block_size=BLOCK,
            # 4 quantizes activations to int8 too. Any other level takes the slow fp32 path.
            accuracy_level=4,
        )
        return [product]

    def embedding(self, node: onnx.NodeProto, rows: NDArray[np.float32]) -> list[onnx.NodeProto]:
        """Return a ``GatherBlockQuantized`` and the nodes that join its blocks into one row."""
        # The table keeps its blocks as an axis: reshaping the small result is cheap, while a
        # reshaped table would be copied from the mapped file to the heap.
        name = node.name or node.output[0]
        weight = quantize_rows(name, rows)
        inputs = [
            self._store(f"{name}.table.int8", weight.data),
            node.input[1],
            self._store(f"{name}.table.scales", weight.scales[..., None]),
        ]
        num_columns = rows.shape[1]
        is_padded = num_columns % BLOCK != 0
        joined = f"{name}.joined" if is_padded else node.output[0]
        shape = self._store(f"{name}.shape", np.array([0, 0, -1], np.int64))
        nodes = [
            onnx.helper.make_node(
                "GatherBlockQuantized",
                inputs,
                [f"{name}.blocks"],
                name,
                domain=MICROSOFT,
                bits=8,
                block_size=BLOCK,
                gather_axis=0,
                quantize_axis=2,
            ),
            onnx.helper.make_node("Reshape", [f"{name}.blocks", shape], [joined], f"{name}.join"),
        ]
        if is_padded:
            bounds = [("start", 0), ("end", num_columns), ("axis", 2)]
            cuts = [self._store(f"{name}.{key}", np.array([i], np.int64)) for key, i in bounds]
            nodes.append(
                onnx.helper.make_node("Slice", [joined, *cuts], node.output, f"{name}.cut")
            )
        return nodes

    def _store(self, name: str, values: NDArray[np.generic]) -> str:
        self.initializers.append(self._writer.add(name, values))
        return name
