"""A simulated engine: it alternates one prefill chunk and one decode step of the batch.

Rule: no policy, except that the prompt of the most urgent class goes first. It runs the answers it
is given and returns those that ended.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.simulate.outcome import End
from benchmarks.simulate.trace import Ask
from edged.scheduling.latency_model import CostEstimate, RequestTimings


def step_s(cost: CostEstimate, contexts: Sequence[int]) -> float:
    """Return the cost of one decode run of a token each for sequences of these lengths."""
    num_others = len(contexts) - 1
    one_s = cost.decode_token_s + num_others * cost.decode_row_s
    return one_s + sum(context + 0.5 for context in contexts) * cost.decode_pair_s


@dataclass(slots=True, eq=False)
class Generation:
    """One answer in progress."""

    key: int
    ask: Ask
    num_prompt: int
    """Tokens to prefill: the prompt, and after a pause the answer so far."""
    num_remaining: int
    """Tokens still to generate."""
    num_done: int
    """Tokens generated, including those before a pause."""
    num_prefilled: int = 0
    first_s: float | None = None
    """Time of its first token."""
    prefill_s: float = 0.0
    decode_s: float = 0.0
    num_cobatched_tokens: int = 0
    num_cobatched_pairs: float = 0.0
    end: End | None = None

    @property
    def is_prefilled(self) -> bool:
        """Whether the prefill is complete."""
        return self.num_prefilled >= self.num_prompt

    @property
    def context(self) -> int:
        """Tokens in its cache; the newest one is added by the next forward pass."""
        return self.ask.prompt_tokens + self.num_done - 1

    def give(self, count: int, now_s: float) -> None:
        """Add tokens to the answer."""
        if self.first_s is None:
            self.first_s = now_s
        self.num_done += count
        self.num_remaining -= count
        if self.num_remaining <= 0:
            self.end = End.ON_TIME


class SlotEngine:
    """The engine of one device.

    Args:
        device: True costs of the device.
        slowdown: Factor of all durations, by time.
        drops: Whether an answer is ended at its deadline.
    """

    def __init__(
        self, device: CostEstimate, slowdown: Callable[[float], float], *, drops: bool = True
    ) -> None:
        self._device = device
        self._slowdown = slowdown
        self._drops = drops
        self.sequences: list[Generation] = []
        """In order of start."""
        self.now_s = 0.0
        """When the current step ends, or the last one ended."""
        self._was_prefill = False

    def step(self, until_s: float) -> list[Generation]:
        """Run one prefill chunk, or the decode steps that begin before a time, at least one.

        Returns:
            Answers that ended; one that would be late is ended before that step.
        """
        prefilling = (s for s in self.sequences if not s.is_prefilled)
        waiting = min(prefilling, key=lambda s: s.ask.level, default=None)
        running = [s for s in self.sequences if s.is_prefilled]
        self._was_prefill = waiting is not None and not (running and self._was_prefill)
        if waiting is not None and self._was_prefill:
            step_s, count = self._chunk_s(waiting), 1
        else:
            count = min(sequence.num_remaining for sequence in running) if waiting is None else 1
            step_s, count = self._steps_s(running, count, until_s)
        if late := self._late(step_s, count):
            if count == 1:
                return self._remove(late)
            return self.step(self.now_s)  # a single step, so that the others end in time
        self.now_s += step_s
        if waiting is not None and self._was_prefill:
            self._prefill(waiting, step_s)
        else:
            self._decode(running, step_s, count)
        return self._remove([s for s in self.sequences if s.end is not None])

    def probe(self, now_s: float) -> RequestTimings:
        """Return what a short request takes at a time."""
        factor = self._slowdown(now_s)
        cost = self._device.scaled(factor, factor, 1.0)
        spent = RequestTimings(num_prefilled=32, decode_runs=4)
        spent.prefill_s = spent.predicted_prefill_s(cost)
        spent.decode_s = spent.predicted_decode_s(cost)
        return spent

    def end(self, sequence: Generation) -> None:
        """Remove an answer, complete or not."""
        self.sequences.remove(sequence)

    def _late(self, step_s: float, count: int) -> list[Generation]:
        """Return the answers that would be late after the step, with their end set."""
        if not self._drops:
            return []
        end_s = self.now_s + step_s
        late = [s for s in self.sequences if end_s > s.ask.deadline_s + 1e-9]
        for sequence in late if count == 1 else ():
            sequence.end = End.EXPIRED if sequence.num_done == 0 else End.CUT
        return late

    def _remove(self, sequences: list[Generation]) -> list[Generation]:
        for sequence in sequences:
            self.end(sequence)
        return sequences

    def _chunk_s(self, sequence: Generation) -> float:
        count = min(self._device.chunk_tokens, sequence.num_prompt - sequence.num_prefilled)
        seconds = self._device.prefill_s(count, sequence.num_prefilled)
        return seconds * sequence.ask.noise * self._slowdown(self.now_s)

    def _steps_s(
        self, sequences: list[Generation], at_most: int, until_s: float
    ) -> tuple[float, int]:
        """Return the duration and number of decode steps that begin before ``until_s``."""
        noise = sum(sequence.ask.noise for sequence in sequences) / len(sequences)
        factor = noise * self._slowdown(self.now_s)
        first_s = factor * step_s(self._device, [sequence.context for sequence in sequences])
        count = math.ceil(min(max((until_s - self.now_s) / first_s, 1.0), at_most))
        more_s = factor * self._device.decode_pair_s * len(sequences) * count * (count - 1) / 2
        return first_s * count + more_s, count

    def _prefill(self, sequence: Generation, step_s: float) -> None:
        count = min(self._device.chunk_tokens, sequence.num_prompt - sequence.num_prefilled)
        sequence.num_prefilled += count
        sequence.prefill_s += step_s
        if sequence.is_prefilled:
            sequence.give(1, self.now_s)

    def _decode(self, sequences: list[Generation], step_s: float, count: int) -> None:
        contexts = sum(sequence.context + count / 2 for sequence in sequences)
        for sequence in sequences:
            sequence.decode_s += step_s
            sequence.num_cobatched_tokens += count * (len(sequences) - 1)
            sequence.num_cobatched_pairs += count * (contexts - sequence.context - count / 2)
        for sequence in sequences:
            sequence.give(count, self.now_s)
