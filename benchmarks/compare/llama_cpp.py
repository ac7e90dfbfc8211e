"""llama.cpp through the C functions of llama-cpp-python, without its Python overhead per token.

Rule: llama.cpp's own defaults, except threads and context, which all engines share.
"""

import ctypes
import os
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import takewhile
from time import perf_counter
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.compare.process import Setup
from edged.commands.bench.turns import OnToken

_SLOT_TOKENS = 256
"""Context of each sequence in a batch."""

_Entry = tuple[int, int, int, bool]
"""Token, position, sequence, and whether its logits are needed."""


class LlamaCppEngine:
    """One loaded GGUF file.

    Raises:
        ValueError: The file cannot be loaded, or has another vocabulary than the bundle.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(setup.source.encode(), parameters)
        if not self._model:
            raise ValueError(f"{setup.source}: llama.cpp cannot load it")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self._model)
        )
        if self._vocab_size < setup.vocab_size:
            raise ValueError(
                f"{setup.source}: {self._vocab_size} tokens, the bundle has {setup.vocab_size};"
                " give a file of the same model"
            )
        self._context = self._open_context(setup.max_model_len, 1)
        self._batch = llama_cpp.llama_batch_init(setup.max_model_len, 0, 1)
        self._cached: list[int] = []

    def versions(self) -> dict[str, str]:
        """Return the version of the binding, which pins that of llama.cpp."""
        return {"llama-cpp-python": version("llama-cpp-python")}

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with ``count`` greedy tokens; blocks."""
        pairs = zip(prompt[:-1], self._cached, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_seq_rm(memory, 0, shared, -1)
        last = len(prompt) - 1
        self._run(self._context, [(prompt[i], i, 0, i == last) for i in range(shared, last + 1)])
        self._cached = list(prompt)
        token_id = self._best(self._context, -1)
        on_token(token_id)
        for position in range(len(prompt), len(prompt) + count - 1):
            self._run(self._context, [(token_id, position, 0, True)])
            self._cached.append(token_id)
            token_id = self._best(self._context, -1)
            on_token(token_id)

    def decode_batch(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        """Decode a batch, one token of each prompt per step; blocks."""
        context = self._open_context(_SLOT_TOKENS * len(prompts), len(prompts))
        try:
            token_ids = []
            for sequence, prompt in enumerate(prompts):
                last = len(prompt) - 1
                self._run(context, [(t, i, sequence, i == last) for i, t in enumerate(prompt)])
                token_ids.append(self._best(context, -1))
            started_s = perf_counter()
            for step in range(steps):
                self._run(
                    context,
                    [(t, len(prompts[s]) + step, s, True) for s, t in enumerate(token_ids)],
                )
                token_ids = [self._best(context, s) for s in range(len(prompts))]
            return perf_counter() - started_s
        finally:
            llama_cpp.llama_free(context)

    def process_ids(self) -> list[int]:
        """Return this process."""
        return [os.getpid()]

    def _open_context(self, num_tokens: int, num_sequences: int) -> Any:  # noqa: ANN401 - a C pointer
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = num_tokens
        parameters.n_seq_max = num_sequences
        parameters.n_threads = self._setup.num_threads
        parameters.n_threads_batch = self._setup.num_threads
        context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not context:
            raise ValueError(f"{self._setup.source}: no context of {num_tokens} tokens")
        return context

    def _run(self, context: Any, entries: Iterable[_Entry]) -> None:  # noqa: ANN401 - a C pointer
        batch = self._batch
        batch.n_tokens = 0
        for index, (token_id, position, sequence, is_wanted) in enumerate(entries):
            batch.token[index] = token_id
            batch.pos[index] = position
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = sequence
            batch.logits[index] = is_wanted
            batch.n_tokens = index + 1
        if llama_cpp.llama_decode(context, batch):
            raise ValueError(f"llama_decode failed for {batch.n_tokens} tokens")

    def _best(self, context: Any, index: int) -> int:  # noqa: ANN401 - a C pointer
        pointer = llama_cpp.llama_get_logits_ith(context, index)
        logits = np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self._vocab_size,)
        )
        return int(logits.argmax())
