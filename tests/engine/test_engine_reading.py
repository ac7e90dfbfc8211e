"""Prompts that are read for their hidden states: several in one run, each as if it were alone."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.commands.bench.decisions import decide
from edged.engine.decoding import Decoding
from edged.engine.loop import Engine
from edged.engine.steps import DecodeInput, EngineSettings, InterruptedRunError, Prefilled
from edged.protocol.request import SamplingParams
from edged.specialists.adapter import Adapter, ProductShape
from edged.specialists.features import Pooling

if TYPE_CHECKING:
    from edged.engine.graph import Graph

GREEDY = SamplingParams(temperature=0.0)
PREFIX = list(range(100, 110))


class FakeGraph:
    """Its hidden states are the token ids; it records its runs."""

    vocab_size, max_model_len, hidden_shape = 256, 128, (1, 1)
    adapter_shape: ClassVar[dict[str, ProductShape]] = {}

    def __init__(self) -> None:
        self.runs: list[tuple[int, list[int], int]] = []
        """The first slot, the tokens of each prompt, and the first position."""
        self.in_run: Callable[[], None] = lambda: None
        self.num_interrupts = 0

    def adapt(self, slot: int, adapter: Adapter | None) -> None: ...

    def hidden(
        self,
        prompts: Sequence[NDArray[np.int64]],
        start: int,
        num_skipped: int = 0,
        *,
        slot: int = 0,
    ) -> list[NDArray[np.float32]]:
        self.runs.append((slot, [len(ids) for ids in prompts], start))
        self.in_run()
        return [ids[num_skipped:, None].astype(np.float32) for ids in prompts]

    def forward(
        self,
        token_ids: NDArray[np.int64],
        start: int,
        *,
        slot: int = 0,
        is_prefill: bool = True,
    ) -> NDArray[np.float32]:
        self.runs.append((slot, [len(token_ids)], start))
        return np.zeros((1, self.vocab_size), np.float32)

    def decode(self, inputs: Sequence[DecodeInput]) -> list[NDArray[np.float32]]:
        return [np.zeros(self.vocab_size, np.float32) for _ in inputs]

    def read(self, slot: int) -> NDArray[np.uint8]:
        return np.zeros(slot, np.uint8)

    def copy(self, source: int, target: int, length: int) -> None: ...

    def interrupt(self) -> None:
        self.num_interrupts += 1


class Reader:
    """Keeps what it is given."""

    num_before = len(PREFIX)

    def __init__(self) -> None:
        self.read: list[int] = []

    def add(self, rows: NDArray[np.float32]) -> None:
        self.read += rows[:, 0].astype(int).tolist()


class Reading:
    """An engine with a prefix in its cache, and prompts behind it that are read."""

    def __init__(self, *, batch_tokens: int = 64, num_slots: int = 4, is_warm: bool = True) -> None:
        self.graph = FakeGraph()
        settings = EngineSettings(
            128, None, 16, num_slots, num_prefixes=1, batch_tokens=batch_tokens
        )
        self.engine = Engine(cast("Graph", self.graph), (), settings)
        if is_warm:
            self.engine.make_prefix(PREFIX)
        self.graph.runs.clear()
        self.readers: dict[Decoding, tuple[Reader, list[int]]] = {}

    def start(self, num_tokens: int, level: int = 0) -> Decoding:
        ids = [(7 * len(self.readers) + n) % 90 for n in range(num_tokens)]
        reader = Reader()
        decoding = self.engine.start([*PREFIX, *ids], GREEDY, max_tokens=1, reader=reader)
        decoding.level = level
        self.readers[decoding] = reader, ids
        return decoding

    def finish(self) -> None:
        """Read all prompts; each reader must have been given its own tokens, in order."""
        while not all(decoding.is_over for decoding in self.readers):
            self.engine.step()
        for decoding, (reader, ids) in self.readers.items():
            assert reader.read == ids
            self.engine.end(decoding)


def test_prompts_that_wait_are_read_in_one_run() -> None:
    reading = Reading()
    decodings = {reading.start(num_tokens): num_tokens for num_tokens in (12, 9, 14, 10)}
    ran = reading.engine.step()
    assert reading.graph.runs == [(0, [12, 9, 14, 10], 10)]
    # All four have 14 rows in the run, of which their own do not count.
    steps = {d: [Prefilled(10 + n, 10, 56 - n)] for d, n in decodings.items()}
    assert ran.outcomes == steps
    assert ran.num_rows == 0
    reading.finish()
    assert len(reading.graph.runs) == 1


def test_a_prefix_that_is_not_cached_is_run_and_not_read() -> None:
    reading = Reading(is_warm=False)
    for num_tokens in (3, 5):
        reading.start(num_tokens)
    reading.finish()
    assert reading.graph.runs == [(0, [13, 15], 0)]


@pytest.mark.parametrize(
    ("batch_tokens", "runs"),
    [
        (64, [(0, [12] * 4, 10)]),
        (47, [(0, [12] * 3, 10), (3, [12], 10)]),
        (24, [(0, [12] * 2, 10), (2, [12] * 2, 10)]),
        (0, [(slot, [12], 10) for slot in range(4)]),
    ],
)
def test_a_run_has_no_more_tokens_than_memory_was_planned_for(
    batch_tokens: int, runs: list[tuple[int, list[int], int]]
) -> None:
    reading = Reading(batch_tokens=batch_tokens)
    for _ in range(4):
        reading.start(12)
    reading.finish()
    assert reading.graph.runs == runs


def test_a_short_context_bounds_a_run_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeGraph, "max_model_len", 40)
    reading = Reading()
    for _ in range(4):
        reading.start(12)
    reading.finish()
    assert reading.graph.runs == [(0, [12] * 3, 10), (3, [12], 10)]


def test_while_an_answer_waits_for_its_token_a_run_is_no_longer_than_a_chunk() -> None:
    reading = Reading()
    answer = reading.engine.start([1, 2], GREEDY, max_tokens=50)
    while not answer.is_prefilled:
        reading.engine.step()
    for _ in range(3):
        reading.start(8)
    reading.graph.runs.clear()
    reading.finish()
    assert reading.graph.runs == [(1, [8, 8], 10), (3, [8], 10)]


def test_long_prompts_are_read_in_chunks_side_by_side() -> None:
    reading = Reading()
    for num_tokens in (40, 36):
        reading.start(num_tokens)
    reading.finish()
    runs = reading.graph.runs
    assert runs == [(0, [16, 16], 10), (0, [16, 16], 26), (0, [8, 4], 42)]


def test_a_prompt_waits_for_its_own_run_where_padding_would_cost_more() -> None:
    reading = Reading()
    engine = reading.engine
    engine.chunk_tokens = 64
    for num_tokens in (40, 4, 2):
        reading.start(num_tokens)
    reading.finish()
    assert reading.graph.runs == [(0, [40], 10), (1, [4, 2], 10)]


def test_the_urgent_ones_are_read_without_the_others() -> None:
    reading = Reading()
    levels = (2, 0, 0, 2)
    for level in levels:
        reading.start(10, level)
    reading.finish()
    runs = reading.graph.runs
    assert runs == [(1, [10, 10], 10), (0, [10], 10), (3, [10], 10)]


def test_what_is_to_be_answered_is_run_alone() -> None:
    reading = Reading()
    reading.start(10)
    answer = reading.engine.start([*PREFIX, 1, 2, 3], GREEDY, max_tokens=1)
    reading.start(10)
    while not answer.is_over:
        reading.engine.step()
    reading.engine.end(answer)
    reading.finish()
    assert sorted(reading.graph.runs) == [(0, [10], 10), (1, [3], 10), (2, [10], 10)]


def test_one_that_leaves_takes_nothing_from_the_others() -> None:
    reading = Reading(num_slots=3)
    decodings = [reading.start(40) for _ in range(3)]
    reading.engine.step()
    reading.engine.end(decodings[1])
    del reading.readers[decodings[1]]
    late = reading.start(40)
    assert late.slot == decodings[1].slot
    reading.finish()
    assert reading.graph.runs[0] == (0, [16] * 3, 10)
    assert (late.slot, [16], 10) in reading.graph.runs


def test_an_interruption_of_some_lets_the_run_go_on_for_the_others() -> None:
    reading = Reading()
    decodings = [reading.start(10) for _ in range(3)]

    def interrupt() -> None:
        for decoding in decodings[:2]:
            reading.engine.interrupt(decoding)

    reading.graph.in_run = interrupt
    assert set(reading.engine.step().outcomes) == set(decodings)
    assert reading.graph.num_interrupts == 0


def test_an_interruption_of_all_ends_the_run_and_loses_none() -> None:
    reading = Reading()
    decodings = [reading.start(10) for _ in range(3)]

    def interrupt() -> None:
        for decoding in decodings:
            reading.engine.interrupt(decoding)
        raise InterruptedRunError

    reading.graph.in_run = interrupt
    assert not reading.engine.step().outcomes
    assert reading.graph.num_interrupts == 1
    reading.graph.in_run = lambda: None
    reading.engine.interrupt(decodings[0])  # no run is in hand
    assert reading.graph.num_interrupts == 1
    reading.finish()
    assert reading.graph.runs == [(0, [10] * 3, 10)] * 2


@pytest.mark.parametrize(("num_clients", "widths"), [(1, [1] * 6), (2, [2] * 3), (8, [4, 2])])
def test_each_client_of_the_benchmark_has_one_prompt_at_a_time(
    num_clients: int, widths: list[int]
) -> None:
    reading = Reading()
    prompts = [
        ([*PREFIX, *range(n, n + 9)], Pooling(len(PREFIX), 5, 2, reading.engine.hidden_shape[1]))
        for n in range(6)
    ]
    decide(reading.engine, prompts, num_clients)
    assert [len(lengths) for _, lengths, _ in reading.graph.runs] == widths
    assert [pooling.features()[1] for _, pooling in prompts] == [n + 6 for n in range(6)]
