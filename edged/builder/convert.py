"""Convert a .gguf file to a Hugging Face folder, or a slow tokenizer to a fast one.

Transformers converts the weights of a .gguf file, ``gguf_tokenizer`` its tokenizer. Runs in
``child``.

Rule: a hyperparameter, weight or token that the conversion would lose is an error.
"""

import functools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig

from edged.builder.child import OnProgress, one_line
from edged.builder.claims import check_claims
from edged.builder.gguf import GgufFile, Vocabulary, read_gguf
from edged.builder.gguf_tokenizer import adds_bos, build_tokenizer
from edged.builder.stop_tokens import turn_end
from edged.builder.store import no_space
from edged.builder.tokenizer_check import check_tokenizer, check_words
from edged.errors import BuildError

_STEPS = 4
_FP32_BYTES = 4
_TOLERANCE = 1e-5

# By key of the file, the attribute of the configuration that must have the same value.
_CONFIG_NAMES = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": "vocab_size",
}

# Keys without an attribute, with their values that have no effect.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "rope.scaling.type": ("none",),
    "expert_count": (0,),
    "expert_used_count": (0,),
}


def convert(on_progress: OnProgress, gguf_path: str, folder: str) -> dict[str, Any]:
    """Write the model of a .gguf file into an empty folder: safetensors, config and tokenizer.

    Returns:
        The facts about its tokens and licence, as ``fetch.Checkpoint`` names them.

    Raises:
        BuildError: A part of the file would be lost or is not known to be right.
    """
    source, target = Path(gguf_path), Path(folder)
    on_progress(0, _STEPS)
    with _read_once():
        return _convert(on_progress, source, target)


@contextmanager
def _read_once() -> Iterator[None]:
    """Keep what gguf reads: Transformers asks for it again and again, and it takes seconds."""
    names = "GGUFReader", "get_tensor_name_map"
    originals = {name: getattr(gguf, name) for name in names}
    try:
        for name, original in originals.items():
            setattr(gguf, name, functools.cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def _convert(on_progress: OnProgress, source: Path, target: Path) -> dict[str, Any]:
    file = read_gguf(source)
    on_progress(1, _STEPS)
    need_bytes = _FP32_BYTES * sum(file.tensor_sizes.values())
    if shutil.disk_usage(target).free < need_bytes:
        raise BuildError(no_space(target.parent, need_bytes))
    tokenizer = build_tokenizer(file.vocabulary)
    check_tokenizer(tokenizer, file.vocabulary)
    facts = _token_facts(file.vocabulary, tokenizer)
    on_progress(2, _STEPS)
    model = _load(source, file)
    on_progress(3, _STEPS)
    model.config.bos_token_id = file.vocabulary.bos_id
    model.config.eos_token_id = facts["stop_token_ids"]
    model.generation_config.eos_token_id = facts["stop_token_ids"]
    # Transformers writes a path here, which would differ between equal builds.
    model.config.name_or_path = ""
    model.save_pretrained(target, safe_serialization=True)
    _save_tokenizer(tokenizer, facts, target)
    on_progress(_STEPS, _STEPS)
    return {**facts, "licence": file.licence}


def convert_tokenizer(on_progress: OnProgress, folder: str, target: str) -> None:
    """Write the fast form of the slow tokenizer in ``folder`` to the file ``target``.

    Raises:
        BuildError: It cannot be converted, or the result splits words into letters.
    """
    on_progress(0, None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, local_files_only=True)
        fast = tokenizer.backend_tokenizer
        fast.save(target)
    except (ValueError, ImportError, AttributeError, OSError, TypeError) as error:
        raise BuildError(
            f"{folder}: there is no tokenizer.json in it, and the slow tokenizer cannot be "
            f"converted ({one_line(error)}): save it once with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...) and build from that"
        ) from error
    # Some conversions split words into letters.
    check_words(fast, [(token_id, text) for text, token_id in sorted(fast.get_vocab().items())])


def _token_facts(vocabulary: Vocabulary, tokenizer: Tokenizer) -> dict[str, Any]:
    bos, eos = vocabulary.text(vocabulary.bos_id), vocabulary.text(vocabulary.eos_id)
    stops = {vocabulary.eos_id, *vocabulary.end_ids}
    if vocabulary.chat_template:
        stops.add(turn_end(vocabulary.chat_template, tokenizer, bos, eos))
    stop_token_ids = sorted(stop for stop in stops if stop is not None)
    if not stop_token_ids:
        raise BuildError("the file names no end of text, so an answer would never stop")
    return {
        "stop_token_ids": stop_token_ids,
        "chat_template": vocabulary.chat_template or None,
        "bos_token": bos,
        "eos_token": eos,
        "add_bos_token": adds_bos(vocabulary),
    }


def _load(source: Path, file: GgufFile) -> Any:  # noqa: ANN401 - transformers is untyped
    try:
        config = AutoConfig.from_pretrained(
            source.parent, gguf_file=source.name, local_files_only=True
        )
        check_claims(config, file.tensor_sizes.values(), source)
        model, info = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=True,
        )
    except (ValueError, NotImplementedError, KeyError, RuntimeError) as error:
        raise BuildError(
            f"the weights of a {file.architecture} file cannot be read: {one_line(error)}; "
            "build from the model's Hugging Face folder instead"
        ) from error
    problems = [
        *(f"weight {name} is missing" for name in info["missing_keys"]),
        *(f"weight {name} has another shape" for name in info["mismatched_keys"]),
        *_lost_hyperparameters(file, model.config),
        *_lost_weights(file, model),
    ]
    if problems:
        raise BuildError(
            f"this {file.architecture} file cannot be converted faithfully: "
            f"{'; '.join(problems[:5])}; build from the model's Hugging Face folder instead"
        )
    return model


def _lost_hyperparameters(file: GgufFile, config: PretrainedConfig) -> list[str]:
    problems = []
    for key, value in file.hyperparameters.items():
        if value in _NEUTRAL.get(key, ()):
            continue
        if key not in _CONFIG_NAMES:
            problems.append(f"{file.architecture}.{key} = {value!r} is not understood")
            continue
        converted = _attribute(config, _CONFIG_NAMES[key])
        if not _is_same(value, converted):
            problems.append(f"{file.architecture}.{key} = {value!r} became {converted!r}")
    return problems


def _attribute(config: PretrainedConfig, name: str) -> object:
    value = getattr(config, name, None)
    if name == "head_dim" and value is None:
        return config.hidden_size // config.num_attention_heads
    return value


def _is_same(value: object, converted: object) -> bool:
    if isinstance(value, int | float) and isinstance(converted, int | float):
        return abs(value - converted) <= _TOLERANCE * abs(value)
    return value == converted


def _lost_weights(file: GgufFile, model: torch.nn.Module) -> list[str]:
    ours = sum(parameter.numel() for parameter in model.parameters())
    theirs = sum(file.tensor_sizes.values())
    if ours == theirs:
        return []
    return [f"it holds {theirs} weights, the converted model {ours}"]


def _save_tokenizer(tokenizer: Tokenizer, facts: dict[str, Any], folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("chat_template", "bos_token", "eos_token", "add_bos_token")
    config = {name: facts[name] for name in names if facts[name] is not None}
    text = json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=1)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
