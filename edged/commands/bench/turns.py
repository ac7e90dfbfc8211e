"""The turns of a run, their prompts, and the figures of a turn's answer.

Rule: a turn's prompt is the same for every engine and new in its first token, so that a prefix is
cached only where a turn measures that.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Protocol

from edged.commands.bench import usage

# Prompt lengths: prefill is measured on them and decode after them.
CONTEXTS = (64, 512, 1000, 1536, 1984)
DECODE_STEPS = 64
TTFT_TOKENS = 42
CONCURRENCY = (1, 2, 4, 8)
BATCH_PROMPT_TOKENS = 64
BATCH_STEPS = 32
# Words instead of random token ids, so that no more of the embedding table is read than in service;
# in random order, so that an engine that drafts tokens finds no repeated passage.
_TEXT = """
the pump in cellar a neighbour old boiler our gardener front door night train drone kitchen window
somebody upstairs lift wet dog solar inverter milk cooler grandmother reported ignored repaired
followed measured forgot painted answered carried stopped counted remembered sold valve letter
thermostat three bottles alarm empty shelf hose passengers meter broken fuse recipe spare key third
floor bag of apples radio before breakfast near harbour at end under stairs while rain lasted hurry
behind station after holidays during power cut and because although until so but as if once
"""
WORDS = tuple(_TEXT.split())
_CHOSEN_WORDS = 256
_STRIDE = 7

# Called for each token of an answer.
OnToken = Callable[[int], None]
# By name; None if the engine lacks the feature.
Figures = dict[str, float | None]


class Engine(Protocol):
    """One engine, loaded with one model."""

    def versions(self) -> dict[str, str]:
        """Return the versions of the engine and its libraries."""
        ...

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with exactly ``count`` greedy tokens, stop tokens included; blocks.

        Cached prefixes of earlier prompts are used, as in service.
        """
        ...

    def decode_batch(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        """Decode a batch of prompts of equal length; blocks.

        Returns:
            Seconds for ``steps`` tokens of each prompt after its first; None if the engine runs one
            prompt at a time.
        """
        ...

    def process_ids(self) -> list[int]:
        """Return the processes whose memory and CPU time are the engine's."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One command to an engine."""

    title: str
    do: str
    arguments: Mapping[str, object]
    figures: Callable[[Mapping[str, Any]], Figures]
    """Computes the figures from the answer."""


class Prompts:
    """Prompts of any length, each with a new first token.

    Args:
        encode: Text to token ids.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._starts = sorted(set(encode(" ".join(WORDS))))
        self._count = 0

    def take(self, length: int) -> list[int]:
        """Return a prompt of ``length`` tokens; the first token is new."""
        self._count += 1
        # A stride that is coprime to most sizes visits all start tokens.
        token_ids = [self._starts[self._count * _STRIDE % len(self._starts)]]
        choose = random.Random(self._count)  # noqa: S311 - filler text
        while len(token_ids) < length:
            token_ids += self._encode(" " + " ".join(choose.choices(WORDS, k=_CHOSEN_WORDS)))
        return token_ids[:length]


def warm_up(prompts: Prompts, max_model_len: int) -> Turn:
    """Return the turn before the measurement: it allocates buffers and raises clock rates."""
    length = min(512, max_model_len - 9)
    arguments = {"prompt": prompts.take(length), "count": 9}
    return Turn("warm-up", "generate", arguments, lambda _answer: {})


def single_turns(prompts: Prompts, max_model_len: int) -> Iterator[Turn]:
    """Yield the turns with one request at a time whose context fits."""
    for num_tokens in CONTEXTS:
        if num_tokens + DECODE_STEPS <= max_model_len:
            yield Turn(
                f"prefill and decode at {num_tokens}",
                "generate",
                {"prompt": prompts.take(num_tokens), "count": DECODE_STEPS + 1},
                partial(_context_figures, num_tokens),
            )
    prompt = prompts.take(TTFT_TOKENS)
    for name in ("ttft_s", "ttft_cached_s"):
        arguments = {"prompt": prompt, "count": 2}
        yield Turn("first token", "generate", arguments, partial(_ttft_figures, name))
    yield Turn("memory", "memory", {}, dict)


def batch_turns(prompts: Prompts) -> Iterator[Turn]:
    """Yield the turns with concurrent requests."""
    for count in CONCURRENCY:
        batch = [prompts.take(BATCH_PROMPT_TOKENS) for _ in range(count)]
        arguments = {"prompts": batch, "steps": BATCH_STEPS}
        figures = partial(_batch_figures, count)
        yield Turn(f"{count} concurrent requests", "decode_batch", arguments, figures)


def answer(engine: Engine, do: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run one command on an engine in this process; blocks.

    Raises:
        ValueError: The engine gave no token.
    """
    if do == "generate":
        return _generate(engine, **arguments)
    if do == "decode_batch":
        return {"decode_s": engine.decode_batch(**arguments)}
    return dict(usage.read_memory(engine.process_ids()))


def _generate(engine: Engine, prompt: Sequence[int], count: int) -> dict[str, Any]:
    """Return the times of the first and the last token, and the CPU time between them.

    Raises:
        ValueError: The engine gave no token.
    """
    process_ids = engine.process_ids()
    stamps: list[float] = []
    cpu_stamps: list[float] = []

    def on_token(_token_id: int) -> None:
        stamps.append(perf_counter())
        cpu_stamps.append(usage.cpu_s(process_ids))

    started_s = perf_counter()
    engine.generate(prompt, count, on_token)
    if not stamps:
        raise ValueError("the engine gave no token")
    return {
        "num_tokens": len(stamps),
        "first_s": stamps[0] - started_s,
        "last_s": stamps[-1] - started_s,
        "decode_cpu_s": cpu_stamps[-1] - cpu_stamps[0],
    }


def prefill_name(num_tokens: int) -> str:
    """Return the name of a prefill figure."""
    return f"prefill_{num_tokens}_tok_s"


def decode_name(num_tokens: int) -> str:
    """Return the name of a decode figure; that of the shortest context has no number."""
    return "decode_tok_s" if num_tokens == CONTEXTS[0] else f"decode_{num_tokens}_tok_s"


def concurrent_name(count: int) -> str:
    """Return the name of the decode figure for a number of concurrent requests."""
    return f"concurrent_{count}_tok_s"


def _context_figures(num_tokens: int, answer: Mapping[str, Any]) -> Figures:
    steps = answer["num_tokens"] - 1
    decode_s = answer["last_s"] - answer["first_s"]
    figures: Figures = {
        prefill_name(num_tokens): num_tokens / answer["first_s"],
        # None for an engine that stops at once and cannot ignore stop tokens.
        decode_name(num_tokens): steps / decode_s if steps else None,
    }
    if num_tokens == CONTEXTS[0]:
        figures["cpu_s_per_token"] = answer["decode_cpu_s"] / steps if steps else None
    return figures


def _ttft_figures(name: str, answer: Mapping[str, Any]) -> Figures:
    return {name: answer["first_s"]}


def _batch_figures(count: int, answer: Mapping[str, Any]) -> Figures:
    decode_s = answer["decode_s"]
    total = None if decode_s is None else count * BATCH_STEPS / decode_s
    return {concurrent_name(count): total}
