"""Bring an adapter of PEFT's onto a bundle: into the rotated stream, and into 8 bits.

It goes the way of the weights: a norm's weight moves into the matrix that reads it, what reads the
residual stream or writes to it is rotated, and what reads an activation that the graph rotates in
blocks is rotated with it. Then ``down`` is rounded as ``w8a8`` rounds a weight.

Rule: what the bundle cannot run is refused with the key that says what to train.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.adapted import RANK, Product, find_products
from edged.builder.gptq import column_scales, gptq_round
from edged.builder.hadamard import rotate_blocks
from edged.builder.peft import CONFIG, Floats, LowRank, PeftAdapter, read_peft
from edged.builder.quantize import Scaling, Scheme
from edged.builder.tune import Tuning, rotated
from edged.builder.w8a8 import STEPS
from edged.builder.weights import SourceGraph
from edged.bundle.manifest import KvType, Manifest
from edged.errors import BuildError
from edged.specialists.adapter import AdaptedModel, AdapterPart
from edged.specialists.writer import read_writer

_SMALLEST_GAIN = 1e-4
_ADVICE = "rebuild it with `edged build` in the form int8-w8a8 with an int8 cache"


def convert_adapter(
    folder: Path, manifest: Manifest, reference_folder: Path
) -> dict[str, AdapterPart]:
    """Return PEFT's adapter in the form of a bundle; blocks for a second.

    Args:
        folder: in PEFT's format; may be a stranger's.
        manifest: of the bundle.
        reference_folder: holds the fused fp32 graph that the bundle was made of.

    Raises:
        BuildError: the adapter cannot be read or served, or the bundle takes none.
    """
    if manifest.scheme != Scheme.INT8_W8A8 or manifest.model.kv_type is not KvType.INT8:
        raise BuildError(f"{manifest.name}: a bundle of this form takes no adapters; {_ADVICE}")
    adapter = read_peft(folder)
    way = _Way(manifest, reference_folder)
    _check(folder, adapter, way.products)
    parts = {}
    for name, product in way.products.items():
        own = {n: adapter.get((product.layer, n)) for n in product.linears}
        if any(own.values()):
            parts[name] = _part(way.nodes[product.node], product, own, way.tuning)
    return parts


def restore_adapter(folder: Path, manifest: Manifest, reference_folder: Path) -> PeftAdapter:
    """Return PEFT's adapter of a specialist that writes; blocks for half a minute.

    It is the inverse of ``convert_adapter``, but for what was rounded.

    Args:
        folder: of the specialist; may be a stranger's.
        manifest: of the bundle.
        reference_folder: holds the fused fp32 graph that the bundle was made of.

    Raises:
        BundleError: it is damaged, or of another model.
    """
    way = _Way(manifest, reference_folder)
    shape = {name: product.shape for name, product in way.products.items()}
    parts = read_writer(folder, AdaptedModel.of(manifest), shape).adapter.parts
    found: dict[tuple[int, str], LowRank] = {}
    for name, part in parts.items():
        product = way.products[name]
        found |= _restored(way.nodes[product.node], product, part, way.tuning)
    return found


class _Way:
    """What happens to the weights of a bundle on their way into it.

    Raises:
        BuildError: the graph takes no adapters.
    """

    def __init__(self, manifest: Manifest, reference_folder: Path) -> None:
        graph = SourceGraph(reference_folder)
        self.products = find_products(graph.model.graph, "MatMul")
        if not self.products:
            raise BuildError(f"{manifest.name}: the graph of this model takes no adapters")
        self.tuning = rotated(graph, {})
        if manifest.tries and manifest.tries[-1].scaling == Scaling.DYNAMIC:
            self.tuning = self.tuning.with_dynamic_norms()
        self.nodes = {node.name: node for node in graph.model.graph.node}


def _check(folder: Path, adapter: PeftAdapter, products: Mapping[str, Product]) -> None:
    layers = sorted({product.layer for product in products.values()})
    known = {(p.layer, n): p for p in products.values() for n in p.linears}
    path = folder / CONFIG
    for (layer, name), pair in adapter.items():
        if layer not in layers:
            raise BuildError(
                f"{path}: layers_to_transform has layer {layer}, the bundle adapts "
                f"{', '.join(map(str, layers))}; train these only"
            )
        product = known.get((layer, name))
        if product is None:
            names = ", ".join(dict.fromkeys(n for _, n in known))
            raise BuildError(f"{path}: target_modules has {name}, the bundle adapts {names}")
        if len(pair.down) > RANK:
            raise BuildError(f"{path}: r is {len(pair.down)}, the bundle takes {RANK} at most")
        expected = product.shape.inputs, product.linears[name]
        if (pair.down.shape[1], pair.up.shape[0]) != expected:
            raise BuildError(
                f"{folder}: {name} of layer {layer} has {pair.down.shape[1]} inputs and"
                f" {pair.up.shape[0]} outputs, not {expected[0]} and {expected[1]}: it was trained"
                " on another model"
            )


def _part(
    node: onnx.NodeProto, product: Product, own: Mapping[str, LowRank | None], tuning: Tuning
) -> AdapterPart:
    """Return what is added to one product."""
    _, inners, blocks, rank, width = product.shape
    downs, ups = [], []
    for name, num_outputs in product.linears.items():
        down = np.zeros((rank, product.shape.inputs), np.float32)
        up = np.zeros((num_outputs, rank), np.float32)
        pair = own[name]
        if pair is not None:
            down[: len(pair.down)], up[:, : len(pair.down)] = pair.down, pair.up
        downs += [down] * (num_outputs // width if inners > 1 else 1)
        ups.append(up)
    matrix = _read(node, np.concatenate(downs), tuning).T
    columns = _written(node, np.concatenate(ups), tuning)
    scales = column_scales(matrix)
    steps = gptq_round(matrix, scales, None)
    return AdapterPart(steps, scales * _unit(node, tuning), *_rounded(_blocks(columns, blocks)))


def _restored(
    node: onnx.NodeProto, product: Product, part: AdapterPart, tuning: Tuning
) -> dict[tuple[int, str], LowRank]:
    """Return what is added to the projections of one product."""
    inputs, inners, blocks, rank, width = product.shape
    rows = (part.down * (part.down_scales / _unit(node, tuning))).T
    rows = _inverse(_read(node, np.eye(inputs, dtype=np.float32), tuning), rows.T).T
    up = (part.up * part.up_scales).transpose(0, 2, 1).reshape(blocks * width, rank)
    columns = _inverse(_written(node, np.eye(len(up), dtype=np.float32), tuning).T, up)
    found, start = {}, 0
    for name, num_outputs in product.linears.items():
        first = start // width * rank if inners > 1 else 0
        pair = LowRank(rows[first : first + rank], columns[start : start + num_outputs])
        found[product.layer, name] = pair
        start += num_outputs
    return found


def _read(node: onnx.NodeProto, rows: Floats, tuning: Tuning) -> Floats:
    """Return rows that multiply a product's input, as they multiply it in the bundle."""
    source = node.input[0]
    if tuning.rotation is not None:
        rows = tuning.rotation.read(source, rows)
    return rotate_blocks(rows, tuning.block(source, rows.shape[1]))


