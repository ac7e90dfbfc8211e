"""Tiny random models of the families that the builder knows, exported by Optimum.

Rule: nothing keeps a default that would hide a mistake: norms, biases and projections are all
random, and wide enough that logits are not flat.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx import onnx_export_from_model
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

VOCAB_SIZE = 160

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

FUSED: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "gemma3_text": {
        "head_dim": 16,
        "num_hidden_layers": 3,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 24,
    },
    "phi3": {},
    "smollm3": {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]},
    "granite": {
        "attention_multiplier": 0.15,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.7,
        "logits_scaling": 2.0,
    },
}
"""Families that must fuse, with the settings that a tiny configuration of each needs."""

PORTABLE: dict[str, dict[str, Any]] = {
    # Optimum exports no grouped heads for phi; half of a head is rotated, 8, which is too few.
    "phi": {"num_key_value_heads": 4},
    "gemma": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 8,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 2.0,
    },
    "gpt2": {"n_positions": 256},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "falcon": {"alibi": False, "new_decoder_architecture": False},
}
"""Families that Optimum exports and that may take the portable path."""


def tiny_config(family: str, **overrides: object) -> PretrainedConfig:
    """Return the configuration of a tiny model; ``overrides`` win over the family's own."""
    specials = FUSED.get(family, PORTABLE.get(family, {}))
    return AutoConfig.for_model(family, **(_SHAPE | specials | overrides))


def tiny_model(family: str, *, seed: int = 0, **overrides: object) -> PreTrainedModel:
    """Return a tiny random model in float32; the same seed gives the same weights."""
    config = tiny_config(family, **overrides)
    # The fast attention of torch leaves gemma2's soft cap out.
    attention = "eager" if getattr(config, "attn_logit_softcapping", None) else None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            _randomise(name, weight, generator)
    # transformers fills these from the tokenizer's conventions; a folder needs them consistent.
    model.generation_config.pad_token_id = 0
    return model


def _randomise(name: str, weight: torch.Tensor, generator: torch.Generator) -> None:
    """Overwrite one parameter with random values of a scale that suits its role."""
    if weight.ndim > 1:
        is_table = "embed" in name or "wte" in name or "wpe" in name
        std = 1.0 if is_table else 1.5 / weight.shape[-1] ** 0.5
        weight.normal_(0.0, std, generator=generator)
    elif name.endswith("bias"):
        weight.normal_(0.0, 0.3, generator=generator)
    else:  # a norm; the offset keeps its sign, whether the model uses w or 1 + w
        weight.add_(torch.rand(weight.shape, generator=generator) - 0.5)


def export_tiny(folder: Path, family: str, *, seed: int = 0, **overrides: object) -> Path:
    """Export a tiny random model to ``folder`` as Optimum's ``text-generation-with-past``.

    The folder then holds ``model.onnx``, ``config.json`` and ``generation_config.json``, and no
    tokenizer. Takes a few seconds.
    """
    export_model(tiny_model(family, seed=seed, **overrides), folder)
    return folder


def export_model(model: PreTrainedModel, folder: Path) -> None:
    """Export ``model`` to ``folder`` with Optimum, without its own validation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns about every shape it turns constant
        onnx_export_from_model(
            model, folder, task="text-generation-with-past", do_validation=False, device="cpu"
        )
