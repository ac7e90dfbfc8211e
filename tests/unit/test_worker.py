"""The inference thread: one ``Finished`` a job, however the engine behaves."""

import queue
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.daemon.energy import EnergyMeter
from edged.daemon.worker import Worker
from edged.engine.decoding import Constraint, ForwardPass
from edged.engine.grammar import ConstraintError
from edged.engine.steps import Prefilled, Token
from edged.errors import ErrorCode
from edged.node.events import Probed
from edged.node.generation import Finished, Fragment, Generation, Paused
from edged.protocol.request import (
    Answer,
    Energy,
    EnergySource,
    FinishReason,
    FormatType,
    OutputFormat,
    Rejected,
    ReplyAddress,
    Request,
    SamplingParams,
)
from edged.scheduling.latency_model import RequestTimings
from edged.specialists.decider import Answers, Decider, Read, Run
from tests.fakes import CharacterStream, FakeClock, FakeEngine

REQUEST = Request(ReplyAddress("t", "a"), (), received_s=0.0, deadline_s=5000.0, is_stream=True)
LIMIT_S = 10.0


def steps(text: str) -> list[Prefilled | Token | Exception]:
    return [Prefilled(1, 0), *(Token(ord(c), is_stop=False) for c in text)]


STOP = Token(0, is_stop=True)


