"""What is measured: the turns of a run, their prompts, and the figures in a turn's answer.

Rule: a turn's prompt is the same for every engine and was never sent before, so only what a turn
means to be cached is.
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
TOGETHER_TOKENS = 64
TOGETHER_STEPS = 32
# Words rather than random token ids: no more of an embedding table is touched than in service. In
# random order: no passage comes twice, which an engine that drafts tokens would profit from.
_TEXT = """
the pump in cellar a neighbour old boiler our gardener front door night train drone kitchen window
somebody upstairs lift wet dog solar inverter milk cooler grandmother reported ignored repaired
followed measured forgot painted answered carried stopped counted remembered sold valve letter
thermostat three bottles alarm empty shelf hose passengers meter broken fuse recipe spare key third
floor bag of apples radio before breakfast near harbour at end under stairs while rain lasted hurry
behind station after holidays during power cut and because although until so but as if once
"""
_CHOSEN_WORDS = 256
_STRIDE = 7

# Called at once for each token of an answer.
OnToken = Callable[[int], None]
# By name; None for what the engine does not offer.
Figures = dict[str, float | None]


class Engine(Protocol):
    """One engine, loaded with one model."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what computes."""
        ...

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with exactly ``count`` greedy tokens, stop tokens included; blocks.

        What the engine caches of earlier prompts is used, as it would be in service.
        """
        ...

    def together(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        """Answer prompts of one length at the same time; blocks.

        Returns:
            The seconds that ``steps`` tokens of each took after their first; None where the engine
            takes one prompt at a time.
        """
        ...

    def process_ids(self) -> list[int]:
        """Return the processes whose memory and CPU time are the engine's."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One command, given to every engine in turn."""

    title: str
    do: str
    arguments: Mapping[str, object]
    figures: Callable[[Mapping[str, Any]], Figures]
    """Reads the answer."""


class Prompts:
    """Prompts of any length, each new from its first token on.

    Args:
        encode: Text to token ids, of the model that all engines share.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._words = _TEXT.split()
        self._starts = sorted(set(encode(" ".join(self._words))))
        self._count = 0

    def take(self, length: int) -> list[int]:
        """Return a prompt of ``length`` tokens; its first is not that of the prompts before it."""
        self._count += 1
        # A stride that shares no factor with most sizes visits all the starts.
        token_ids = [self._starts[self._count * _STRIDE % len(self._starts)]]
        choose = random.Random(self._count)  # noqa: S311 - filler text
        while len(token_ids) < length:
            token_ids += self._encode(" " + " ".join(choose.choices(self._words, k=_CHOSEN_WORDS)))
        return token_ids[:length]


def warm_up(prompts: Prompts, max_model_len: int) -> Turn:
    """Return what is done once before anything counts: buffers grow, clocks rise."""
    length = min(512, max_model_len - 9)
    arguments = {"prompt": prompts.take(length), "count": 9}
    return Turn("warm-up", "generate", arguments, lambda _answer: {})


def single_turns(prompts: Prompts, max_model_len: int) -> Iterator[Turn]:
    """Yield the turns of one run with one request at a time; what does not fit is left out."""
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


def together_turns(prompts: Prompts) -> Iterator[Turn]:
    """Yield the turns with several requests at the same time."""
    for count in CONCURRENCY:
        batch = [prompts.take(TOGETHER_TOKENS) for _ in range(count)]
        arguments = {"prompts": batch, "steps": TOGETHER_STEPS}
        figures = partial(_together_figures, count)
        yield Turn(f"{count} at the same time", "together", arguments, figures)


def answer(engine: Engine, do: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Have an engine of this process carry one command out; blocks.

    Raises:
        ValueError: No token came.
    """
    if do == "generate":
        return _generate(engine, **arguments)
    if do == "together":
        return {"decode_s": engine.together(**arguments)}
    return dict(usage.read_memory(engine.process_ids()))


def _generate(engine: Engine, prompt: Sequence[int], count: int) -> dict[str, Any]:
    """Tell when the first and the last token came, and the CPU time in between.

    Raises:
        ValueError: No token came.
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
    """Return the name of the figure of a prefill."""
    return f"prefill_{num_tokens}_tok_s"


def decode_name(num_tokens: int) -> str:
    """Return the name of the figure of decode after a prompt; the shortest has the plain one."""
    return "decode_tok_s" if num_tokens == CONTEXTS[0] else f"decode_{num_tokens}_tok_s"


def concurrent_name(count: int) -> str:
    """Return the name of the figure of decode with so many requests at the same time."""
    return f"concurrent_{count}_tok_s"


def _context_figures(num_tokens: int, answer: Mapping[str, Any]) -> Figures:
    steps = answer["num_tokens"] - 1
    decode_s = answer["last_s"] - answer["first_s"]
    figures: Figures = {
        prefill_name(num_tokens): num_tokens / answer["first_s"],
        # An engine that cannot be kept from stopping may stop at once.
        decode_name(num_tokens): steps / decode_s if steps else None,
    }
    if num_tokens == CONTEXTS[0]:
        figures["cpu_s_per_token"] = answer["decode_cpu_s"] / steps if steps else None
    return figures


def _ttft_figures(name: str, answer: Mapping[str, Any]) -> Figures:
    return {name: answer["first_s"]}


def _together_figures(count: int, answer: Mapping[str, Any]) -> Figures:
    decode_s = answer["decode_s"]
    total = None if decode_s is None else count * TOGETHER_STEPS / decode_s
    return {concurrent_name(count): total}
