"""The quality gate's text: committed prompts, each with the fp32 model's greedy answer.

Rule: the text is the same for every scheme of a source, so that their figures are comparable.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import yaml

from edged.builder.measure import shared_length
from edged.builder.progress import Activity
from edged.builder.store import disk_errors
from edged.bundle.folder import Bundle
from edged.engine.graph import Graph
from edged.engine.tokenizer import Tokenizer
from edged.errors import BuildError
from edged.protocol.request import ChatMessage

# Positions that the gate must compare, at least.
TOKENS_MIN = 4000
_ANSWER_TOKENS = 32
_PREFILL_TOKENS = 128
_PROMPTS = "gate_prompts.yaml"

TokenIds = list[list[int]]


@functools.cache
def gate_prompts() -> tuple[str, ...]:
    """Return the committed prompts, alternating household, industrial and general ones."""
    text = (resources.files("edged.builder") / "data" / _PROMPTS).read_text(encoding="utf-8")
    groups = yaml.safe_load(text).values()
    return tuple(itertools.chain.from_iterable(zip(*groups, strict=True)))


def gate_sequences(bundle: Bundle, reference: Graph, cache: Path, activity: Activity) -> TokenIds:
    """Return the gate's token ids; ``reference`` generates the answers once, then they are cached.

    Args:
        bundle: has the tokenizer, template and stop tokens.
        reference: the fp32 graph of the same source.
        cache: the build cache.
        activity: receives the number of tokens done.

    Raises:
        BuildError: the context is too short for a prompt and its answer.
    """
    tokenizer = Tokenizer.load(bundle)
    prompts = _encode(tokenizer, reference.max_model_len)
    path = cache / "gate" / f"{_key(bundle, prompts)}.json"
    cached = _read(path)
    if cached is not None:
        return cached
    shared = shared_length(prompts)
    sequences: TokenIds = []
    num_tokens = 0
    for prompt in prompts:
        # A tokenizer with short tokens does not need all prompts.
        if num_tokens >= TOKENS_MIN:
            break
        activity.update(num_tokens, TOKENS_MIN)
        sequence = prompt + _answer(reference, prompt, bundle.manifest.stop_token_ids)
        num_tokens += len(sequence) - 1 - shared
        sequences.append(sequence)
    text = json.dumps(sequences)
    with disk_errors(path.parent, len(text)):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="ascii")
        partial.replace(path)
    return sequences


def _encode(tokenizer: Tokenizer, max_model_len: int) -> TokenIds:
    room = max_model_len - _ANSWER_TOKENS
    if room < 1:
        raise BuildError(
            f"max_model_len {max_model_len} leaves no room for the quality gate's prompts; "
            f"it must be above {_ANSWER_TOKENS}"
        )
    return [
        tokenizer.encode_chat([ChatMessage("user", prompt)])[:room] for prompt in gate_prompts()
    ]


def _key(bundle: Bundle, prompts: TokenIds) -> str:
    # The prompts' token ids depend on the prompts, the tokenizer and the template.
    manifest = bundle.manifest
    counts = [TOKENS_MIN, _ANSWER_TOKENS]
    facts = [manifest.source.sha256, prompts, manifest.stop_token_ids, counts]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(path: Path) -> TokenIds | None:
    try:
        sequences: TokenIds = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return sequences


def _answer(graph: Graph, prompt: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """Continue a prompt greedily, up to a stop token, which is included."""
    ids = np.asarray(prompt, np.int64)
    for start in range(0, len(ids), _PREFILL_TOKENS):
        logits = graph.forward(ids[start : start + _PREFILL_TOKENS], start)
    answer = [int(logits[-1].argmax())]
    while answer[-1] not in stop_token_ids and len(answer) < _ANSWER_TOKENS:
        logits = graph.forward(np.asarray(answer[-1:], np.int64), len(prompt) + len(answer) - 1)
        answer.append(int(logits[-1].argmax()))
    return answer
