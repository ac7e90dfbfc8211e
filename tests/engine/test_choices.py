"""A choice that was cut is no choice: whatever cuts it, it is not the shorter option it looks like.

The grammar and the tokenizer are the real ones. What the model says is scripted where a certain
option must be cut, and the tiny model's own where any may be.
"""

import queue
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.bundle.folder import open_bundle
from edged.commands.received import ReceivedReply, decode_reply
from edged.daemon.worker import Worker
from edged.engine.decoding import Constraint
from edged.engine.grammar import compile_format
from edged.engine.loading import load_engine
from edged.engine.loop import Engine
from edged.engine.steps import EngineSettings, Prefilled, Token
from edged.engine.tokenizer import Tokenizer
from edged.node.generation import Finished, Generation, TextStream
from edged.protocol.encode import encode_reply
from edged.protocol.request import (
    Answer,
    FinishReason,
    FormatType,
    OutputFormat,
    Reply,
    ReplyAddress,
    Request,
    SamplingParams,
)
from tests.fakes import FakeClock, FakeEngine
from tests.tiny_model import MAX_MODEL_LEN, STOP_TOKEN_ID, write_tiny_bundle

SHORT, LONG = OPTIONS = ("open", "open only if nobody is home")
LIMIT_S = 60.0
ENOUGH = 64
STOP = Token(STOP_TOKEN_ID, is_stop=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.load(open_bundle(folder))


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load_engine(open_bundle(folder), EngineSettings(MAX_MODEL_LEN, num_threads=1))


def request(*choices: str, stop: tuple[str, ...] = (), deadline_s: float = 5000.0) -> Request:
    held = OutputFormat(FormatType.CHOICE, choices=choices)
    return Request(ReplyAddress("t"), (), 0.0, deadline_s, format=held, stop=stop)


class HeldEngine(FakeEngine):
    """Says what is scripted, a token each second, while the format and the limit allow it."""

    clock: FakeClock
    cancel_after: int = ENOUGH
    worker: Worker

    def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: SamplingParams,
        *,
        max_tokens: int,
        constraint: Constraint | None = None,
    ) -> Generator[Prefilled | Token, None, None]:
        assert constraint is not None
        yield Prefilled(1, 0)
        for number, step in enumerate(self.steps[:max_tokens], 1):
            assert isinstance(step, Token)
            constraint.advance(step.token_id)
            self.clock.advance(1.0)
            if number == self.cancel_after:
                self.worker.cancel(1)
            yield step
            if constraint.is_complete:
                return


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    asked: Request,
    max_tokens: int = ENOUGH,
    clock: FakeClock | None = None,
    stream: Callable[[], TextStream] | None = None,
) -> Answer:
    events: queue.SimpleQueue[object] = queue.SimpleQueue()
    worker = Worker(engine, stream or tokenizer.detokenizer, events.put, clock or FakeClock(0.0))
    if isinstance(engine, HeldEngine):
        engine.worker = worker
    worker.start_thread()
    worker.start(Generation(1, [5, 6], asked, max_tokens, compile_format(tokenizer, asked.format)))
    while not isinstance(event := events.get(timeout=LIMIT_S), Finished):
        pass
    assert worker.stop(LIMIT_S)
    assert isinstance(event.outcome, Answer)
    return event.outcome


def scripted(
    tokenizer: Tokenizer, *, ends: bool = False, cancel_after: int = ENOUGH
) -> tuple[HeldEngine, FakeClock]:
    """Return a model that says the long option, or the short one and then that this was all."""
    words = tokenizer.encode(SHORT if ends else LONG)
    steps = [Token(token_id, is_stop=False) for token_id in words]
    engine = HeldEngine([*steps, STOP] if ends else steps)
    engine.clock, engine.cancel_after = FakeClock(0.0), cancel_after
    return engine, engine.clock


def sent(outcome: Answer) -> ReceivedReply:
    reply = decode_reply(
        encode_reply(Reply(ReplyAddress("t"), outcome), node="n", model_id="m").payload
    )
    assert reply is not None
    return reply


def is_none(outcome: Answer, reason: FinishReason) -> bool:
    data = sent(outcome).members["data"]
    return bool(data == {"text": "", "json": None, "choice": None, "finish_reason": str(reason)})


@pytest.mark.parametrize("what", ["max_tokens", "deadline", "cancel"])
def test_a_choice_that_is_cut_anywhere_is_none_and_has_no_text(
    tokenizer: Tokenizer, what: str
) -> None:
    num_tokens = len(tokenizer.encode(LONG))
    prefixes = []
    for cut in range(1, num_tokens):
        engine, clock = scripted(tokenizer, cancel_after=cut if what == "cancel" else ENOUGH)
        prefixes.append("".join(map(tokenizer.detokenizer().push, tokenizer.encode(LONG)[:cut])))
        # A token takes a second, so after so many there is no time for another.
        deadline_s = cut + 1.0 if what == "deadline" else 5000.0
        max_tokens = cut if what == "max_tokens" else ENOUGH
        asked = request(*OPTIONS, deadline_s=deadline_s)
        outcome = answer(engine, tokenizer, asked, max_tokens, clock)
        reasons = {
            "max_tokens": FinishReason.LENGTH,
            "deadline": FinishReason.DEADLINE,
            "cancel": FinishReason.CANCELLED,
        }
        assert is_none(outcome, reasons[what]), cut
    assert SHORT in prefixes


