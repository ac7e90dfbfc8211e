"""Time answers with and without adapters, in turns, so that what else runs here disturbs all alike.

The adapters are random: what they say does not matter, and their time does not depend on it.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edged.bundle.folder import open_bundle
from edged.engine.decoding import Decoding
from edged.engine.loading import load_engine
from edged.engine.steps import EngineSettings, PromptOrigin, Token
from edged.engine.tokenizer import Tokenizer
from edged.engine.writer_prompts import WriterPrompts
from edged.protocol.request import ChatMessage, SamplingParams
from edged.specialists.adapter import AdaptedModel, Adapter, AdapterPart, made_adapter
from edged.specialists.writer import read_writer

if TYPE_CHECKING:
    from edged.engine.loop import Engine

HEADING = ("what", "wall ms", "CPU ms", "wall ratio", "CPU ratio")
_NUM_ANSWERS = 4
_PROMPT_TOKENS = 64
_NUM_COMMANDS = 16
_MAX_MODEL_LEN = 512
# So that a summand is much smaller than what it is added to.
_SCALE = 1e-7


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    num_rounds: int
    num_tokens: int
    """Of an answer."""
    num_threads: int | None
    asked: tuple[Path, Path] | None = None
    """A writer's folder, and a file with what it is asked."""


@dataclass(slots=True)
class Series:
    """The times of one thing in each round, in seconds."""

    title: str
    run: Callable[[], tuple[float, float]]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of a series, and of its ratios to its peer in the same round."""

    title: str
    wall_s: float
    cpu_s: float
    wall_ratio: float
    cpu_ratio: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text, as ``HEADING`` has it."""
        times = (f"{1e3 * self.wall_s:.2f}", f"{1e3 * self.cpu_s:.2f}")
        return (self.title, *times, f"{self.wall_ratio:.3f}", f"{self.cpu_ratio:.3f}")


class Bench:
    """An engine and prompts that nobody has asked before."""

    def __init__(self, model: Path, plan: Plan, *, is_adapted: bool) -> None:
        bundle = open_bundle(model, verify=False)
        settings = EngineSettings(
            _MAX_MODEL_LEN,
            num_threads=plan.num_threads,
            num_slots=_NUM_ANSWERS,
            is_guessing=False,
            model_path=bundle.adapted_path if is_adapted else None,
        )
        self._bundle = bundle
        self._engine: Engine = load_engine(bundle, settings)
        self._random = np.random.default_rng(0)
        self._plan = plan
        self.adapters = [self._adapter() for _ in range(_NUM_ANSWERS)]

    def _adapter(self) -> Adapter:
        random, parts = self._random, {}
        for product, (inputs, inners, blocks, rank, width) in self._engine.adapter_shape.items():
            parts[product] = AdapterPart(
                random.integers(-127, 128, (inputs, inners * rank)).astype(np.int8),
                np.full(inners * rank, _SCALE, np.float32),
                random.integers(-127, 128, (blocks, rank, width)).astype(np.int8),
                np.ones((blocks, 1, width), np.float32),
            )
        return made_adapter(parts)

    def token(self, adapters: Sequence[Adapter | None]) -> tuple[float, float]:
        """Return the seconds of a decode step for so many answers, on the wall and of the CPU."""
        answers = [self._begin(adapter) for adapter in adapters]
        while not all(answer.is_read for answer in answers):
            self._engine.step()
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        num_steps = 0
        while not answers[0].is_over:
            outcomes = self._engine.step().outcomes
            num_steps += any(isinstance(s, Token) for s in outcomes.get(answers[0], ()))
        spent = time.perf_counter() - wall_s, time.process_time() - cpu_s
        for answer in answers:
            self._engine.end(answer)
        return spent[0] / max(num_steps, 1), spent[1] / max(num_steps, 1)

    def answers(self, adapters: Sequence[Adapter | None], *, together: bool) -> tuple[float, float]:
        """Return the seconds of an answer with each adapter, prompts included."""
        begins = [partial(self._begin, adapter) for adapter in adapters]
        return self._timed(begins, len(begins) if together else 1)

    def commands(self, writer: Path, prompts: Path) -> Callable[[int], tuple[float, float]]:
        """Return what times a writer's answers, so many together, each by another specialist.

        Their prompts are prepared before: a node does so beside the engine.
        """
        base = AdaptedModel.of(self._bundle.manifest)
        read = read_writer(writer, base, self._engine.adapter_shape)
        prepare = WriterPrompts(Tokenizer.load(self._bundle), _MAX_MODEL_LEN).prepare
        lines = prompts.read_text(encoding="utf-8").splitlines()[:_NUM_COMMANDS]
        asked = [(ChatMessage("user", json.loads(line)["prompt"]),) for line in lines]
        # The same numbers under other keys: no slot has another's adapter or prefix.
        named = [replace(read.adapter, key=str(n)) for n in range(_NUM_ANSWERS)]

        def run(together: int) -> tuple[float, float]:
            prepared = [prepare(read, messages, {}) for messages in asked]
            begins = [
                partial(
                    self._engine.start,
                    one.prompt_ids,
                    SamplingParams(),
                    max_tokens=read.description.max_tokens,
                    constraint=one.constraint,
                    origin=PromptOrigin(adapter=named[index % _NUM_ANSWERS]),
                )
                for index, one in enumerate(prepared)
            ]
            return self._timed(begins, together)

        return run

    def _timed(
        self, begins: Sequence[Callable[[], Decoding]], together: int
    ) -> tuple[float, float]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for first in range(0, len(begins), together):
            running = [begin() for begin in begins[first : first + together]]
            while not all(answer.is_over for answer in running):
                self._engine.step()
            for answer in running:
                self._engine.end(answer)
        return time.perf_counter() - wall_s, time.process_time() - cpu_s

    def _begin(self, adapter: Adapter | None) -> Decoding:
        prompt = self._random.integers(1000, self._engine.vocab_size, _PROMPT_TOKENS).tolist()
        # Another token than the most likely ones, so that no answer ends before the others.
        sampling = SamplingParams(temperature=1.0, seed=int(self._random.integers(1 << 30)))
        return self._engine.start(
            prompt,
            sampling,
            max_tokens=self._plan.num_tokens,
            origin=PromptOrigin(adapter=adapter),
        )