class Inbox:
    """What the worker emits, in order."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Fragment | Finished | Paused | Probed] = queue.SimpleQueue()

    def until_finished(self) -> tuple[list[Fragment], Finished]:
        fragments: list[Fragment] = []
        while True:
            event = self.events.get(timeout=LIMIT_S)
            if isinstance(event, Finished):
                return fragments, event
            assert isinstance(event, Fragment)
            fragments.append(event)

    def until_paused(self) -> Paused:
        while True:
            event = self.events.get(timeout=LIMIT_S)
            if isinstance(event, Paused):
                return event
            assert isinstance(event, Fragment)


class TickingEngine(FakeEngine):
    """Let ``step_s`` pass before each step, and call ``between`` after the first token."""

    clock: FakeClock
    step_s: float = 1.0

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        for step in super().generate(prompt_ids, sampling, max_tokens=max_tokens):
            self.clock.advance(self.step_s)
            yield step


class Unconstrained:
    """A format that allows everything and is never complete."""

    is_complete = False
    forced = ()
    is_ending = False

    def allowed(self, logits: NDArray[np.float32]) -> None: ...

    def advance(self, token_id: int) -> None: ...


def run(
    engine: FakeEngine, request: Request = REQUEST, clock: FakeClock | None = None
) -> tuple[list[Fragment], Finished]:
    inbox = Inbox()
    worker = Worker(engine, CharacterStream, inbox.events.put, clock or FakeClock())
    worker.start_thread()
    constraint = None if request.format.type is FormatType.TEXT else Unconstrained()
    worker.start(Generation(1, [1, 2, 3], request, 16, constraint))
    try:
        return inbox.until_finished()
    finally:
        assert worker.stop(LIMIT_S)


def answer(finished: Finished) -> Answer:
    assert isinstance(finished.outcome, Answer)
    return finished.outcome


def refusal(finished: Finished) -> Rejected:
    assert isinstance(finished.outcome, Rejected)
    return finished.outcome


def ticking(text: str, step_s: float = 1.0) -> tuple[TickingEngine, FakeClock]:
    engine = TickingEngine(steps(text))
    engine.clock, engine.step_s = FakeClock(0.0), step_s
    return engine, engine.clock


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it() -> None:
    _, finished = run(FakeEngine([*steps("Paris"), STOP, *steps("never")]))
    assert answer(finished) == Answer("Paris", FinishReason.STOP)
    assert finished.usage.completion_tokens == 6
    assert finished.usage.prompt_tokens == 3


def test_without_a_stop_the_length_was_the_reason() -> None:
    _, finished = run(FakeEngine(steps("Paris")))
    assert answer(finished).finish_reason is FinishReason.LENGTH


def test_a_stop_string_ends_the_answer_across_tokens() -> None:
    request = replace(REQUEST, stop=("ris",))
    _, finished = run(FakeEngine(steps("Paris is")), request)
    assert answer(finished) == Answer("Pa", FinishReason.STOP)


def test_text_held_back_for_a_stop_string_is_given_out_at_the_end() -> None:
    request = replace(REQUEST, stop=("xyz",))
    _, finished = run(FakeEngine(steps("Paxy")), request)
    assert answer(finished).text == "Paxy"


def test_the_deadline_ends_a_running_answer_before_it_passes() -> None:
    engine, clock = ticking("abcdefgh")
    _, finished = run(engine, replace(REQUEST, deadline_s=5.5), clock)
    assert answer(finished) == Answer("abcd", FinishReason.DEADLINE)
    assert finished.finished_s <= 5.5


@pytest.mark.parametrize(
    ("chunks_s", "num_tokens", "expected"),
    [
        ([1.2], [3], "abcd"),
        # Of two tokens of the prompt the last one takes half as long as both together.
        ([0.8, 0.4], [2, 3], "abcd"),
        ([1.0, 1.0], [1, 2], None),
    ],
    ids=["one chunk", "a short last chunk", "another as long"],
)
def test_a_chunk_of_the_prompt_says_nothing_of_the_next_token(
    chunks_s: list[float], num_tokens: list[int], expected: str | None
) -> None:
    """It takes many times as long, so it must not end an answer that would be in time."""
    clock = FakeClock(0.0)
    times_s = iter([*chunks_s, *[0.05] * 4])

    class Timed(FakeEngine):
        def step(self) -> ForwardPass:
            clock.advance(next(times_s, 0.0))
            return super().step()

    engine = Timed([*(Prefilled(count, 0) for count in num_tokens), *steps("abcd")[1:]])
    _, finished = run(engine, replace(REQUEST, deadline_s=1.6), clock)
    if expected is None:
        assert refusal(finished).code is ErrorCode.TIMEOUT
        assert finished.finished_s == 1.0, "before it is late"
    else:
        assert answer(finished) == Answer(expected, FinishReason.LENGTH)


def test_the_deadline_before_the_first_token_is_a_timeout() -> None:
    engine, clock = ticking("ab")
    _, finished = run(engine, replace(REQUEST, deadline_s=1.5), clock)
    assert refusal(finished).code is ErrorCode.TIMEOUT
    assert finished.generation.first_token_s is None
    assert finished.timing(0.0).prefill_s == 1.0


@pytest.mark.parametrize("num_before", range(5))
def test_cancel_at_each_token_ends_the_one_execution_with_the_text_so_far(num_before: int) -> None:
    inbox = Inbox()
    text = "Paris"
    num_runs = 0

    class Cancelling(FakeEngine):
        def generate(
            self,
            prompt_ids: Sequence[int],
            sampling: SamplingParams,
            *,
            max_tokens: int,
            constraint: Constraint | None = None,
        ) -> Generator[Prefilled | Token, None, None]:
            nonlocal num_runs
            num_runs += 1
            yield from steps(text[:num_before])  # type: ignore[misc]
            worker.cancel(1)
            yield from steps(text[num_before:])[1:]  # type: ignore[misc]

    engine = Cancelling()
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    worker.start_thread()
    worker.start(Generation(1, [1], REQUEST, 16))
    _, finished = inbox.until_finished()
    assert answer(finished) == Answer(text[: num_before + 1], FinishReason.CANCELLED)
    assert len(engine.interrupted) == 1, "a piece of its prompt would be broken off"
    worker.stop(LIMIT_S)
    assert num_runs == 1
    assert inbox.events.empty()


def test_cancel_during_prefill_is_a_refusal() -> None:
    inbox = Inbox()
    worker = Worker(FakeEngine(steps("a")), CharacterStream, inbox.events.put, FakeClock())
    worker.start(Generation(1, [1], REQUEST, 16))
    worker.cancel(1)
    worker.start_thread()
    _, finished = inbox.until_finished()
    assert refusal(finished).code is ErrorCode.CANCELLED
    worker.stop(LIMIT_S)


def test_a_broken_engine_is_answered_and_the_next_job_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox()
    engine = FakeEngine([*steps("a"), ValueError("broken")])
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    worker.start_thread()
    for key in (1, 2):
        worker.start(Generation(key, [1], REQUEST, 16))
        _, finished = inbox.until_finished()
        assert finished.generation.key == key
        assert refusal(finished).code is ErrorCode.INTERNAL
    assert "generation failed" in caplog.text
    assert worker.is_alive
    worker.stop(LIMIT_S)
    assert not worker.is_alive


class Written:
    """What makes answers of what a specialist writes."""

    adapter = None

    def answer(self, text: str, log_probability: float, reason: FinishReason) -> Answer:
        return Answer(text, reason)


class Wrong(CharacterStream):
    """A detokenizer that fails at the end, or a decider that fails at once."""

    runs = ()
    num_needed = 1

    def flush(self) -> str:
        raise ValueError("broken")

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        raise ValueError("broken")


@pytest.mark.parametrize("decider", [Wrong(), None])
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_what_fails_as_an_answer_begins_or_ends_is_answered(
    decider: Decider | None, *, is_cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()
    worker = Worker(FakeEngine(steps("ab")), Wrong, inbox.events.put, FakeClock())
    worker.start(Generation(1, [1], REQUEST, 16, decider=decider))
    if is_cancelled:
        worker.cancel(1)
    worker.start_thread()
    _, finished = inbox.until_finished()
    if decider is None and is_cancelled:
        assert refusal(finished).code is ErrorCode.CANCELLED
    else:
        assert refusal(finished).code is ErrorCode.INTERNAL
        assert "generation failed: key=1" in caplog.text
    assert worker.is_alive
    assert worker.stop(LIMIT_S)


@pytest.mark.parametrize("is_written", [True, False])
def test_a_format_that_reaches_its_limits_is_its_senders_and_a_line(
    *, is_written: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Not that of a specialist that writes: there it is a fault of the node."""

    class Limited(FakeEngine):
        def step(self) -> ForwardPass:
            return ForwardPass({one: [ConstraintError("too many states")] for one in self.active})

    inbox = Inbox()
    worker = Worker(Limited(), CharacterStream, inbox.events.put, FakeClock())
    request = replace(REQUEST, format=OutputFormat(FormatType.JSON_SCHEMA, {}))
    run = Generation(1, [1], request, 16, Unconstrained())
    run.answers = cast("Answers", Written()) if is_written else None
    worker.start(run)
    worker.start_thread()
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    code = ErrorCode.INTERNAL if is_written else ErrorCode.BAD_REQUEST
    assert refusal(finished).code is code
    assert refusal(finished).message.startswith("format.schema: ") is not is_written
    (record,) = caplog.records
    assert bool(record.exc_info) is is_written


