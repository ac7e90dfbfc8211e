"""The gate of an adapter: the adapted bundle against the adapted fp32 model, on its own prompts.

Rule: a miss says what to do; an adapter without a passed gate is not written.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edged.builder.adapted import find_products
from edged.builder.adapters import convert_adapter
from edged.builder.measure import compare_marked
from edged.builder.onnx_files import read_graph
from edged.builder.peft import PeftAdapter, read_peft
from edged.builder.progress import Activity
from edged.builder.store import disk_errors
from edged.bundle.folder import Bundle
from edged.bundle.manifest import MODEL, MODEL_DATA
from edged.engine.loading import load_graph
from edged.errors import BuildError
from edged.specialists.adapter import AdapterPart, made_adapter

MAX_MEAN_KL = 0.010


class AdapterGateError(BuildError):
    """The adapted bundle is too far from the adapted fp32 model."""


class MeanKl(NamedTuple):
    """Mean KL of an adapted bundle to the adapted fp32 model, in nats for each token."""

    answers: float
    """Over the tokens of answers alone, which the gate limits."""
    rows: float
    """Over prompts and answers."""
    # An adapter learns from the tokens of answers alone, and none of its predictions of a prompt's
    # next token is ever said. What 8 bits change of a prompt's keys and values is in the figure of
    # the answer, which reads them.


def gated_adapter(
    peft_folder: Path,
    bundle: Bundle,
    reference_folder: Path,
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]],
    activity: Activity | None = None,
) -> tuple[dict[str, AdapterPart], MeanKl]:
    """Convert PEFT's adapter and measure it; blocks for minutes.

    Args:
        peft_folder: may be a stranger's.
        bundle: the model that it is for.
        reference_folder: holds the fused fp32 graph that the bundle was made of.
        sequences: token ids of prompts with their answers, which the adapter was not trained on,
            and which of them are an answer's; only these count for the gate, see ``MeanKl``.
        activity: receives the progress.

    Returns:
        The adapter in the bundle's form, and its distances.

    Raises:
        AdapterGateError: it misses the gate.
        BuildError: it cannot be read or served, or nothing can be compared.
    """
    parts = convert_adapter(peft_folder, bundle.manifest, reference_folder)
    adapter = read_peft(peft_folder)
    kl = measure_adapter(adapter, parts, bundle, reference_folder, sequences, activity)
    if not kl.answers <= MAX_MEAN_KL:
        raise AdapterGateError(
            f"the adapted int8 model differs from the adapted fp32 model by a mean KL of "
            f"{kl.answers:.4f} over the tokens of answers ({kl.rows:.4f} with the prompts'), "
            f"{MAX_MEAN_KL:g} at most; train with a lower lora_alpha or "
            "learning rate, or with fewer of target_modules or layers_to_transform"
        )
    return parts, kl


def measure_adapter(
    adapter: PeftAdapter,
    parts: dict[str, AdapterPart],
    bundle: Bundle,
    reference_folder: Path,
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]],
    activity: Activity | None = None,
) -> MeanKl:
    """Compare an adapted bundle with the fp32 model into which the adapter is merged.

    Raises:
        BuildError: a graph takes no adapter, or nothing can be compared.
    """
    length = max((len(ids) for ids, _ in sequences), default=0)
    candidate = load_graph(bundle.adapted_path, is_fused=True, max_model_len=length)
    try:
        candidate.adapt(0, made_adapter(parts))
    except ValueError as error:
        raise BuildError(f"{bundle.folder}: {error}") from error
    with tempfile.TemporaryDirectory(prefix="edged-adapter-") as folder:
        merge(adapter, reference_folder, Path(folder))
        reference = load_graph(Path(folder) / MODEL, is_fused=True, max_model_len=length)
        figures = compare_marked(reference, candidate, sequences, activity)
    return MeanKl(*(one.mean_kl for one in figures))


def merge(adapter: PeftAdapter, reference_folder: Path, folder: Path) -> None:
    """Write the fp32 graph with the adapter added to its weights into an empty folder.

    Raises:
        BuildError: there is no room for it.
    """
    source = reference_folder / MODEL_DATA
    with disk_errors(folder, source.stat().st_size):
        shutil.copyfile(reference_folder / MODEL, folder / MODEL)
        shutil.copyfile(source, folder / MODEL_DATA)
    graph = read_graph(folder).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights = {
        node.name: tensors[node.input[1]]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in tensors
    }
    for product in find_products(graph, "MatMul").values():
        tensor, start = weights[product.node], 0
        entries = {entry.key: entry.value for entry in tensor.external_data}
        offset = int(entries.get("offset", 0))
        weight = np.memmap(folder / MODEL_DATA, "<f4", "r+", offset, tuple(tensor.dims))
        for name, width in product.linears.items():
            pair = adapter.get((product.layer, name))
            if pair is not None:
                weight[:, start : start + width] += (pair.up @ pair.down).T
            start += width
        weight.flush()
