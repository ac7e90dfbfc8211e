"""Run the fp32 graph over the calibration text and measure second moments of its activations.

Rule: the text is committed and shares nothing with the gate's, so the gate stays independent.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tokenizers
import yaml
from numpy.typing import NDArray

from edged.builder.weights import SourceGraph

# An input that only a fused graph has.
_TEXT = "calibration.yaml"
FUSED_INPUT = "seqlens_k"
# Moments are a square matrix for each activation: 64 MiB at this width.
_WIDTH_MAX = 4096
# Tokens of several texts whose activations are multiplied at once: to add up such matrices takes
# as long as to multiply a few hundred rows.
_ROWS = 1024

# By activation of K features: the sum of its rows' outer products, [K, K].
Moments = Mapping[str, NDArray[np.float32]]


def calibration_ids(tokenizer_path: Path, max_model_len: int) -> list[list[int]]:
    """Return the token ids of the committed texts, each cut to ``max_model_len``."""
    text = (resources.files("edged.builder") / "data" / _TEXT).read_text(encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_path))
    return [tokenizer.encode(entry).ids[:max_model_len] for entry in yaml.safe_load(text)]


def measure_moments(source_folder: Path, sequences: Sequence[Sequence[int]]) -> Moments:
    """Return the moments of the inputs of a fused graph's products; blocks for seconds.

    Empty for a portable graph, or without token ids.
    """
    graph = SourceGraph(source_folder)
    inputs = {value.name for value in graph.model.graph.input}
    if FUSED_INPUT not in inputs or not sequences:
        return {}
    names = _product_inputs(graph)
    del graph.model.graph.output[:]
    graph.model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    graph.remove_unused()
    session = open_fused(graph.model, source_folder)
    moments: dict[str, NDArray[np.float32]] = {}
    held: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    num_rows = 0
    for sequence in sequences:
        values = session.run(names, prompt_feeds(session, np.asarray(sequence, np.int64)))
        for name, value in zip(names, values, strict=True):
            if value.shape[-1] <= _WIDTH_MAX:
                held[name].append(np.asarray(value, np.float32).reshape(-1, value.shape[-1]))
        num_rows += len(sequence)
        if num_rows >= _ROWS:
            _add(moments, held)
            num_rows = 0
    _add(moments, held)
    return moments


def _add(
    moments: dict[str, NDArray[np.float32]], held: Mapping[str, list[NDArray[np.float32]]]
) -> None:
    """Add the moments of what is held, and hold it no longer."""
    for name, parts in held.items():
        if parts:
            rows = np.concatenate(parts)
            product = rows.T @ rows
            if name in moments:
                product += moments[name]
            moments[name] = product
            parts.clear()


def _product_inputs(graph: SourceGraph) -> list[str]:
    """Return each activation that a weight multiplies, once, in the graph's order."""
    return list(
        dict.fromkeys(
            node.input[0]
            for node in graph.model.graph.node
            if node.op_type in {"MatMul", "Gemm"} and graph.matrix(node.input[1]) is not None
        )
    )


def open_fused(model: onnx.ModelProto, folder: Path) -> onnxruntime.InferenceSession:
    """Load a graph that was changed in memory, with its weights from ``folder``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def prompt_feeds(
    session: onnxruntime.InferenceSession, token_ids: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return a fused graph's inputs for one prompt, an empty cache and the logits of all rows."""
    count = len(token_ids)
    known: dict[str, NDArray[Any]] = {
        "input_ids": token_ids[None],
        # Counts include the spare row that ``fuse`` adds.
        "seqlens_k": np.array([count], np.int32),
        "total_sequence_length": np.array(count + 1, np.int32),
        "query_seqlens": np.array([count + 1], np.int32),
        "rows": np.arange(count, dtype=np.int64),
    }
    inputs = {value.name: value.shape for value in session.get_inputs()}
    for name in inputs.keys() - known.keys():
        _, heads, _, size = inputs[name]
        known[name] = np.zeros((1, heads, count + 1, size), np.float32)
    return {name: known[name] for name in inputs}