def test_memory_that_cannot_be_freed_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Full(FakeEngine):
        def release(self) -> None:
            raise RuntimeError("broken")

    inbox = Inbox()
    worker = Worker(Full(steps("x")), CharacterStream, inbox.events.put, FakeClock())
    worker.release()
    worker.start(Generation(1, [1], REQUEST, 1))
    worker.start_thread()
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert answer(finished).text == "x"
    assert "could not be freed" in caplog.text


def test_fragments_join_to_the_answer_and_are_coalesced() -> None:
    fragments, finished = run(FakeEngine(steps("abcdefghijklmnopqrst")))
    assert "".join(fragment.delta for fragment in fragments) == answer(finished).text
    assert [len(fragment.delta) for fragment in fragments] == [1, 8, 8, 3]
    assert [fragment.number for fragment in fragments] == [0, 1, 2, 3]
    assert [fragment.is_done for fragment in fragments] == [False, False, False, True]


def test_fragments_do_not_wait_longer_than_their_interval() -> None:
    engine, clock = ticking("abcd", step_s=0.06)
    fragments, _ = run(engine, clock=clock)
    assert [fragment.delta for fragment in fragments] == ["a", "bc", "d"]


def test_who_did_not_ask_for_a_stream_gets_none() -> None:
    fragments, _ = run(FakeEngine(steps("abc")), replace(REQUEST, is_stream=False))
    assert fragments == []


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"a":1}', {"a": 1}),
        ('{"a":', None),
        ("null", None),
        ("1e308", 1e308),
        ('{"a":[1e999]}', None),
        ('{"a":-1e999}', None),
    ],
)
def test_a_complete_json_answer_is_parsed(text: str, parsed: object) -> None:
    request = replace(REQUEST, format=OutputFormat(FormatType.JSON_SCHEMA, schema=True))
    _, finished = run(FakeEngine([*steps(text), STOP]), request)
    assert answer(finished).json == parsed


