"""Adapters in PEFT's folder: ``adapter_config.json`` and ``adapter_model.safetensors``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edged.builder.lora import LINEARS, MAX_RANK, AdapterForm
from edged.errors import UsageError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_BYTES = 256 << 20
_MAX_LAYERS = 1024
# What changes the numbers in a way that is not carried over.
_UNUSED = ("use_rslora", "use_dora", "fan_in_fan_out", "modules_to_save", "rank_pattern")


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


def read_peft(folder: Path, num_layers: int) -> tuple[AdapterForm, dict[str, torch.Tensor]]:
    """Read a folder that PEFT, or ``write_peft``, wrote.

    Args:
        folder: May come from elsewhere.
        num_layers: Of the model.

    Raises:
        UsageError: It cannot be read, or holds what edged has no use for.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if (folder / WEIGHTS).stat().st_size > _MAX_BYTES:
            raise UsageError(f"{folder}: {WEIGHTS} is larger than {_MAX_BYTES >> 20} MiB")
        state = load_file(str(folder / WEIGHTS))
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise UsageError(f"{folder}: cannot be read as PEFT's folder ({error})") from error
    try:
        return _form(config, num_layers), state
    except ValueError as error:
        raise UsageError(f"{folder}: {CONFIG}: {error}") from error


def _form(config: Any, num_layers: int) -> AdapterForm:  # noqa: ANN401 - of JSON
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError("peft_type: must be LORA")
    for key in _UNUSED:
        if config.get(key):
            raise ValueError(f"{key}: is not supported; train without it")
    if config.get("bias", "none") != "none":
        raise ValueError("bias: must be none")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not 0 < rank <= MAX_RANK:
        raise ValueError(f"r: must be from 1 to {MAX_RANK}")
    if not isinstance(alpha, int | float) or not 0 < alpha <= _MAX_LAYERS * MAX_RANK:
        raise ValueError("lora_alpha: must be a number above 0")
    layers = _layers(config.get("layers_to_transform"), num_layers)
    return AdapterForm(rank, float(alpha), _targets(config.get("target_modules")), layers)


def _targets(value: object) -> tuple[str, ...]:
    targets = LINEARS if value == "all-linear" else value
    if not isinstance(targets, list | tuple) or not targets or set(targets) - set(LINEARS):
        raise ValueError(f"target_modules: must be some of {', '.join(LINEARS)}")
    return tuple(one for one in LINEARS if one in targets)


def _layers(value: object, num_layers: int) -> tuple[int, ...]:
    layers = list(range(num_layers)) if value is None else value
    layers = [layers] if isinstance(layers, int) else layers
    if not isinstance(layers, list) or not layers or not set(layers) <= set(range(num_layers)):
        raise ValueError(f"layers_to_transform: the model has {num_layers} layers")
    return tuple(sorted(set(layers)))
