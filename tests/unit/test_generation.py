"""One answer while it is generated: how it ends, and what its format makes of it."""

from dataclasses import dataclass

import pytest

from edged.engine.decoding import Constraint
from edged.engine.steps import Token
from edged.node.generation import Generation
from edged.protocol.request import Answer, FinishReason, FormatType, OutputFormat
from tests.fakes import CharacterStream
from tests.make_request import make_request

CHOICES = OutputFormat(FormatType.CHOICE, choices=("on", "off", " dim"))
STOP = Token(0, is_stop=True)


@dataclass
class Automaton:
    """A format of which a test says when the answer is whole."""

    is_complete: bool = False
    forced = ()
    is_ending = False

    def allowed(self, logits: object) -> None: ...

    def advance(self, token_id: int) -> None: ...


def generation(
    output_format: OutputFormat | None = None, constraint: Constraint | None = None
) -> Generation:
    request = make_request(format=output_format or OutputFormat(), deadline_s=100.0)
    run = Generation(1, [1, 2], request, 16, constraint)
    run.start(CharacterStream(), 0.0)
    return run


def say(run: Generation, text: str) -> None:
    for character in text:
        run.record(Token(ord(character), is_stop=False))


def answer(run: Generation) -> Answer:
    outcome = run.end()
    assert isinstance(outcome, Answer)
    return outcome


def test_tokens_after_the_end_in_the_same_pass_are_no_part_of_the_answer() -> None:
    run = generation()
    say(run, "yes")
    run.record(STOP)
    say(run, "drafted")
    run.end_step(1.0)
    assert answer(run) == Answer("yes", FinishReason.STOP)
    assert run.num_output_tokens == 4


def test_an_answer_ends_with_the_pass_that_completes_its_format() -> None:
    automaton = Automaton()
    run = generation(CHOICES, automaton)
    say(run, "on")
    run.end_step(1.0)
    assert run.finish_reason is None
    automaton.is_complete = True
    assert not run.is_pausable
    run.end_step(2.0)
    assert answer(run) == Answer("on", FinishReason.STOP, is_choice=True, choice=0)


@pytest.mark.parametrize(("text", "index"), [("off", 1), (" dim", 2), ("dim", 2)])
def test_a_choice_is_its_option_whether_or_not_the_tokenizer_dropped_a_space(
    text: str, index: int
) -> None:
    run = generation(CHOICES, Automaton(is_complete=True))
    say(run, text)
    run.end_step(1.0)
    assert answer(run) == Answer(text, FinishReason.STOP, is_choice=True, choice=index)


@pytest.mark.parametrize("is_complete", [False, True])
def test_text_that_is_no_option_is_no_choice(*, is_complete: bool) -> None:
    run = generation(CHOICES, Automaton(is_complete=is_complete))
    say(run, "o")
    run.record(STOP)
    assert answer(run) == Answer("", FinishReason.STOP, is_choice=True, choice=None)


def test_what_goes_on_after_a_pause_keeps_its_stream_and_its_start() -> None:
    run = generation()
    say(run, "a")
    stream, run.was_paused = run.text_stream, True
    run.start(CharacterStream(), 50.0)
    assert (run.text_stream, run.started_s) == (stream, 0.0)
    run.end_step(51.0)
    assert run.finish_reason is None, "the time of the pause was no step"
