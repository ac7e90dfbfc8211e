"""The preparing thread: one request at a time, and an error refuses that request alone."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from edged.daemon.preparer import SHORT_CHARACTERS, Preparer
from edged.engine.decoding import Constraint
from edged.engine.grammar import FormatError
from edged.engine.tokenizer import TemplateError
from edged.engine.writer_prompts import Prompted, WritingError
from edged.errors import ErrorCode
from edged.node.effects import Prepare
from edged.node.events import Prepared
from edged.node.sessions import PendingTurn, SessionLimits, Turn
from edged.protocol.request import ChatMessage, Client, FormatType, OutputFormat, Question
from edged.specialists.decider import Run
from edged.specialists.installed import Installed
from edged.specialists.scoring import OptionScoring
from edged.specialists.writer import WriterAnswers
from tests.fakes import LIMITS
from tests.make_request import make_request
from tests.unit.writers import writer

LONG = "x" * (SHORT_CHARACTERS + 1)
LIMIT_S = 10.0


@dataclass
class Language:
    """One token per character; an error, or a wait, where a test asks for it."""

    error: Exception | None = None
    wait: Callable[[], object] | None = None
    entered: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    num_active: int = 0

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        self.num_active += 1
        self.entered.put(self.num_active)
        if self.wait is not None:
            self.wait()
        self.num_active -= 1
        if self.error is not None:
            raise self.error
        return [ord(c) for message in messages for c in message.content]

    def compile_format(self, output_format: OutputFormat) -> Constraint | None:
        if output_format.type is not FormatType.TEXT and self.error is not None:
            raise self.error
        return None


class Stage:
    """A preparer with its thread, and what it has emitted."""

    def __init__(self, *, max_tokens: int = 1536) -> None:
        self.language = Language()
        self.emitted: queue.SimpleQueue[Prepared] = queue.SimpleQueue()
        limits = replace(LIMITS, sessions=SessionLimits(max_tokens=max_tokens))
        language = self.language
        self.preparer = Preparer(
            language.encode_chat, language.compile_format, limits, self.emitted.put
        )
        self.preparer.start_thread()

    def prepare(self, prompt: str = LONG, key: int = 1) -> Prepared:
        assert self.preparer.submit(ask(prompt, key)) is None
        return self.emitted.get(timeout=LIMIT_S)


def ask(prompt: str, key: int = 1, **others: Any) -> Prepare:  # noqa: ANN401 - the fields of Request
    return Prepare(key, make_request(messages=(ChatMessage("user", prompt),), **others), None)


def text(prepared: Prepared) -> str:
    return "".join(map(chr, prepared.prompt_ids))


def test_requests_are_prepared_one_at_a_time_in_their_order() -> None:
    stage = Stage()
    may_go_on = threading.Semaphore(0)
    stage.language.wait = lambda: may_go_on.acquire(timeout=LIMIT_S)
    for key in (1, 2):
        assert stage.preparer.submit(ask(LONG, key)) is None
    assert stage.language.entered.get(timeout=LIMIT_S) == 1
    assert stage.preparer.is_alive
    assert stage.preparer.busy_s(time.monotonic() + 60) >= 60
    for key in (1, 2):
        may_go_on.release()
        assert stage.emitted.get(timeout=LIMIT_S).key == key
    assert stage.language.entered.get(timeout=LIMIT_S) == 1, "both were prepared at once"
    assert stage.preparer.busy_s(time.monotonic() + 60) == 0


def test_a_short_prompt_is_prepared_where_it_is_submitted() -> None:
    stage = Stage()
    prepared = stage.preparer.submit(ask("x" * SHORT_CHARACTERS, 7))
    assert prepared is not None
    assert (prepared.key, text(prepared)) == (7, "x" * SHORT_CHARACTERS)
    choice = OutputFormat(FormatType.CHOICE, choices=("a", "b"))
    for slow in (ask("x", format=choice), replace(ask("x"), turn=turn_after())):
        assert stage.preparer.submit(slow) is None
        assert stage.emitted.get(timeout=LIMIT_S).rejected is None
    assert stage.emitted.empty()


@pytest.mark.parametrize("error", [TemplateError("no system"), FormatError("too deep")])
def test_a_request_that_template_or_grammar_refuse_gets_their_words(error: Exception) -> None:
    stage = Stage()
    stage.language.error = error
    choice = OutputFormat(FormatType.CHOICE, choices=("a", "b"))
    assert stage.preparer.submit(ask("x", format=choice)) is None
    rejected = stage.emitted.get(timeout=LIMIT_S).rejected
    assert rejected is not None
    assert (rejected.code, rejected.message) == (ErrorCode.BAD_REQUEST, str(error))


def test_a_scored_choice_is_prepared_as_a_decision_and_its_wrong_option_named() -> None:
    stage = Stage()

    def installed() -> Installed:
        return Installed(scoring=OptionScoring(lambda text: [ord(c) for c in text if c != "-"]))

    stage.preparer = Preparer(
        stage.language.encode_chat,
        stage.language.compile_format,
        LIMITS,
        stage.emitted.put,
        installed,
    )
    for options, problem in ((("a", "b"), None), (("a", "-"), "format.choices[1]: ")):
        held = OutputFormat(FormatType.CHOICE, choices=options, is_scored=True)
        prepared = stage.preparer.prepare(ask("x", format=held))
        if problem is None:
            assert prepared.num_needed == 2
            assert [list(run.prompt_ids) for run in prepared.runs][1] == [ord("x")]
        else:
            assert prepared.rejected is not None
            assert prepared.rejected.code is ErrorCode.BAD_REQUEST
            assert prepared.rejected.message.startswith(problem)


def test_what_a_specialist_writes_is_prepared_on_the_thread_with_its_inputs() -> None:
    stage, home = Stage(), writer(max_tokens=30)
    asked: list[tuple[object, ...]] = []

    def prompt_writer(*given: object) -> Prompted:
        asked.append(given)
        if given[2] != {"a": 1}:
            raise WritingError("inputs.a: must be 1")
        return Prompted([7, 8], None)

    stage.preparer = Preparer(
        stage.language.encode_chat,
        stage.language.compile_format,
        LIMITS,
        stage.emitted.put,
        lambda: Installed(writers={"home": home}),
        prompt_writer,
    )
    stage.preparer.start_thread()
    request = ask("x", specialist="home", inputs={"a": 1})
    assert stage.preparer.submit(request) is None
    prepared = stage.emitted.get(timeout=LIMIT_S)
    assert prepared.runs == [Run([7, 8], answers=WriterAnswers(home, {"a": 1}, "x"), max_tokens=30)]
    assert asked == [(home, request.request.messages, {"a": 1})]
    assert stage.preparer.submit(ask("x", specialist="home", inputs={"a": 2})) is None
    rejected = stage.emitted.get(timeout=LIMIT_S).rejected
    assert rejected is not None
    assert (rejected.code, rejected.message) == (ErrorCode.BAD_REQUEST, "inputs.a: must be 1")


def test_any_other_error_refuses_this_request_alone_and_its_words_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.language.error = RuntimeError("secret words of the prompt")
    for key in (1, 2):
        prepared = stage.prepare(key=key)
        assert prepared.key == key
        assert prepared.rejected is not None
        assert prepared.rejected.code is ErrorCode.INTERNAL
        assert "secret" not in prepared.rejected.message
    stage.language.error = None
    assert stage.prepare(key=3).rejected is None
    assert caplog.text.count("RuntimeError") == 1, "one line per kind of error"
    assert "secret" not in caplog.text


def turn_after(*turns: str, question: str = "?") -> PendingTurn:
    """A question of a dialogue with these turns."""
    history = tuple(Turn(text, (ChatMessage("user", text),)) for text in turns)
    messages = (ChatMessage("user", question),)
    return PendingTurn(("s", Client(None, "reply/a")), "key", (), False, history, messages)


@pytest.mark.parametrize(
    ("turns", "question", "prompt", "num_forgotten"),
    [
        (["aaaa", "bbbb"], "?", "aaaabbbb?", 0),
        (["a" * 10, "b" * 9], "?", "a" * 10 + "b" * 9 + "?", 0),
        (["a" * 11, "b" * 8, "c"], "?", "b" * 8 + "c" + "?", 1),
        (["aaaa", "bbbb", "cccc", "dddd", "eeee"], "?", "dddd" + "eeee" + "?", 3),
        (["aaaa", "bbbb"], "?" * 30, "?" * 30, 2),
    ],
    ids=["room", "full", "over", "long", "question"],
)
def test_a_dialogue_without_room_keeps_the_newest_turns_in_half_of_it(
    turns: list[str], question: str, prompt: str, num_forgotten: int
) -> None:
    stage = Stage(max_tokens=20)
    request = replace(ask("unused"), turn=turn_after(*turns, question=question))
    assert stage.preparer.submit(request) is None
    prepared = stage.emitted.get(timeout=LIMIT_S)
    assert prepared.num_forgotten == num_forgotten
    assert text(prepared) == prompt


def test_a_message_that_is_too_long_by_itself_is_not_tried_with_each_turn() -> None:
    stage = Stage(max_tokens=20)
    request = replace(ask("unused"), turn=turn_after(*"abcdefgh" * 8, question="?" * 30))
    assert stage.preparer.prepare(request).num_forgotten == 64
    assert stage.language.entered.qsize() == 2, "with all turns, and with none"


def test_of_a_prompt_that_is_too_long_no_question_is_prepared() -> None:
    stage = Stage()
    questions = tuple(Question(f"q{n}", choices=("a", "b"), ask="x") for n in range(32))
    prepared = stage.preparer.prepare(ask("x" * LIMITS.max_model_len, questions=questions))
    assert (prepared.rejected, prepared.decider) == (None, None)
    assert len(prepared.prompt_ids) == LIMITS.max_model_len
    (run,) = prepared.runs
    assert run.num_positions >= LIMITS.max_model_len, "so the node refuses it"


def test_many_questions_about_a_long_prompt_are_refused_before_they_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else one request took the thread 0.5 s, and all others waited for it."""
    stage = Stage()
    questions = tuple(Question(f"q{n}", choices=("a", "b")) for n in range(32))
    questions += (Question("other", "washing-machine"),)
    monkeypatch.setattr("edged.daemon.preparer.MAX_ASKED_TOKENS", 32 * 200 - 1)
    rejected = stage.preparer.prepare(ask("x" * 200, questions=questions)).rejected
    assert rejected is not None
    assert rejected.message.startswith("questions: 32 with `choices` about a prompt of 200 tokens")
    assert stage.language.entered.qsize() == 1
    fewer = stage.preparer.prepare(ask("x" * 200, questions=questions[1:])).rejected
    assert fewer is not None
    assert fewer.message != rejected.message, "nothing is installed here"


def test_a_long_answer_leaves_half_of_the_context_to_the_dialogue() -> None:
    stage = Stage()
    half = LIMITS.max_model_len // 2
    for length, num_forgotten in ((half - 1, 0), (half, 1)):
        request = ask("unused", max_tokens=10 * LIMITS.max_model_len)
        turn = turn_after("a" * length)
        assert stage.preparer.submit(replace(request, turn=turn)) is None
        assert stage.emitted.get(timeout=LIMIT_S).num_forgotten == num_forgotten
