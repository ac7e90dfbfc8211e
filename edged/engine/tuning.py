"""Find how a model runs fastest on this device: with which attention kernel, in which chunks.

Run as a program, it is the child process in which a first start measures a model: its memory is
freed with it.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edged.engine.graph import Graph
from edged.engine.loading import load_graph

DEFAULT_CHUNK_TOKENS = 64
CHUNKS = (32, DEFAULT_CHUNK_TOKENS, 128, 256)
"""Sizes of a prefill chunk that are tried, in tokens, ascending; memory is planned for the last."""

# A longer chunk would keep a cancel, or the next token of another answer, waiting for too long.
_MAX_CHUNK_S = 0.1
_PROMPT_TOKENS = 256
_ANSWER_TOKENS = 64
_TIMED_STEPS = 8
# A disturbance is short beside a prompt that takes so long: one run tells enough.
_LONG_S = 2.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a model is run; by default, as it is fastest on most processors."""

    has_flash: bool | None = None
    """Whether attention is computed in tiles; None leaves it to the engine."""
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    """Prompt tokens of one prefill pass."""


def measure_tuning(
    load: Callable[[bool], Graph], clock: Callable[[], float] = time.perf_counter
) -> Tuning:
    """Time a request with each kernel, then a prompt in chunks of other sizes; blocks.

    Chunks that would take too long are not timed: on a slow device, all but the smallest.
    ``load`` loads the model, with attention computed in tiles or not.
    """
    timed = {has_flash: _request_s(load(has_flash), clock) for has_flash in (True, False)}
    has_flash = min(timed, key=lambda kernel: sum(timed[kernel]))
    default_s = timed[has_flash][0]
    if not _is_short(DEFAULT_CHUNK_TOKENS, default_s):
        return Tuning(has_flash, CHUNKS[0])
    graph, prompts_s = load(has_flash), {DEFAULT_CHUNK_TOKENS: default_s}
    for chunk_tokens in CHUNKS:
        if chunk_tokens not in prompts_s:
            prompt_s = _prefill_s(graph, chunk_tokens, clock)
            if not _is_short(chunk_tokens, prompt_s):
                break
            prompts_s[chunk_tokens] = prompt_s
    return Tuning(has_flash, min(prompts_s, key=prompts_s.__getitem__))


def _is_short(chunk_tokens: int, prompt_s: float) -> bool:
    return prompt_s * chunk_tokens / _PROMPT_TOKENS <= _MAX_CHUNK_S


def _request_s(graph: Graph, clock: Callable[[], float]) -> tuple[float, float]:
    """Time a prompt, in chunks of the default size, and an answer of common lengths."""
    prefill_s = _prefill_s(graph, DEFAULT_CHUNK_TOKENS, clock)
    started_s = clock()
    for step in range(_TIMED_STEPS):
        graph.forward(np.array([1]), _PROMPT_TOKENS + step, is_prefill=False)
    return prefill_s, (clock() - started_s) * _ANSWER_TOKENS / _TIMED_STEPS


def _prefill_s(graph: Graph, chunk_tokens: int, clock: Callable[[], float]) -> float:
    token_ids = np.arange(_PROMPT_TOKENS) % graph.vocab_size

    def once_s() -> float:
        started_s = clock()
        for start in range(0, _PROMPT_TOKENS, chunk_tokens):
            graph.forward(token_ids[start : start + chunk_tokens], start)
        return clock() - started_s

    first_s = once_s()
    # Not the mean of two: other processes only ever slow it down.
    return first_s if first_s > _LONG_S else min(first_s, once_s())


def main(model_path: Path, options: str) -> None:
    """Measure a model and print the tuning as JSON.

    ``options`` are those of :func:`edged.engine.loading.load_graph`, as JSON.
    """
    loaded = json.loads(options)
    max_model_len = _PROMPT_TOKENS + _ANSWER_TOKENS
    tuning = measure_tuning(
        lambda has_flash: load_graph(
            model_path, has_flash=has_flash, max_model_len=max_model_len, **loaded
        )
    )
    print(json.dumps(asdict(tuning)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