def test_a_json_answer_cut_by_its_length_is_not_parsed() -> None:
    request = replace(REQUEST, format=OutputFormat(FormatType.JSON_SCHEMA, schema=True))
    _, finished = run(FakeEngine(steps("12")), request)
    assert answer(finished).json is None


@pytest.mark.parametrize("kind", [FormatType.CHOICE, FormatType.JSON_SCHEMA])
def test_a_job_without_the_constraint_of_its_format_is_not_started(kind: FormatType) -> None:
    inbox, engine = Inbox(), FakeEngine(steps("free text"))
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    worker.start_thread()
    worker.start(Generation(1, [1, 2, 3], replace(REQUEST, format=OutputFormat(kind)), 16))
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert refusal(finished).code is ErrorCode.INTERNAL
    assert engine.calls == 0


def test_timing_adds_up() -> None:
    engine, clock = ticking("abc")
    _, finished = run(engine, clock=clock)
    timing = finished.timing(received_s=-2.0)
    assert (timing.queued_s, timing.prefill_s, timing.ttft_s) == (2.0, 2.0, 4.0)
    assert (timing.decode_s, timing.total_s) == (2.0, 6.0)


def test_a_stall_is_seen_while_a_job_runs_and_not_when_idle() -> None:
    clock, inbox = FakeClock(0.0), Inbox()
    seen: list[float] = []

    class Slow(FakeEngine):
        def generate(
            self,
            prompt_ids: Sequence[int],
            sampling: SamplingParams,
            *,
            max_tokens: int,
            constraint: Constraint | None = None,
        ) -> Generator[Prefilled | Token, None, None]:
            clock.advance(40.0)
            seen.append(worker.stalled_s(clock()))
            yield Token(97, is_stop=False)

    worker = Worker(Slow(), CharacterStream, inbox.events.put, clock)
    assert worker.stalled_s(clock()) == 0.0
    worker.start_thread()
    worker.start(Generation(1, [1], REQUEST, 16))
    inbox.until_finished()
    assert seen == [40.0]
    assert worker.stalled_s(clock()) == 0.0
    worker.stop(LIMIT_S)


class PausingEngine(FakeEngine):
    """Ask the worker for a pause after so many tokens of a job; remember what each call was for."""

    worker: Worker
    prompts: list[tuple[list[int], int]]
    pause_after: int = 3

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        self.prompts.append((list(prompt_ids), max_tokens))
        done = len(prompt_ids) - 3
        yield Prefilled(len(prompt_ids), 1 if done else 0)
        for number, step in enumerate(list(self.steps)[done:], done + 1):
            if number == self.pause_after and len(self.prompts) == 1:
                self.worker.pause(1)
            yield step  # type: ignore[misc]  # no exceptions are scripted here


def pausing(text: str) -> tuple[PausingEngine, Worker, Inbox]:
    inbox = Inbox()
    engine = PausingEngine([Token(ord(c), is_stop=False) for c in text])
    engine.prompts = []
    engine.worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    engine.worker.start_thread()
    return engine, engine.worker, inbox


