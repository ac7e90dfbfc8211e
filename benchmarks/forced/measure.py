"""Have each engine answer the same questions, one after the other, over and over."""

import json
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from benchmarks.forced.questions import QUESTIONS, Answering, Question, Said
from edged.bundle.folder import open_bundle
from edged.engine.tokenizer import Tokenizer
from edged.errors import UsageError

FORCED, PLAIN, LLAMA_CPP = "edged", "edged, token by token", "llama.cpp"
_SPAWN = multiprocessing.get_context("spawn")
_loaded: list[Answering] = []

Time = Callable[[Said], float]
"""Of an answer: its duration, or its CPU time."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of all engines to one question; each list has one for each round."""

    question: Question
    said: Mapping[str, Sequence[Said]]
    texts: Mapping[str, str]

    def median_s(self, engine: str, time: Time) -> float:
        """Return the median time of an answer."""
        return statistics.median(map(time, self.said[engine]))

    def ratios(self, engine: str, time: Time) -> list[float]:
        """Return how often edged answers while another answers once, for each round."""
        pairs = zip(self.said[engine], self.said[FORCED], strict=True)
        return [time(other) / time(own) for other, own in pairs]


class EngineProcess:
    """An engine in a process of its own."""

    def __init__(self, loader: str, source: str, num_threads: int) -> None:
        arguments = (loader, source, num_threads)
        self._pool = ProcessPoolExecutor(1, _SPAWN, initializer=_load, initargs=arguments)

    def answer(self, prompt_ids: Sequence[int], question: Question) -> Said:
        """Return an answer; raises what the engine raised."""
        return self._pool.submit(_answer, prompt_ids, question).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def measure(
    bundle: Path,
    gguf: Path | None,
    num_threads: int,
    runs: int,
    note: Callable[[str], None],
) -> list[Answered]:
    """Measure all questions with edged, and with llama.cpp if its file is given.

    Raises:
        BundleError: The bundle is damaged.
        UsageError: An answer is no JSON document of its schema's members.
    """
    loaders = {FORCED: "engines:edged", PLAIN: "engines:edged_token_by_token"}
    tokenizer = Tokenizer.load(open_bundle(bundle))
    engines = {
        name: EngineProcess(loader, str(bundle), num_threads) for name, loader in loaders.items()
    }
    if gguf is not None:
        engines[LLAMA_CPP] = EngineProcess("llama_cpp:LlamaCpp", str(gguf), num_threads)
    try:
        return [_measure(engines, tokenizer, one, runs, note) for one in QUESTIONS]
    finally:
        for engine in engines.values():
            engine.close()


def _measure(
    engines: Mapping[str, EngineProcess],
    tokenizer: Tokenizer,
    question: Question,
    runs: int,
    note: Callable[[str], None],
) -> Answered:
    prompt_ids = tokenizer.encode_chat(question.messages)
    said: dict[str, list[Said]] = {name: [] for name in engines}
    for number in range(runs + 1):  # the first reads the prompt, and is not counted
        note(f"{question.title}: {number} of {runs}")
        for name, engine in engines.items():
            said[name].append(engine.answer(prompt_ids, question))
    texts = {name: _text(tokenizer, answers[-1]) for name, answers in said.items()}
    for name, text in texts.items():
        if json.loads(text).keys() != question.schema["properties"].keys():
            raise UsageError(f"{question.title}: {name} said {text}")
    return Answered(question, {name: answers[1:] for name, answers in said.items()}, texts)


def _text(tokenizer: Tokenizer, said: Said) -> str:
    stream = tokenizer.detokenizer()
    return "".join(map(stream.push, said.token_ids)) + stream.flush()


def _load(loader: str, source: str, num_threads: int) -> None:
    module, _, name = loader.partition(":")
    load = getattr(import_module(f"benchmarks.forced.{module}"), name)
    _loaded.append(load(source, num_threads))


def _answer(prompt_ids: Sequence[int], question: Question) -> Said:
    return _loaded[0].answer(prompt_ids, question)
