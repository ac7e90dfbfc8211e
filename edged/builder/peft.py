"""Read a folder in PEFT's format: ``adapter_config.json``, ``adapter_model.safetensors``.

Rule: refuse rather than guess. What would change the model and cannot be served stops the reading,
with the key's name; a key that is not known may only be off. The folder may be a stranger's.

Source: ``LoraConfig`` of PEFT 0.18.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.bundle.plain_file import read_plain
from edged.bundle.strict_json import read_json
from edged.bundle.tensor_file import read_tensors
from edged.errors import BuildError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 1 << 18
# Of rank 16 on every projection of a model of half a billion parameters, in fp32: 35 MB.
_MAX_WEIGHTS_BYTES = 256 << 20
_LARGEST = 1e4
_NAME = re.compile(
    r"base_model\.model\.model\.layers\.(\d{1,4})\.(self_attn|mlp)\.(\w{1,32})\.lora_([AB])\.weight"
)
# What each key must hold, and what to do where it does not.
_WANTED: Mapping[str, tuple[tuple[object, ...], str]] = {
    "peft_type": (("LORA",), "train a LoRA adapter"),
    "use_dora": ((False, None), "train without DoRA"),
    "bias": (("none",), "train with bias none"),
    "lora_bias": ((False, None), "train without biases"),
    "fan_in_fan_out": ((False, None), "train on linear layers"),
    "modules_to_save": ((None, []), "train no modules beside LoRA's"),
    "trainable_token_indices": ((None, [], {}), "train no embeddings"),
    "rank_pattern": (({}, None), "train with one rank"),
    "alpha_pattern": (({}, None), "train with one lora_alpha"),
    "init_lora_weights": ((True, False, None, "gaussian"), "start from PEFT's own weights"),
}
# Keys that say how it was trained, or where; the arrays' names say what was trained.
_HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core",
    "peft_version", "qalora_group_size", "r", "revision", "target_modules", "task_type",
    "use_rslora",
})  # fmt: skip

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to one projection: ``x @ down.T @ up.T``."""

    down: Floats
    """[rank, inputs]"""
    up: Floats
    """[outputs, rank], with PEFT's scale."""


# By layer and projection, such as ``(20, "q_proj")``.
PeftAdapter = Mapping[tuple[int, str], LowRank]


def read_peft(folder: Path) -> PeftAdapter:
    """Read an adapter that PEFT, or ``edged teach``, has written.

    Raises:
        BuildError: a file cannot be read, or the adapter cannot be served; with the key's name.
    """
    config = _read_config(folder)
    rank = config["r"]
    scale = np.float32(config["lora_alpha"] / (math.sqrt(rank) if config["rslora"] else rank))
    try:
        tensors, _ = read_tensors(_read(folder / WEIGHTS, _MAX_WEIGHTS_BYTES))
    except ValueError as error:
        raise BuildError(f"{folder / WEIGHTS}: {error}") from error
    found: dict[tuple[int, str], dict[str, Floats]] = {}
    for name, array in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise BuildError(
                f"{folder / WEIGHTS}: {name!r} is no LoRA matrix of a layer's projection; train "
                "nothing else"
            )
        largest = float(np.abs(array).max(initial=0.0))
        is_matrix = array.ndim == 2 and array.size > 0  # noqa: PLR2004
        if not is_matrix or not largest <= _LARGEST:  # NaN compares to nothing
            raise BuildError(f"{folder / WEIGHTS}: {name}: no matrix of finite numbers")
        found.setdefault((int(match[1]), match[3]), {})[match[4]] = array.astype(np.float32)
    if not found:
        raise BuildError(f"{folder / WEIGHTS}: holds nothing that was trained")
    for (layer, name), pair in found.items():
        is_pair = pair.keys() == {"A", "B"}
        if not is_pair or (pair["A"].shape[0], pair["B"].shape[1]) != (rank, rank):
            raise BuildError(f"{folder / WEIGHTS}: layer {layer}, {name}: r is not {rank}")
    return {key: LowRank(pair["A"], pair["B"] * scale) for key, pair in found.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config = read_json(_read(path, _MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise BuildError(f"{path}: must be an object")
    if "peft_type" not in config:
        raise BuildError(f"{path}: peft_type is missing; give a folder that PEFT has written")
    for key, value in config.items():
        allowed, advice = _WANTED.get(key, ((None, False, [], {}), "train without it"))
        if key not in _HARMLESS and not any(_is_same(value, one) for one in allowed):
            raise BuildError(f"{path}: {key} is {_short(value)}, which cannot be served; {advice}")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise BuildError(f"{path}: r must be a whole number of at least 1")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= _LARGEST:
        raise BuildError(f"{path}: lora_alpha must be a number above 0, {_LARGEST:g} at most")
    return {"r": rank, "lora_alpha": alpha, "rslora": config.get("use_rslora") is True}


def _is_same(value: object, wanted: object) -> bool:
    return type(value) is type(wanted) and value == wanted


def _short(value: object) -> str:
    return repr(value)[:40]


def _read(path: Path, most: int) -> bytes:
    try:
        return read_plain(path, most)
    except OSError as error:
        raise BuildError(f"{path}: cannot be read ({error.strerror})") from error