@pytest.mark.parametrize("stop", [" only", "o", "home", "n", "only if nobody is home", LONG])
def test_a_stop_string_cuts_a_choice_like_anything_else(tokenizer: Tokenizer, stop: str) -> None:
    engine, clock = scripted(tokenizer)
    outcome = answer(engine, tokenizer, request(*OPTIONS, stop=(stop,)), clock=clock)
    assert is_none(outcome, FinishReason.STOP)


def test_what_the_model_ends_itself_is_chosen_though_another_option_begins_so(
    tokenizer: Tokenizer,
) -> None:
    engine, clock = scripted(tokenizer, ends=True)
    outcome = answer(engine, tokenizer, request(*OPTIONS, stop=(" only",)), clock=clock)
    assert outcome == Answer(SHORT, FinishReason.STOP, is_choice=True, choice=0)


def test_a_choice_that_max_tokens_leaves_no_room_to_end_is_cut(tokenizer: Tokenizer) -> None:
    engine, clock = scripted(tokenizer, ends=True)
    max_tokens = len(tokenizer.encode(SHORT))
    outcome = answer(engine, tokenizer, request(*OPTIONS), max_tokens, clock)
    assert is_none(outcome, FinishReason.LENGTH)


def test_a_choice_is_whole_with_the_last_token_there_is_room_for(tokenizer: Tokenizer) -> None:
    engine, clock = scripted(tokenizer)
    max_tokens = len(tokenizer.encode(LONG))
    outcome = answer(engine, tokenizer, request(*OPTIONS), max_tokens, clock)
    assert outcome == Answer(LONG, FinishReason.STOP, is_choice=True, choice=1)


def test_a_choice_is_whole_with_the_last_token_there_is_time_for(tokenizer: Tokenizer) -> None:
    engine, clock = scripted(tokenizer)
    deadline_s = len(tokenizer.encode(LONG)) + 0.5
    outcome = answer(engine, tokenizer, request(*OPTIONS, deadline_s=deadline_s), clock=clock)
    assert outcome == Answer(LONG, FinishReason.STOP, is_choice=True, choice=1)


def test_a_first_space_that_a_tokenizer_drops_does_not_hide_the_option(
    tokenizer: Tokenizer,
) -> None:
    whole = tokenizer.detokenizer()

    class Trimmed:
        def push(self, token_id: int) -> str:
            return whole.push(token_id).removeprefix(" ")

        def flush(self) -> str:
            return whole.flush()

    engine, clock = scripted(tokenizer)
    engine.steps = [Token(i, is_stop=False) for i in tokenizer.encode(" shut")]
    asked = request("open", " shut")
    outcome = answer(engine, tokenizer, asked, clock=clock, stream=Trimmed)
    assert outcome == Answer("shut", FinishReason.STOP, is_choice=True, choice=1)


def test_a_number_that_a_stop_string_cuts_is_no_json(tokenizer: Tokenizer) -> None:
    engine, clock = scripted(tokenizer)
    engine.steps = [Token(i, is_stop=False) for i in tokenizer.encode("123")]
    held = OutputFormat(FormatType.JSON_SCHEMA, schema={"enum": [1, 12, 123]})
    outcome = answer(engine, tokenizer, replace(request(stop=("3",)), format=held), clock=clock)
    assert outcome == Answer("12", FinishReason.STOP)


@settings(max_examples=40, deadline=None)
@given(
    choices=st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=5, unique=True),
    seed=st.integers(0, 99),
    stop=st.lists(st.text("ab", min_size=1, max_size=2), max_size=1),
    max_tokens=st.integers(1, 7),
)
def test_a_cut_answer_of_a_random_model_is_the_whole_one_or_none(
    engine: Engine,
    tokenizer: Tokenizer,
    choices: list[str],
    seed: int,
    stop: list[str],
    max_tokens: int,
) -> None:
    params = SamplingParams(temperature=2, seed=seed)
    asked = replace(request(*choices), sampling=params)
    whole = answer(engine, tokenizer, asked)
    assert whole.choice is not None
    assert whole.text == choices[whole.choice]
    cut = answer(engine, tokenizer, replace(asked, stop=tuple(stop)), max_tokens)
    has_stop = any(words in whole.text for words in stop)
    assert cut.is_choice
    assert (cut.choice, cut.text) in {(whole.choice, whole.text), (None, "")}
    assert cut.choice is None or not has_stop
    assert cut.choice is None or cut.finish_reason is FinishReason.STOP