def test_an_interrupted_answer_goes_on_where_it_stopped() -> None:
    engine, worker, inbox = pausing("abcdef")
    worker.start(Generation(1, [1, 2, 3], REQUEST, 6))
    paused = inbox.until_paused()
    assert paused.generation.text == "abc"
    worker.start(Generation(2, [1, 2, 3], REQUEST, 2))
    assert inbox.until_finished()[1].generation.key == 2
    worker.start(paused.generation)
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert answer(finished) == Answer("abcdef", FinishReason.LENGTH)
    assert finished.generation.was_paused
    assert finished.usage.completion_tokens == 6
    assert finished.usage.cached_tokens == 0  # of the prompt; what the pause reused is none of it
    first, _, second = engine.prompts
    assert first == ([1, 2, 3], 6)
    assert second == ([1, 2, 3, ord("a"), ord("b"), ord("c")], 3)


def test_an_answer_at_its_end_is_not_interrupted() -> None:
    _, worker, inbox = pausing("abc")
    worker.start(Generation(1, [1, 2, 3], REQUEST, 3))
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert answer(finished).text == "abc"
    assert not finished.generation.was_paused


def test_the_cache_is_given_back_between_jobs() -> None:
    inbox = Inbox()
    engine = FakeEngine(steps("x"))
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    worker.start_thread()
    worker.release()
    worker.start(Generation(1, [1], REQUEST, 1))
    inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert engine.releases == 1


def test_the_energy_of_a_run_is_in_its_usage() -> None:
    inbox = Inbox()
    counter = iter([10.0, 12.0, 12.0, 13.5, 13.5, 13.5])  # before and after each step
    meter = EnergyMeter(lambda: next(counter))
    worker = Worker(FakeEngine(steps("x")), CharacterStream, inbox.events.put, FakeClock(), meter)
    worker.start_thread()
    worker.start(Generation(1, [1], REQUEST, 1))
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert finished.usage.energy == Energy(3.5, EnergySource.RAPL)


class ProbedEngine(FakeEngine):
    """Take a step of a probe for as long as it may."""

    num_steps: int = 0
    after_three: Callable[[], None]

    def probe(self, goes_on: Callable[[], bool]) -> list[RequestTimings]:
        while goes_on():
            self.num_steps += 1
            if self.num_steps == 3:
                self.after_three()
        return []


def test_a_probe_makes_room_for_the_next_command() -> None:
    inbox, engine = Inbox(), ProbedEngine(steps("x"))
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    engine.after_three = lambda: worker.start(Generation(1, [1], REQUEST, 1))
    worker.start_thread()
    worker.probe()
    assert inbox.events.get(timeout=LIMIT_S) == Probed([])
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert (answer(finished).text, engine.num_steps) == ("x", 3)


def test_a_probe_that_hangs_is_seen_and_one_that_ended_is_not() -> None:
    inbox, engine, clock = Inbox(), ProbedEngine(steps("x")), FakeClock()
    worker = Worker(engine, CharacterStream, inbox.events.put, clock)
    stalls: list[float] = []

    def hang() -> None:
        clock.advance(40.0)
        stalls.append(worker.stalled_s(clock()))
        worker.release()

    engine.after_three = hang
    worker.start_thread()
    worker.probe()
    assert inbox.events.get(timeout=LIMIT_S) == Probed([])
    assert worker.stop(LIMIT_S)
    assert stalls == [40.0]
    assert worker.stalled_s(clock() + 40.0) == 0.0


def test_nothing_is_probed_beside_an_answer() -> None:
    inbox, engine = Inbox(), ProbedEngine(steps("x"))
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())
    engine.after_three = worker.release
    worker.start(Generation(1, [1], REQUEST, 1))
    worker.probe()
    worker.start_thread()
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert (answer(finished).text, engine.num_steps) == ("x", 0)


def test_a_probe_that_fails_ends_nothing_else() -> None:
    inbox, engine = Inbox(), ProbedEngine(steps("x"))
    worker = Worker(engine, CharacterStream, inbox.events.put, FakeClock())

    def fail() -> None:
        worker.start(Generation(1, [1], REQUEST, 1))
        raise RuntimeError("broken")

    engine.after_three = fail
    worker.start_thread()
    worker.probe()
    _, finished = inbox.until_finished()
    assert worker.stop(LIMIT_S)
    assert answer(finished).text == "x"
