"""Adapters that were trained, in PEFT's folder and out of it; ``peft`` reads it."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from edged.builder.lora import ATTENTION, LINEARS, AdapterForm
from edged.builder.peft import CONFIG, WEIGHTS, PeftAdapter


def write_peft(
    folder: Path, form: AdapterForm, state: Mapping[str, torch.Tensor], base: str
) -> None:
    """Write a folder that PEFT reads.

    Args:
        folder: Made where it is missing.
        form: Of the adapters.
        state: A and B by PEFT's names.
        base: What the model is called.

    Raises:
        OSError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": form.rank,
        "lora_alpha": form.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(form.targets),
        "layers_to_transform": list(form.layers),
        "layers_pattern": "layers",
        "inference_mode": True,
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    tensors = {name: one.contiguous().to(torch.float32) for name, one in state.items()}
    save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt"})


def trained(adapter: PeftAdapter) -> tuple[AdapterForm, dict[str, torch.Tensor]]:
    """Return PEFT's adapter as one that was trained here: its form, and A and B by PEFT's names.

    What it does not adapt of the layers and linears that it names otherwise is zero.
    """
    layers = tuple(sorted({layer for layer, _ in adapter}))
    names = {name for _, name in adapter}
    targets = tuple(one for one in LINEARS if one in names)
    rank = max(len(pair.down) for pair in adapter.values())
    state = {}
    for layer in layers:
        for name in targets:
            pair = adapter.get((layer, name))
            other = next(one for (_, found), one in adapter.items() if found == name)
            down, up = (np.zeros_like(other.down), np.zeros_like(other.up))
            if pair is not None:
                down, up = pair.down, pair.up
            module = "self_attn" if name in ATTENTION else "mlp"
            prefix = f"base_model.model.model.layers.{layer}.{module}.{name}"
            state[f"{prefix}.lora_A.weight"] = torch.from_numpy(down)
            state[f"{prefix}.lora_B.weight"] = torch.from_numpy(up)
    # PEFT's scale is in B.
    return AdapterForm(rank, float(rank), targets, layers), state
