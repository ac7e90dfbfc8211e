"""The quality gate's text: our own prompts, each with the fp32 model's own greedy answer.

Rule: the text is the same for every scheme of one source, so their figures can be compared.
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
from edged.engine.graph import SingleGraph
from edged.engine.tokenizer import Tokenizer
from edged.errors import BuildError
from edged.protocol.request import ChatMessage

TOKENS_MIN = 4000
"""Positions that a gate must have compared."""
_ANSWER_TOKENS = 32
_PREFILL_TOKENS = 128
_PROMPTS = "gate_prompts.yaml"

Sequences = list[list[int]]


@functools.cache
def gate_prompts() -> tuple[str, ...]:
    """Return the committed prompts: household, industrial and general in turn."""
    text = (resources.files("edged.builder") / "data" / _PROMPTS).read_text(encoding="utf-8")
    groups = yaml.safe_load(text).values()
    return tuple(itertools.chain.from_iterable(zip(*groups, strict=True)))


def gate_sequences(
    bundle: Bundle, reference: SingleGraph, cache: Path, activity: Activity
) -> Sequences:
    """Return the gate's token ids; the answers are made by ``reference`` once, then cached.

    Prompts are taken until there are ``TOKENS_MIN`` positions, so a tokenizer with short tokens
    does not pay for all of them.

    Args:
        bundle: whose tokenizer, template and stop tokens are used.
        reference: the fp32 graph of the same source.
        cache: the build cache.
        activity: told of the tokens done.

    Raises:
        BuildError: the model leaves no room for a prompt and its answer.
    """
    tokenizer = Tokenizer.load(bundle)
    prompts = _encode(tokenizer, reference.max_model_len)
    path = cache / "gate" / f"{_key(bundle, prompts)}.json"
    cached = _read(path)
    if cached is not None:
        return cached
    shared = shared_length(prompts)
    sequences: Sequences = []
    num_tokens = 0
    for prompt in prompts:
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


def _encode(tokenizer: Tokenizer, max_model_len: int) -> Sequences:
    room = max_model_len - _ANSWER_TOKENS
    if room < 1:
        raise BuildError(
            f"max_model_len {max_model_len} leaves no room for the quality gate's prompts; "
            f"it must be above {_ANSWER_TOKENS}"
        )
    return [
        tokenizer.encode_chat([ChatMessage("user", prompt)])[:room] for prompt in gate_prompts()
    ]


def _key(bundle: Bundle, prompts: Sequences) -> str:
    # The prompts' ids stand for the prompts, the tokenizer and the template together.
    manifest = bundle.manifest
    counts = [TOKENS_MIN, _ANSWER_TOKENS]
    facts = [manifest.source.sha256, prompts, manifest.stop_token_ids, counts]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(path: Path) -> Sequences | None:
    try:
        sequences: Sequences = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return sequences


def _answer(graph: SingleGraph, prompt: Sequence[int], stop_token_ids: Sequence[int]) -> list[int]:
    """Continue a prompt greedily, up to and with a stop token."""
    ids = np.asarray(prompt, np.int64)
    for start in range(0, len(ids), _PREFILL_TOKENS):
        logits = graph.forward(ids[start : start + _PREFILL_TOKENS], start)
    answer = [int(logits[-1].argmax())]
    while answer[-1] not in stop_token_ids and len(answer) < _ANSWER_TOKENS:
        logits = graph.forward(np.asarray(answer[-1:], np.int64), len(prompt) + len(answer) - 1)
        answer.append(int(logits[-1].argmax()))
    return answer
