"""llama.cpp with a grammar made of the schema.

Rule: as its own programs do it: the most likely token is looked up in the grammar alone, and the
grammar is applied to the whole vocabulary only where it forbids that one.
"""

import ctypes
import json
import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from time import perf_counter, process_time
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf

from benchmarks.forced.questions import CONTEXT, MAX_TOKENS, Question, Said, Schema


class LlamaCpp:
    """One loaded GGUF file.

    Raises:
        ValueError: It cannot be loaded.
    """

    def __init__(self, source: str, num_threads: int) -> None:
        llama_cpp.llama_log_set(_be_silent, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(source.encode(), parameters)
        if not self._model:
            raise ValueError(f"{source}: llama.cpp cannot load it")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        size = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._candidates = (llama_cpp.llama_token_data * size)()
        # Their fields as one array: id, logit, probability.
        self._fields = np.ctypeslib.as_array(self._candidates)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = CONTEXT
        settings.n_threads = settings.n_threads_batch = num_threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._cached: list[int] = []

    def answer(self, prompt_ids: Sequence[int], question: Question) -> Said:
        """Answer greedily, held to the schema; blocks.

        Raises:
            ValueError: The grammar or the model failed.
        """
        grammar = llama_cpp.llama_sampler_init_grammar(
            self._vocab, gbnf(question.schema).encode(), b"root"
        )
        if not grammar:
            raise ValueError(f"{question.title}: llama.cpp cannot read the grammar")
        started_s, before_s = perf_counter(), process_time()
        token_ids = list(self._tokens(list(prompt_ids), grammar))
        seconds, cpu_s = perf_counter() - started_s, process_time() - before_s
        llama_cpp.llama_sampler_free(grammar)
        return Said(seconds, cpu_s, token_ids, len(token_ids))

    def _tokens(self, prompt_ids: list[int], grammar: Any) -> Iterator[int]:  # noqa: ANN401 - a C pointer
        pairs = zip(prompt_ids[:-1], self._cached, strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), 0, shared, -1)
        self._run(prompt_ids[shared:])
        self._cached = list(prompt_ids)
        for _ in range(MAX_TOKENS):
            token_id = self._choose(grammar)
            if llama_cpp.llama_vocab_is_eog(self._vocab, token_id):
                return
            llama_cpp.llama_sampler_accept(grammar, token_id)
            yield token_id
            self._run([token_id])
            self._cached.append(token_id)

    def _run(self, token_ids: Sequence[int]) -> None:
        array = (llama_cpp.llama_token * len(token_ids))(*token_ids)
        batch = llama_cpp.llama_batch_get_one(array, len(token_ids))
        if llama_cpp.llama_decode(self._context, batch):
            raise ValueError(f"llama_decode failed for {len(token_ids)} tokens")

    def _choose(self, grammar: Any) -> int:  # noqa: ANN401 - a C pointer
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        size = len(self._candidates)
        logits = np.ctypeslib.as_array(
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (size,)
        )
        best = int(logits.argmax())
        self._fields["id"][0], self._fields["logit"][0] = best, logits[best]
        self._apply(grammar, 1)
        if not math.isinf(self._fields["logit"][0]):
            return best
        self._fields["id"] = np.arange(size)
        self._fields["logit"] = logits
        self._apply(grammar, size)
        return int(self._fields["logit"].argmax())

    def _apply(self, grammar: Any, size: int) -> None:  # noqa: ANN401 - a C pointer
        found = llama_cpp.llama_token_data_array(self._candidates, size, -1, False)  # noqa: FBT003
        llama_cpp.llama_sampler_apply(grammar, ctypes.byref(found))


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _be_silent(_level: int, _text: bytes, _data: object) -> None:
    """Drop what llama.cpp logs."""


def gbnf(schema: Schema) -> str:
    """Return llama.cpp's grammar for a schema, without the spaces that it would allow.

    edged writes none, so that both write the same.
    """
    lines = json_schema_to_gbnf(json.dumps(schema)).splitlines()
    return "\n".join('space ::= ""' if line.startswith("space ::=") else line for line in lines)