def _written(node: onnx.NodeProto, columns: Floats, tuning: Tuning) -> Floats:
    """Return rows that make a product's output, as they make it in the bundle."""
    if tuning.rotation is None:
        return columns
    return tuning.rotation.written(node.output[0], columns)


def _unit(node: onnx.NodeProto, tuning: Tuning) -> np.float32:
    # Steps of the activation count 127 for its peak, or for each row's own largest value.
    return np.float32((tuning.peak(node.input[0]) or 1.0) / STEPS)


def _inverse(matrix: Floats, product: Floats) -> Floats:
    """Return x of matrixᵀ · x = product; what a norm's weight of 0 hid is 0."""
    square = matrix.astype(np.float64) @ matrix.T.astype(np.float64)
    square[np.diag_indices_from(square)] += _SMALLEST_GAIN**2
    return np.asarray(np.linalg.solve(square, matrix.astype(np.float64) @ product), np.float32)


def _blocks(columns: Floats, blocks: int) -> Floats:
    """Return [outputs, rank] as [blocks, rank, width]."""
    return np.ascontiguousarray(columns.reshape(blocks, -1, columns.shape[1]).transpose(0, 2, 1))


def _rounded(up: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return [blocks, rank, width] in steps, and the step of each output."""
    scales = np.abs(up).max(axis=1, keepdims=True) / np.float32(STEPS)
    # The engine flushes denormals to zero, so a denormal scale would be 0.
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    return np.rint(up / scales).astype(np.int8), scales
