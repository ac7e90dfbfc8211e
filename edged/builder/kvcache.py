"""Quantize the KV cache of a fused graph to int8: a quarter of its memory.

Each feature of each head has a static scale from the calibration text; keys are quantized after
their rotation. No weight changes, so both forms of a graph share their data file.

Rule: a row of the cache is rounded once, when it is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.builder.calibrate import open_fused, prompt_feeds
from edged.builder.onnx_files import read_graph, write_graph
from edged.builder.prefill_attention import ATTENTION, Scales, write_branches
from edged.builder.weights import SourceGraph
from edged.bundle.manifest import ADAPTED_MODEL

_STEPS = 127
# Larger values than in the calibration text are clipped, which costs more than coarser steps.
# SmolLM2-135M, mean KL: 0.0067 with 1.0, 0.0061 with 1.1, 0.0059 with 1.25.
_HEADROOM = 1.25
_PRESENT = "present."

# For each ``present.*`` output the largest magnitude of its features, [KV heads, head size].
Peaks = Mapping[str, NDArray[np.float32]]


def measure_peaks(fused_folder: Path, sequences: Sequence[Sequence[int]]) -> Peaks:
    """Run a fused fp32 graph over token ids; return the peaks of its keys and values."""
    graph = SourceGraph(fused_folder)
    caches = [value for value in graph.model.graph.output if value.name.startswith(_PRESENT)]
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(caches)
    graph.remove_unused()
    session = open_fused(graph.model, fused_folder)
    names = [value.name for value in caches]
    peaks: dict[str, NDArray[np.float32]] = {}
    for sequence in sequences:
        values = session.run(names, prompt_feeds(session, np.asarray(sequence, np.int64)))
        for name, value in zip(names, values, strict=True):
            largest = np.abs(np.asarray(value, np.float32)[0]).max(axis=1)
            peaks[name] = np.maximum(peaks[name], largest) if name in peaks else largest
    return peaks


def write_int8_cache(folder: Path, peaks: Peaks) -> None:
    """Rewrite ``model.onnx`` of a fused graph for an int8 cache; its weights stay.

    Where its products can take adapters, ``adapted.onnx`` is written beside it.

    Raises:
        BuildError: the graph cannot be read.
    """
    model = read_graph(folder)
    graph = model.graph
    for value in _caches([*graph.input, *graph.output]):
        value.type.tensor_type.elem_type = onnx.TensorProto.INT8
    _remove_spare_rows(graph)
    attentions = [node for node in graph.node if node.op_type == ATTENTION]
    scales = {node.output[0]: _scales(node, peaks) for node in attentions}
    for node in attentions:
        for key in ("k_quant_type", "v_quant_type"):
            node.attribute.append(onnx.helper.make_attribute(key, "PER_CHANNEL"))
        node.attribute.append(onnx.helper.make_attribute("kv_cache_bit_width", 8))
    adapted = write_branches(graph, scales)
    write_graph(folder, model)
    if adapted is not None:
        graph.CopyFrom(adapted)
        write_graph(folder, model, ADAPTED_MODEL)


def _remove_spare_rows(graph: onnx.GraphProto) -> None:
    """Remove the ``Pad`` and ``Slice`` that ``fuse`` writes around attention."""
    # The int8 kernel computes a single query as it does several, so it needs no spare row.
    attentions = [node for node in graph.node if node.op_type == ATTENTION]
    pads = {node.output[0]: node for node in graph.node if node.op_type == "Pad"}
    slices = {node.input[0]: node for node in graph.node if node.op_type == "Slice"}
    for node in attentions:
        before = [pads[name] for name in node.input[:3] if name]
        for index, name in enumerate(node.input[:3]):
            node.input[index] = pads[name].input[0] if name else ""
        after = slices[node.output[0]]
        node.output[0] = after.output[0]
        for other in (*before, after):
            graph.node.remove(other)


def _caches(values: Iterable[onnx.ValueInfoProto]) -> Iterable[onnx.ValueInfoProto]:
    return (v for v in values if v.name.startswith(("past_key_values.", _PRESENT)))


def _scales(node: onnx.NodeProto, peaks: Peaks) -> Scales:
    key, value = (
        # A feature that was always zero needs a scale too: 0 would make it NaN.
        np.maximum(peaks[name].reshape(-1) * (_HEADROOM / _STEPS), np.finfo(np.float32).tiny)
        for name in node.output[1:3]
    )
    return key.astype(np.float32), value.astype(np.float32)
