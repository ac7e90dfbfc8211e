"""Write an adapter in PEFT's format with random matrices, as training would leave them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.builder.peft import CONFIG, WEIGHTS
from edged.bundle.tensor_file import write_tensors

_MLP = frozenset({"gate_proj", "up_proj", "down_proj"})
# Inputs and outputs of each projection.
Shapes = Mapping[str, tuple[int, int]]
TINY: Shapes = {
    "q_proj": (64, 64),
    "k_proj": (64, 32),
    "v_proj": (64, 32),
    "o_proj": (64, 64),
    "gate_proj": (64, 96),
    "up_proj": (64, 96),
    "down_proj": (96, 64),
}
SMOLLM2: Shapes = {
    "q_proj": (576, 576),
    "k_proj": (576, 192),
    "v_proj": (576, 192),
    "o_proj": (576, 576),
    "gate_proj": (576, 1536),
    "up_proj": (576, 1536),
    "down_proj": (1536, 576),
}


def write_peft(
    folder: Path,
    shapes: Shapes,
    layers: Iterable[int],
    *,
    rank: int = 4,
    seed: int = 0,
    strength: float = 0.1,
    **config: Any,  # noqa: ANN401 - any key of PEFT's
) -> Path:
    """Write the two files and return the folder; ``strength`` is that of B's numbers."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, size: float) -> NDArray[np.float32]:
        return (random.standard_normal((rows, columns)) * size).astype(np.float32)

    arrays, layers = {}, list(layers)
    for layer in layers:
        for name, (inputs, outputs) in shapes.items():
            module = "mlp" if name in _MLP else "self_attn"
            prefix = f"base_model.model.model.layers.{layer}.{module}.{name}"
            arrays[f"{prefix}.lora_A.weight"] = matrix(rank, inputs, inputs**-0.5)
            arrays[f"{prefix}.lora_B.weight"] = matrix(outputs, rank, strength)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(write_tensors(arrays, {"format": "pt"}))
    said = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "target_modules": sorted(shapes),
        "layers_to_transform": layers,
    }
    (folder / CONFIG).write_text(json.dumps(said | config), encoding="utf-8")
    return folder
