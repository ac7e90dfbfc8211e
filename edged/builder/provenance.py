"""The versions that a bundle was built with, and the model facts in its configuration and graph.

Rule: no date, no path and no host name, so that two builds of a source are equal.
"""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import edged
from edged.builder.onnx_files import read_graph
from edged.bundle.manifest import ModelFacts
from edged.errors import BuildError

_TOOLS = ("numpy", "onnx", "onnxruntime", "optimum-onnx", "tokenizers", "torch", "transformers")
# Sources that affect a bundle's bytes after the export, which has a version of its own.
_OWN_SOURCES = (
    "adapted.py",
    "blockwise.py",
    "branches.py",
    "calibrate.py",
    "data/calibration.yaml",
    "data/gate_prompts.yaml",
    "data/unseen.txt",
    "fuse/*.py",
    "gate.py",
    "gptq.py",
    "hadamard.py",
    "hidden.py",
    "kvcache.py",
    "measure.py",
    "onnx_files.py",
    "prefill_attention.py",
    "quality.py",
    "quantize.py",
    "rotate.py",
    "search.py",
    "tune.py",
    "verify.py",
    "w8a8.py",
    "weights.py",
)
_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_LENGTH_DEFAULT = 2048
# Longer rotary tables are larger than a small model; a recipe may set more.
_LENGTH_MAX = 32_768
_FLOAT_BYTES = 4


@cache
def tool_versions() -> dict[str, str]:
    """Return the versions that affect a bundle's bytes; ``builder`` is a hash of these sources."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for pattern in _OWN_SOURCES:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    own = {"edged": edged.__version__, "builder": digest.hexdigest()[:12]}
    return own | {name: version(name) for name in _TOOLS}


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a checkpoint, merged with its ``text_config`` (Gemma 3 has one).

    Raises:
        BuildError: it is missing or not a JSON object.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(f"{path}: cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise BuildError(f"{path}: must be an object")
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def context_limit(config: dict[str, Any], wanted: int | None) -> int:
    """Return the context length of a bundle in tokens.

    Args:
        config: of the checkpoint.
        wanted: the recipe's; None takes the model's own, up to 32,768.

    Raises:
        BuildError: the recipe's is longer than the model's own.
    """
    named = [config[key] for key in _LENGTH_KEYS if type(config.get(key)) is int]
    own = next((length for length in named if length > 0), None)
    if wanted is None:
        return min(own or _LENGTH_DEFAULT, _LENGTH_MAX)
    if own is not None and wanted > own:
        raise BuildError(
            f"max_model_len: {wanted} is more than the model's own {own}; lower it in the recipe"
        )
    return wanted


def model_facts(config: dict[str, Any], parameters: int, graph_folder: Path) -> ModelFacts:
    """Return a model's sizes, as its graph has them.

    Raises:
        BuildError: the graph's logits or caches have no fixed size.
    """
    graph = read_graph(graph_folder).graph
    caches = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.input
        if value.name.startswith("past_key_values.")
    ]
    logits = [
        value.type.tensor_type.shape.dim[-1].dim_value
        for value in graph.output
        if value.name == "logits"
    ]
    row_sizes = [heads * size for _, heads, _, size in caches]
    if not all((*row_sizes, *logits)) or not row_sizes or not logits:
        raise BuildError(f"{graph_folder}: the graph's logits or caches have no fixed size")
    return ModelFacts(
        family=str(config.get("model_type", "unknown")),
        parameters=parameters,
        vocab_size=logits[0],
        num_layers=len(caches) // 2,
        kv_bytes_per_token=_FLOAT_BYTES * sum(row_sizes),
    )
