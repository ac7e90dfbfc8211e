"""What is measured: the turns of a run, their prompts, and what a turn's answer says.

Rule: a turn's prompt is the same for every engine and was never asked before, so that nothing but
what a turn means to be cached is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edged.commands.bench.prose import prose

CONTEXTS = (64, 512, 1000, 1536, 1984)
"""Prompt lengths: prefill is measured on them and decode after them."""
DECODE_STEPS = 64
TTFT_TOKENS = 42
CONCURRENCY = (1, 2, 4, 8)
TOGETHER_TOKENS = 64
TOGETHER_STEPS = 32
_SENTENCES = 24
_SPREAD = 7

Figures = dict[str, float | None]
"""By name; None for what the engine does not offer."""


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
        encode: text to token ids, of the model that all engines share.
    """

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        self._encode = encode
        self._starts = sorted(set(encode(prose(10 * _SENTENCES, 0))))
        self._count = 0

    def take(self, length: int) -> list[int]:
        """Return a prompt of ``length`` tokens; its first is not that of the prompts before it."""
        self._count += 1
        # A step that shares no factor with most sizes walks over all the starts.
        start = self._starts[self._count * _SPREAD % len(self._starts)]
        token_ids = [start]
        seed = self._count * 1_000_003
        while len(token_ids) < length:
            token_ids += self._encode(" " + prose(_SENTENCES, seed))
            seed += 1
        return token_ids[:length]


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
        yield Turn(
            "first token",
            "generate",
            {"prompt": prompt, "count": 2},
            partial(_ttft_figures, name),
        )
    yield Turn("memory", "memory", {}, dict)


def together_turns(prompts: Prompts) -> Iterator[Turn]:
    """Yield the turns with several requests at the same time."""
    for count in CONCURRENCY:
        yield Turn(
            f"{count} at the same time",
            "together",
            {
                "prompts": [prompts.take(TOGETHER_TOKENS) for _ in range(count)],
                "steps": TOGETHER_STEPS,
            },
            partial(_together_figures, count),
        )


def prefill_name(num_tokens: int) -> str:
    """Return the name of the figure of a prefill."""
    return f"prefill_{num_tokens}_tok_s"


def decode_name(num_tokens: int) -> str:
    """Return the name of the figure of decode after a prompt; the shortest has the plain one."""
    return "decode_tok_s" if num_tokens == CONTEXTS[0] else f"decode_{num_tokens}_tok_s"


def concurrent_name(count: int) -> str:
    """Return the name under which a turn of ``together_turns`` is sampled."""
    return f"concurrent_{count}"


def warm_up(prompts: Prompts, max_model_len: int) -> Sequence[Turn]:
    """Return what is done once before anything counts: buffers grow, clocks rise."""
    length = min(512, max_model_len - 9)
    arguments = {"prompt": prompts.take(length), "count": 9}
    return [Turn("warm-up", "generate", arguments, lambda _answer: {})]


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