def measure(model: Path, before: Path | None, plan: Plan) -> list[Row]:
    """Return the rows of the table; blocks for minutes.

    Raises:
        BundleError: A bundle is wrong, or it takes no adapters.
    """
    bench, without = (Bench(model, plan, is_adapted=is_adapted) for is_adapted in (True, False))
    one, four, plain = bench.adapters[:1], bench.adapters, [None] * _NUM_ANSWERS
    tokens = [
        Series("a token, no writer", lambda: without.token([None])),
        Series("a token, plain", lambda: bench.token([None])),
        Series("a token, one adapter", lambda: bench.token(one)),
    ]
    if before is not None:
        peer = Bench(before, plan, is_adapted=False)
        tokens.insert(0, Series("a token, before", lambda: peer.token([None])))
    steps = [
        Series("a step of four, plain", lambda: bench.token(plain)),
        Series("a step of four adapters", lambda: bench.token(four)),
    ]
    answers = [
        Series("four adapters, in turn", lambda: bench.answers(four, together=False)),
        Series("four adapters, together", lambda: bench.answers(four, together=True)),
    ]
    groups = [tokens, steps, answers]
    if plan.asked is not None:
        commands = bench.commands(*plan.asked)
        groups.append(
            [
                Series("commands, in turn", lambda: commands(1)),
                Series("commands, four together", lambda: commands(_NUM_ANSWERS)),
            ]
        )
    for index in range(plan.num_rounds + 1):
        for series in (series for group in groups for series in group):
            wall_s, cpu_s = series.run()
            if index:  # the first round warms up
                series.wall.append(wall_s)
                series.cpu.append(cpu_s)
    return [_row(series, group[0]) for group in groups for series in group]


def _row(series: Series, peer: Series) -> Row:
    def ratio(own: Sequence[float], others: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(own, others, strict=True))

    return Row(
        series.title,
        statistics.median(series.wall),
        statistics.median(series.cpu),
        ratio(series.wall, peer.wall),
        ratio(series.cpu, peer.cpu),
    )
