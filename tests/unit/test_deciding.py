"""A request that is decided and not written: its runs, its admission, its reply."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.engine.steps import Prefilled, Token
from edged.errors import ErrorCode
from edged.node.events import Prepared
from edged.node.generation import Finished, Generation
from edged.protocol.request import Answer, FinishReason, Rejected, SamplingParams
from edged.specialists.adapter import Adapter
from edged.specialists.decider import Read, Run
from tests.fakes import COST, Bench, CharacterStream
from tests.make_request import make_request

SURE = Answer("on", FinishReason.STOP, is_choice=True, choice=0, detail={"specialist": "lamp"})
UNSURE = replace(SURE, finish_reason=FinishReason.UNSURE)
TEXT = Run([7, 8])


class CountingReader:
    """Counts the rows that it is given."""

    num_before = 2

    def __init__(self) -> None:
        self.num_rows = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        self.num_rows += len(rows)

    def features(self) -> NDArray[np.float32]:
        return np.zeros(self.num_rows, np.float32)


READING = Run([1, 2, 3], CountingReader)


@dataclass
class ScriptedDecider:
    """Returns these runs one after the other, and then the answer."""

    answer: Answer = SURE
    runs: Sequence[Run] = (READING,)
    num_needed: int = 1
    asked: list[tuple[int, bool]] = field(default_factory=list)

    def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
        self.asked.append((len(readers), may_go_on))
        num_runs = len(self.runs) if may_go_on else self.num_needed
        if len(readers) < num_runs:
            return self.runs[len(readers)]
        written = readers[-1]
        return written if isinstance(written, Answer) else self.answer


def started(decider: ScriptedDecider, *, may_go_on: bool = True) -> Generation:
    run = Generation(1, (), make_request(deadline_s=100.0), 16)
    run.decider, run.may_go_on = decider, may_go_on
    run.start(CharacterStream(), 0.0)
    return run


def test_a_decision_ends_with_its_only_run_and_has_no_token() -> None:
    run = started(ScriptedDecider())
    assert (run.prompt_ids, isinstance(run.reader, CountingReader)) == ([1, 2, 3], True)
    run.record(Prefilled(3, 2))
    assert not run.end_run(1.5)
    assert run.end() == SURE
    usage = Finished(run, SURE, 2.0).usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (3, 2, 0)
    assert run.first_token_s == 1.5


def test_what_is_passed_on_is_written() -> None:
    run = started(ScriptedDecider(UNSURE, (READING, TEXT)))
    run.record(Prefilled(3, 2))
    assert run.end_run(1.0)
    assert (run.prompt_ids, run.reader) == ([7, 8], None)
    run.record(Prefilled(2, 1))
    assert (run.num_prefilled, run.cached_tokens) == (5, 3)
    for character in "yes":
        run.record(Token(ord(character), is_stop=False))
    run.record(Token(0, is_stop=True))
    assert not run.end_run(2.0)
    assert run.end() == Answer("yes", FinishReason.STOP)


def test_when_the_deadline_leaves_no_token_the_unsure_decision_stands() -> None:
    run = started(ScriptedDecider(UNSURE, (READING, TEXT)))
    assert run.end_run(1.0)
    run.end_step(99.0)
    assert run.end(FinishReason.DEADLINE) == UNSURE


def test_a_cancel_while_it_is_passed_on_ends_it_as_cancelled() -> None:
    run = started(ScriptedDecider(UNSURE, (READING, TEXT)))
    assert run.end_run(1.0)
    outcome = run.end(FinishReason.CANCELLED)
    assert isinstance(outcome, Rejected)
    assert outcome.code is ErrorCode.CANCELLED


def test_admitted_for_its_first_run_alone_it_does_not_go_on() -> None:
    run = started(ScriptedDecider(UNSURE, (READING, TEXT)), may_go_on=False)
    assert not run.end_run(1.0)
    assert run.end() == UNSURE


def test_a_paused_run_is_read_again_from_its_beginning() -> None:
    run = started(ScriptedDecider(UNSURE, (READING, TEXT)))
    before = run.reader
    run.was_paused = True
    run.start(CharacterStream(), 5.0)
    assert run.reader is not before
    assert run.prompt_ids == [1, 2, 3]


@pytest.mark.parametrize(
    ("timeout_ms", "may_go_on"),
    [(60_000, True), (9_000, False)],
    ids=["time for both", "time for the first"],
)
def test_what_may_follow_is_admitted_only_where_it_fits(timeout_ms: int, may_go_on: bool) -> None:
    # 100 tokens of prompt take 1 s, 128 of an answer 10 s.
    bench = Bench(is_preparing=False)
    asked = {"prompt": "hi", "timeout_ms": timeout_ms, "priority": "interactive"}
    bench.deliver(asked)
    (prepare,) = bench.preparer.waiting
    runs = (Run([1] * 100, CountingReader), Run([1] * 100))
    bench.take(Prepared(prepare.key, decider=ScriptedDecider(UNSURE, runs)))
    (job,) = bench.worker.jobs
    assert job.may_go_on is may_go_on
    assert job.max_tokens == (128 if may_go_on else 0)


def test_a_decision_that_cannot_be_in_time_is_refused_and_says_that_nothing_is_written() -> None:
    bench = Bench(is_preparing=False)
    bench.deliver({"prompt": "hi", "timeout_ms": 500})
    (prepare,) = bench.preparer.waiting
    decider = ScriptedDecider(SURE, (Run([1] * 100, CountingReader),))
    bench.take(Prepared(prepare.key, decider=decider))
    (reply,) = bench.transport.replies
    assert reply.json["error"]["code"] == "timeout"
    assert reply.json["error"]["message"].startswith("the prompt is predicted to take")


def test_what_is_read_can_make_room_for_another_and_what_is_decided_cannot() -> None:
    run = started(ScriptedDecider())
    run.max_tokens = 0
    assert run.is_pausable
    run.end_run(1.0)
    assert not run.is_pausable


def refused(*runs: Run, timeout_ms: int) -> str | None:
    """Ask for these runs; return the code of the refusal, if it is one."""
    bench = Bench(is_preparing=False)
    bench.deliver({"prompt": "hi", "timeout_ms": timeout_ms, "priority": "interactive"})
    (prepare,) = bench.preparer.waiting
    bench.take(Prepared(prepare.key, decider=ScriptedDecider(SURE, runs, len(runs))))
    replies = [sent.json["error"]["code"] for sent in bench.transport.replies]
    assert len(replies) + len(bench.worker.jobs) == 1
    return replies[0] if replies else None


def test_each_option_is_counted_as_a_decoded_token_and_its_others_as_tokens_of_a_prompt() -> None:
    # 100 tokens of prompt take 1 s. Of 11 of an option the last is never run: 0.08 + 9 * 0.01 s.
    run = Run([1] * 100, CountingReader, [[1] * 11] * 5)
    assert refused(run, timeout_ms=1990) == "timeout"
    assert refused(run, timeout_ms=2100) is None
    assert refused(Run([1] * 100, CountingReader, [[1]] * 5), timeout_ms=1200) is None


def test_a_long_option_takes_several_passes() -> None:
    # 3 of 16 tokens.
    run = Run([1], CountingReader, [[1] * 49] * 10)
    assert refused(run, timeout_ms=7500) == "timeout"
    assert refused(run, timeout_ms=7700) is None


def test_what_prompts_have_in_common_is_counted_once() -> None:
    runs = [Run([*range(90), *[100 + n] * 10], CountingReader) for n in range(5)]
    assert refused(*runs, timeout_ms=1400) == "timeout"
    assert refused(*runs, timeout_ms=1700) is None
    others = [Run([100 + n] * 100, CountingReader) for n in range(5)]
    assert refused(*others, timeout_ms=5400) == "timeout"


def test_attention_of_several_prompts_is_not_that_of_one_as_long() -> None:
    bench = Bench(is_preparing=False, cost=replace(COST, prefill_pair_s=1e-4))
    bench.deliver({"prompt": "hi", "timeout_ms": 20_000})
    (prepare,) = bench.preparer.waiting
    runs = [Run([n] * 100, CountingReader) for n in range(10)]
    bench.take(Prepared(prepare.key, decider=ScriptedDecider(SURE, runs, 10)))
    (state,) = bench.node.scheduler.running
    # Each takes 1.5 s; one prompt of 1,000 tokens would take 60 s.
    assert COST.prefill_token_s * state.num_prompt_tokens < 15
    assert 14.9 < replace(COST, prefill_pair_s=1e-4).prefill_s(state.num_prompt_tokens) < 15.2


def test_the_last_token_of_the_same_prompt_is_counted_again() -> None:
    runs = [Run([1, 2], CountingReader)] * 100
    assert refused(*runs, timeout_ms=1000) == "timeout"
    assert refused(*runs, timeout_ms=1300) is None


def test_a_prompt_that_leaves_no_room_for_an_option_is_too_long() -> None:
    # 256 positions.
    assert refused(Run([1] * 200, CountingReader, [[1] * 57]), timeout_ms=60_000) == (
        "prompt_too_long"
    )
    assert refused(Run([1] * 200, CountingReader, [[1] * 56]), timeout_ms=60_000) is None


def test_as_many_and_long_options_as_a_request_may_have_are_refused_when_late() -> None:
    options = [[1 + n] * 240 for n in range(64)]
    assert refused(Run([1], CountingReader, options), timeout_ms=200_000) == "timeout"


@pytest.mark.parametrize("num_runs", [1, 2])
def test_costs_are_learned_from_a_decision_of_one_prompt_only(num_runs: int) -> None:
    bench = Bench(is_preparing=False)
    bench.deliver({"prompt": "hi"})
    (prepare,) = bench.preparer.waiting
    decider = ScriptedDecider(SURE, [Run([1] * 50, CountingReader)] * num_runs, num_runs)
    bench.take(Prepared(prepare.key, decider=decider))
    (job,) = bench.worker.jobs
    job.start(CharacterStream(), bench.clock())
    for _ in range(num_runs):
        job.record(Prefilled(50, 0))
        bench.clock.advance(0.1)  # a fifth of what was predicted
        job.spent.prefill_s += 0.1
        job.end_run(bench.clock())
    bench.take(Finished(job, SURE, bench.clock()))
    is_learned = bench.node.latency_model.current.prefill_token_s < 0.005
    assert is_learned is (num_runs == 1)


def test_an_answer_that_is_written_has_no_run_to_be_read() -> None:
    run = Generation(1, [1, 2], make_request(deadline_s=100.0), 16)
    run.start(CharacterStream(), 0.0)
    assert not run.end_run(1.0)
    assert (run.prompt_ids, run.decision) == ([1, 2], None)


@dataclass(frozen=True)
class ScriptedAnswers:
    """A specialist that writes, and says how it was asked."""

    adapter: Adapter

    def answer(self, text: str, log_probability: float, reason: FinishReason) -> Answer:
        return Answer(f"{text} {log_probability:g}", reason)


def test_what_a_specialist_writes_is_its_own_whatever_the_request_says_of_sampling() -> None:
    """Neither the stop strings nor the sampling of the request have an effect on it."""
    adapter = Adapter("key", {})
    request = make_request(stop=("b",), sampling=SamplingParams(1.0), deadline_s=100.0)
    run = Generation(1, [1], request, 8, answers=ScriptedAnswers(adapter))
    run.start(CharacterStream(), 0.0)
    assert (run.adapter, run.sampling) == (adapter, SamplingParams())
    for letter, weight in (("a", -0.5), ("b", 0.0), ("c", -0.25)):
        run.record(Token(ord(letter), is_stop=False, log_probability=weight))
    run.record(Token(0, is_stop=True, log_probability=-0.25))
    run.end_step(1.0)
    assert run.end() == Answer("abc -1", FinishReason.STOP)


def test_what_a_run_adds_to_the_model_is_that_of_the_run_in_hand() -> None:
    """A decision before a written answer is read by the plain model."""
    adapter = Adapter("key", {})
    writing = replace(TEXT, answers=ScriptedAnswers(adapter))
    run = started(ScriptedDecider(UNSURE, (READING, writing)))
    assert run.adapter is None
    assert run.end_run(1.0)
    assert run.adapter is adapter


WRITING = Run([7, 8, 9], answers=ScriptedAnswers(Adapter("key", {})), max_tokens=5)


def say(run: Generation, text: str) -> None:
    for character in text:
        run.record(Token(ord(character), is_stop=False, log_probability=-1.0))


def test_what_was_written_may_be_followed_by_another_text() -> None:
    """Nothing of the first is in the second, but what it took."""
    run = started(ScriptedDecider(UNSURE, (WRITING, TEXT)))
    run.max_tokens = 16
    run.record(Prefilled(3, 2))
    assert (run.limit, run.num_counted, run.is_pausable) == (5, 0, True)
    say(run, "abcde")
    assert not run.is_pausable
    run.end_step(1.0)
    assert (run.num_output_tokens, run.num_counted, run.first_token_s) == (5, 0, 1.0)
    assert run.end_run(1.0)
    assert (run.prompt_ids, run.adapter, run.limit) == ([7, 8], None, 16)
    assert (run.text, run.log_probability, run.output_ids, run.first_token_s) == ("", 0.0, [], None)
    run.record(Prefilled(2, 1))
    say(run, "yes")
    assert run.num_counted == 3
    run.end_step(2.0)
    run.record(Token(0, is_stop=True))
    assert not run.end_run(3.0)
    outcome = run.end(FinishReason.DEADLINE)
    assert outcome == Answer("yes", FinishReason.STOP)
    finished = Finished(run, outcome, 3.0)
    usage, timing = finished.usage, finished.timing(0.0)
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens) == (5, 3, 9)
    assert timing.ttft_s == 2.0
    assert not run.has_one_run


def test_what_was_written_may_be_followed_by_a_decision() -> None:
    run = started(ScriptedDecider(SURE, (WRITING, READING)))
    run.max_tokens = 0
    assert run.limit == 5
    say(run, "ab")
    run.record(Token(0, is_stop=True))
    run.end_step(1.0)
    assert run.end_run(1.0)
    assert isinstance(run.reader, CountingReader)
    assert run.is_pausable
    assert not run.end_run(2.0)
    assert (run.end(), run.first_token_s) == (SURE, 2.0)
    assert Finished(run, SURE, 2.0).usage.completion_tokens == 3


@pytest.mark.parametrize("may_go_on", [False, True])
def test_the_deadline_before_the_first_token_of_a_specialist_is_an_error(
    *, may_go_on: bool
) -> None:
    run = started(ScriptedDecider(UNSURE, (WRITING, TEXT)), may_go_on=may_go_on)
    run.end_step(99.0)
    assert not run.end_run(99.0)
    outcome = run.end()
    assert isinstance(outcome, Rejected)
    assert outcome.code is ErrorCode.TIMEOUT


def test_without_a_token_of_the_second_the_first_text_stands() -> None:
    run = started(ScriptedDecider(UNSURE, (WRITING, TEXT)))
    say(run, "ab")
    assert run.end_run(1.0)
    run.end_step(99.0)
    assert not run.end_run(99.0)
    assert run.end() == Answer("ab -2", FinishReason.LENGTH)


def test_a_cancel_in_the_middle_of_a_text_leaves_what_there_is() -> None:
    run = started(ScriptedDecider(UNSURE, (WRITING, TEXT)))
    say(run, "ab")
    assert run.end(FinishReason.CANCELLED) == Answer("ab -2", FinishReason.CANCELLED)


def test_what_may_be_written_first_is_admitted_as_well() -> None:
    # 100 tokens of prompt take 1 s, each of an answer 0.08 s, and a tenth more is allowed for.
    first = replace(WRITING, prompt_ids=[1] * 100, max_tokens=50)
    second = Run([2] * 100, max_tokens=25)
    assert refused(first, second, timeout_ms=8_700) == "timeout"
    assert refused(first, second, timeout_ms=8_900) is None
    assert refused(first, timeout_ms=5_300) == "timeout"
    assert refused(first, timeout_ms=5_600) is None
