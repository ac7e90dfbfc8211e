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
from edged.engine.steps import DecodeInput
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
        reference: the fp32 graph of the same source; answers as many prompts at a time as it has
            slots.
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
    for first in range(0, len(prompts), reference.num_slots):
        group = prompts[first : first + reference.num_slots]
        answers = _answers(reference, group, bundle.manifest.stop_token_ids)
        for prompt, answer in zip(group, answers, strict=True):
            # A tokenizer with short tokens does not need all prompts.
            if num_tokens < TOKENS_MIN:
                sequences.append(prompt + answer)
                num_tokens += len(sequences[-1]) - 1 - shared
        if num_tokens >= TOKENS_MIN:
            break
        activity.update(num_tokens, TOKENS_MIN)
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


def _answers(graph: Graph, prompts: TokenIds, stop_token_ids: Sequence[int]) -> TokenIds:
    """Continue prompts greedily, each up to a stop token, which is included.

    They are decoded together, so that the weights are read once for all of them.
    """
    answers = []
    for slot, prompt in enumerate(prompts):
        ids = np.asarray(prompt, np.int64)
        for start in range(0, len(ids), _PREFILL_TOKENS):
            logits = graph.forward(ids[start : start + _PREFILL_TOKENS], start, slot=slot)
        answers.append([int(logits[-1].argmax())])
    while inputs := [
        DecodeInput(slot, answer[-1], len(prompts[slot]) + len(answer) - 1)
        for slot, answer in enumerate(answers)
        if answer[-1] not in stop_token_ids and len(answer) < _ANSWER_TOKENS
    ]:
        for one, logits in zip(inputs, graph.decode(inputs), strict=True):
            answers[one.slot].append(int(logits.argmax()))
    return answers
