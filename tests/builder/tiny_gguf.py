"""Small .gguf files, the same on every machine: vocabularies trained here, random weights.

Merges are learned across word borders on purpose: a tokenizer that cuts text at other places than
the model's own then gives other ids at once.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import pre_tokenizers

CORPUS = (
    "The boiler in the cellar is off. Is the boiler off? It's 21.5 degrees in room 12; I'll "
    "call, we've called, they're calling, I'd call, don't call, he's called, I'm called.\n"
    "IT'S 1234567890 AND 2024-02-29 at 07:30, 100%, 1,000,000.00 $5 (see §3)!!! ...\n\n"
    "def f(x):\n\treturn {'a': [x ** 2]}  # done\r\n\r\n    if a >= b and c != d:\n        pass\n"
    "Котёл в подвале выключен. Сколько градусов? Привет, мир! "
    "你好世界 今天几度 ありがとう 안녕하세요 مرحبا بالعالم ١٢٣ नमस्ते "
    "naïve café — “quoted” … 👍🏽 👩\u200d👩\u200d👧 🇫🇷 €5 ½ x² \u00a0\u3000 a  b   c    d\t\te "
) * 3
MAX_MERGES = 400
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = "<tool_call>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)


@dataclass(frozen=True)
class TinyVocabulary:
    """The tokenizer part of a file, in the form of the gguf writer."""

    model: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    bos_id: int | None = 1
    eos_id: int | None = 2
    extra: dict[str, Any] = field(default_factory=dict)
    """Further keys under ``tokenizer.ggml.``: pre, add_bos_token, add_space_prefix."""
    template: str | None = None


def byte_level(pre: str | None, **extra: object) -> TinyVocabulary:
    """Make a byte-level BPE vocabulary; the same for each splitting rule."""
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    merges = train(tuple(to_bytes.pre_tokenize_str(line)[0][0] for line in _lines(CORPUS)))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    normal = [*letters, *(left + right for left, right in merges)]
    return TinyVocabulary(
        model="gpt2",
        tokens=[*SPECIAL, *normal, USER_DEFINED],
        types=[3] * len(SPECIAL) + [1] * len(normal) + [4],
        merges=[f"{left} {right}" for left, right in merges],
        extra={"pre": pre, **extra} if pre else dict(extra),
        template=TEMPLATE,
    )


def sentencepiece(**extra: object) -> TinyVocabulary:
    """Make a SentencePiece BPE vocabulary with scores and byte tokens."""
    # As SentencePiece does: line ends and tabs are only bytes, never part of a piece.
    text = re.sub(r"[\n\r\t]", "", CORPUS).replace(" ", "\u2581")
    merges = train(tuple(_lines(text)))
    pieces = [left + right for left, right in merges]
    letters = sorted(set(text))
    normal = list(dict.fromkeys([*pieces, *letters]))
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return TinyVocabulary(
        model="llama",
        tokens=[*special, *normal, *SPECIAL, USER_DEFINED],
        types=[2, 3, 3, *[6] * 256, *[1] * len(normal), *[3] * len(SPECIAL), 4],
        scores=[0.0] * len(special)
        + [-float(rank) for rank in range(len(normal))]
        + [0.0] * (len(SPECIAL) + 1),
        extra={"pre": "default", **extra},
    )


@cache
def train(lines: tuple[str, ...]) -> list[tuple[str, str]]:
    """Learn merges: always the most frequent pair, the smaller one when two are as frequent."""
    sequences = [list(line) for line in lines]
    merges: list[tuple[str, str]] = []
    made: set[str] = set()
    while len(merges) < MAX_MERGES:
        counts = Counter(pair for sequence in sequences for pair in pairwise(sequence))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        if counts[best] == 1:
            break
        if "".join(best) not in made:
            merges.append(best)
            made.add("".join(best))
        sequences = [_merge(sequence, best) for sequence in sequences]
    return merges


def write(
    path: Path,
    vocabulary: TinyVocabulary,
    *,
    weights: bool = True,
    architecture: str = "llama",
    **keys: object,
) -> Path:
    """Write a model of 2 layers with this vocabulary; ``keys`` go under the architecture's name."""
    writer = gguf.GGUFWriter(path, architecture)
    hyperparameters: dict[str, object] = {
        "context_length": 128,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": 8,
        "rope.freq_base": 10000.0,
        "vocab_size": len(vocabulary.tokens),
        **keys,
    }
    for key, value in hyperparameters.items():
        _add(writer, f"{architecture}.{key}", value)
    _add(writer, "general.license", "apache-2.0")
    _add_vocabulary(writer, vocabulary)
    if weights:
        for name, array in tensors(len(vocabulary.tokens)).items():
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(vocab_size: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Make the weights, by their names in the file."""
    random = np.random.default_rng(7)
    layer = {
        "attn_norm": (32,),
        "attn_q": (32, 32),
        "attn_k": (16, 32),
        "attn_v": (16, 32),
        "attn_output": (32, 32),
        "ffn_norm": (32,),
        "ffn_gate": (64, 32),
        "ffn_up": (64, 32),
        "ffn_down": (32, 64),
    }
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab_size, 32)}
    shapes |= {f"blk.{i}.{name}.weight": shape for i in range(2) for name, shape in layer.items()}
    shapes["output_norm.weight"] = (32,)
    return {name: random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: TinyVocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)
    if vocabulary.eos_id is not None:
        writer.add_eos_token_id(vocabulary.eos_id)
    if vocabulary.model == "llama":
        writer.add_unk_token_id(0)
    for key, value in vocabulary.extra.items():
        _add(writer, f"tokenizer.ggml.{key}", value)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, str(value))


def _lines(text: str) -> list[str]:
    # Chunks of 24 characters, whatever they contain: see the docstring of the module.
    return [text[start : start + 24] for start in range(0, len(text), 24)]


def _merge(sequence: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(sequence):
        if tuple(sequence[index : index + 2]) == pair:
            merged.append("".join(pair))
            index += 2
        else:
            merged.append(sequence[index])
            index += 1
    return merged
