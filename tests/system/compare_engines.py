"""Engines for the tests of benchmarks.compare.

Adapters that count, processes that record, and the parts of other engines' libraries that our
adapters call.
"""

import ctypes
import os
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare.engines import EDGED, ENGINES
from benchmarks.compare.process import EngineLostError, EngineProcess, Setup
from edged.commands.bench.turns import OnToken

VOCAB_SIZE = 50


COUNTING = "tests.system.compare_engines:CountingEngine"


def setup(
    engine: str = EDGED, source: str = "x", *, bundle: str = "x", adapter: str | None = None
) -> Setup:
    return Setup(
        engine=engine,
        adapter=adapter or (ENGINES[engine].adapter if engine in ENGINES else COUNTING),
        source=source,
        bundle=bundle,
        vocab_size=VOCAB_SIZE,
        num_threads=1,
        max_model_len=256,
        state="x",
    )


class Streamer(Protocol):
    """What takes the tokens."""

    def write(self, token: int | Sequence[int]) -> object: ...

    def end(self) -> None: ...


class CountingEngine:
    """An adapter whose answers count up from the prompt's last token."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def versions(self) -> dict[str, str]:
        return {"counting": "1"}

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        if prompt[0] == 13:
            raise RuntimeError("thirteen is too much")
        if prompt[0] == 14:
            os._exit(3)
        if prompt[0] == 16:
            threading.Event().wait()
        for step in range(0 if prompt[0] == 15 else count):
            on_token(prompt[-1] + step + 1)

    def decode_batch(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        return None if len(prompts) > 4 else steps * len(prompts) / 100

    def process_ids(self) -> list[int]:
        return [os.getpid()]


class FakeProcess(EngineProcess):
    """An engine that answers at once and writes down who was asked what."""

    def __init__(self, name: str, calls: list[tuple[str, str]], fails_at: str = "") -> None:
        self.name, self.calls, self.fails_at = name, calls, fails_at
        self.loaded: dict[str, Any] = {"load_s": 0.5, "versions": {name: "1.0"}}
        self.is_closed = False
        self.speed = 2.0 if name == "edged" else 1.0

    def call(self, do: str, **arguments: object) -> dict[str, Any]:
        words: dict[str, Any] = arguments
        self.calls.append((self.name, do))
        if do == self.fails_at:
            raise EngineLostError(f"ended during {do}")
        if do == "memory":
            return {"rss_bytes": 300, "pss_bytes": 200, "private_dirty_bytes": 100}
        if do == "decode_batch":
            is_offered = self.name != "edged" or len(words["prompts"]) == 1
            return {"decode_s": 1.0 / self.speed if is_offered else None}
        steps = words["count"] - 1
        first_s = len(words["prompt"]) / (1000 * self.speed)
        return {
            "num_tokens": steps + 1,
            "first_s": first_s,
            "last_s": first_s + steps / (10 * self.speed),
            "decode_cpu_s": steps / 5,
        }

    def cpu_s(self) -> float:
        return 0.0

    def close(self) -> None:
        self.is_closed = True


def fake_llama_cpp() -> types.SimpleNamespace:
    """Return what stands in for llama_cpp: the best next token is the last one plus one."""

    class Context:
        def __init__(self, num_tokens: int) -> None:
            self.num_tokens = num_tokens
            self.cells: dict[tuple[int, int], int] = {}
            self.logits: list[NDArray[np.float32]] = []

    runs: list[list[tuple[int, int, int]]] = []

    def decode(context: Context, batch: types.SimpleNamespace) -> int:
        context.logits = []
        entries = []
        for i in range(batch.n_tokens):
            place = (batch.seq_id[i][0], batch.pos[i])
            assert place not in context.cells, "a position is written twice"
            assert place[1] == 0 or (place[0], place[1] - 1) in context.cells, "a gap"
            context.cells[place] = batch.token[i]
            entries.append((batch.token[i], *reversed(place)))
            logits = np.zeros(VOCAB_SIZE, np.float32)
            logits[(batch.token[i] + 1) % VOCAB_SIZE] = 1
            context.logits.append(logits if batch.logits[i] else logits[:0])
        runs.append(entries)
        return len(context.cells) > context.num_tokens

    def remove(context: Context, sequence: int, start: int, _end: int) -> bool:
        for place in [p for p in context.cells if p[0] == sequence and p[1] >= start]:
            del context.cells[place]
        return True

    def logits_at(context: Context, index: int) -> object:
        return context.logits[index].ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def batch(size: int, _embeddings: int, _sequences: int) -> types.SimpleNamespace:
        lists = {name: [0] * size for name in ("token", "pos", "n_seq_id", "logits")}
        return types.SimpleNamespace(n_tokens=0, seq_id=[[0] for _ in range(size)], **lists)

    return types.SimpleNamespace(
        runs=runs,
        llama_backend_init=lambda: None,
        llama_model_default_params=types.SimpleNamespace,
        llama_context_default_params=types.SimpleNamespace,
        llama_model_load_from_file=lambda path, _: None if b"broken" in path else path,
        llama_model_get_vocab=lambda model: model,
        llama_vocab_n_tokens=lambda path: 7 if b"other" in path else VOCAB_SIZE,
        llama_init_from_model=lambda _, wanted: Context(wanted.n_ctx) if wanted.n_ctx else None,
        llama_batch_init=batch,
        llama_get_memory=lambda context: context,
        llama_memory_seq_rm=remove,
        llama_decode=decode,
        llama_get_logits_ith=logits_at,
        llama_free=lambda _: None,
    )


def fake_openvino() -> tuple[types.ModuleType, types.ModuleType]:
    """Return what stands in for openvino and openvino_genai: answers count up, a token a second."""
    openvino, genai = types.ModuleType("openvino"), types.ModuleType("openvino_genai")

    class Pipeline:
        def __init__(self, source: str, device: str, **options: int) -> None:
            self.made_of = (source, device, options)

        def generate(
            self,
            inputs: Sequence[NDArray[np.int64]],
            config: types.SimpleNamespace,
            streamer: "Streamer | None",
        ) -> types.SimpleNamespace:
            assert config.ignore_eos
            prompts = inputs[0]
            if streamer is not None:
                tokens: Iterator[int] = count(int(prompts[0][-1]) + 1)
                streamer.write(next(tokens))
                streamer.write([next(tokens) for _ in range(config.max_new_tokens - 1)])
                streamer.end()
            # The first prompt is prefilled before the others: it gets a token alone.
            sizes = [1] + [len(prompts)] * (config.max_new_tokens - 1) + [len(prompts) - 1]
            raw = types.SimpleNamespace(
                m_new_token_times=[1000.0 * i for i in range(len(sizes))], m_batch_sizes=sizes
            )
            return types.SimpleNamespace(perf_metrics=types.SimpleNamespace(raw_metrics=raw))

    openvino.Tensor = lambda array: array  # type: ignore[attr-defined]
    genai.LLMPipeline = Pipeline  # type: ignore[attr-defined]
    genai.GenerationConfig = types.SimpleNamespace  # type: ignore[attr-defined]
    genai.TokenizedInputs = lambda ids, mask: (ids, mask)  # type: ignore[attr-defined]
    genai.StreamerBase = object  # type: ignore[attr-defined]
    genai.StreamingStatus = types.SimpleNamespace(RUNNING=0)  # type: ignore[attr-defined]
    return openvino, genai


def fake_start(
    calls: list[tuple[str, str]], fails_at: dict[str, str] | None = None
) -> Callable[[Setup], FakeProcess]:
    """Return a start function; an engine whose ``fails_at`` is "start" is not installed."""
    fails = fails_at or {}

    def start(setup: Setup) -> FakeProcess:
        if fails.get(setup.engine) == "start":
            raise EngineLostError(f"{setup.engine} is not installed")
        return FakeProcess(setup.engine, calls, fails.get(setup.engine, ""))

    return start
