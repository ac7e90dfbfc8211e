"""Several questions about one prompt: one reading for all heads, one answer of all answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.protocol.request import (
    AUTO,
    Answer,
    ChatMessage,
    FinishReason,
    FormatType,
    OnDeadline,
    OutputFormat,
    Question,
    Request,
)
from edged.specialists.decider import Decider, Read, Reader, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist
from edged.specialists.gate import fitted_gate
from edged.specialists.installed import Installed, UnknownSpecialistError
from edged.specialists.lesson import taught
from edged.specialists.names import PLAIN_MODEL
from edged.specialists.questions import QuestionsDecider
from edged.specialists.scoring import OptionScorer, OptionScoring
from tests.make_request import make_request
from tests.unit.lessons import LAYOUT, drawn, lesson, number_lesson
from tests.unit.test_scoring import encode, encode_chat, read

LAMPS = Question("lamp", choices=("on", "off"), ask="Which lamp?")
MOODS = Question("mood", choices=("good", "bad"))
SYSTEM = ChatMessage("system", "Be brief.")


class Seen:
    """Read features, whatever was read."""

    num_before = 0

    def __init__(self, features: NDArray[np.float32]) -> None:
        self._features = features

    def add(self, rows: NDArray[np.float32]) -> None:
        raise AssertionError

    def features(self) -> NDArray[np.float32]:
        return self._features


@pytest.fixture(scope="module")
def specialists() -> dict[str, Specialist]:
    return {
        "six": taught(lesson(), lambda _: None),
        "scale": taught(number_lesson(), lambda _: None),
    }


@pytest.fixture
def installed(specialists: dict[str, Specialist]) -> Installed:
    return Installed(Template(encode, ()), LAYOUT.width, specialists, scoring=OptionScoring(encode))


def head(name: str, specialist: str = "six") -> Question:
    return Question(name, specialist)


def asked(*questions: Question, **others: Any) -> Request:  # noqa: ANN401 - the fields of Request
    messages = (SYSTEM, ChatMessage("user", "It is dark here."))
    return make_request(messages=messages, questions=questions, **others)


def decider(installed: Installed, request: Request) -> QuestionsDecider:
    found = installed.decider(request, encode_chat)
    assert isinstance(found, QuestionsDecider)
    return found


def reader_of(run: Run, features: NDArray[np.float32]) -> Reader:
    return read(run) if run.options else Seen(features)


def answered(one: Decider, features: NDArray[np.float32]) -> Answer:
    readers: list[Reader] = []
    while isinstance(step := one.proceed(readers, may_go_on=True), Run):
        readers.append(reader_of(step, features))
    return step


def surest(specialist: str, installed: Installed, sign: int = 1) -> NDArray[np.float32]:
    """Return the features on which a specialist is the surest, or with -1 the least."""
    rows, _ = drawn(60, seed=2)

    def confidence(row: NDArray[np.float32]) -> float:
        one = installed.decider(make_request(specialist=specialist), encode_chat)
        assert one is not None
        return float(answered(one, row).detail["confidence"])

    return max(rows, key=lambda row: sign * confidence(row))


def test_what_one_account_asked_shows_in_no_number_of_another(installed: Installed) -> None:
    """The run behind a prompt that says nothing is made once for each account."""
    question = Question("q", choices=("on", "off"))

    def num_runs(user: str | None) -> int:
        one = decider(installed, asked(question, user=user))
        answered(one, np.zeros(LAYOUT.width, np.float32))
        return len(one.runs)

    assert [num_runs(user) for user in ("ha", "ha", "other", None)] == [2, 1, 2, 2]


def text(run: Run) -> str:
    return "".join(map(chr, run.prompt_ids))


def test_heads_share_one_reading_and_say_what_they_say_alone(installed: Installed) -> None:
    features = surest("six", installed)
    names = ("six", "scale")
    one = decider(installed, asked(*(head(f"ask {name}", name) for name in names)))
    assert len(one.runs) == 1
    answer = answered(one, features)
    for name in names:
        alone = installed.decider(make_request(specialist=name), encode_chat)
        assert alone is not None
        expected = answered(alone, features)
        found = answer.detail["answers"][f"ask {name}"]
        assert found["text"] == expected.text
        assert found["confidence"] == expected.detail["confidence"]
        assert found["specialist"] == name
        assert found["finish_reason"] == expected.finish_reason.value
    six = answer.detail["answers"]["ask six"]
    assert six["probabilities"][six["choice"]] == six["confidence"]
    assert answer.json == {
        "ask six": six["text"],
        "ask scale": json.loads(answer.text)["ask scale"],
    }
    assert isinstance(answer.json["ask scale"], int)


def test_one_that_is_unsure_makes_the_whole_unsure(installed: Installed) -> None:
    one = decider(installed, asked(head("a"), MOODS))
    answer = answered(one, surest("six", installed, -1))
    assert answer.finish_reason is FinishReason.UNSURE
    assert answer.detail["answers"]["a"]["finish_reason"] == "unsure"
    assert answer.detail["answers"]["mood"]["finish_reason"] == "stop"
    assert answered(one, surest("six", installed)).finish_reason is FinishReason.UNSURE
    sure = decider(installed, asked(head("a"), MOODS))
    assert answered(sure, surest("six", installed)).finish_reason is FinishReason.STOP


def test_prompts_that_begin_alike_follow_each_other_and_the_question_comes_last(
    installed: Installed,
) -> None:
    one = decider(installed, asked(LAMPS, head("a"), MOODS, head("b")))
    reading, *scored = one.runs
    assert not reading.options
    assert [text(run) for run in scored] == [
        "[system]Be brief.[user]?\n\nWhich lamp?>",
        "[system]Be brief.[user]?>",
        "[system]Be brief.[user]It is dark here.\n\nWhich lamp?>",
        "[system]Be brief.[user]It is dark here.>",
    ]
    assert one.num_needed == 5


def test_a_scored_choice_among_them_is_the_one_that_is_asked_alone(installed: Installed) -> None:
    features = surest("six", installed)
    answer = answered(decider(installed, asked(LAMPS, head("a"), MOODS)), features)
    held = OutputFormat(FormatType.CHOICE, choices=MOODS.choices, is_scored=True)
    alone = installed.decider(replace(asked(), format=held), encode_chat)
    assert alone is not None
    expected = answered(alone, features)
    assert answer.detail["answers"]["mood"] == {
        "text": expected.text,
        "choice": expected.choice,
        **expected.detail,
        "finish_reason": "stop",
    }
    assert list(answer.json) == ["lamp", "a", "mood"]
    assert answer.json["mood"] == expected.text


def test_all_answers_are_needed_unless_the_request_takes_fewer(installed: Installed) -> None:
    questions = (LAMPS, head("a"), MOODS)
    assert decider(installed, asked(*questions)).num_needed == 5
    one = decider(installed, asked(*questions, on_deadline=OnDeadline.SHORTEN))
    assert one.num_needed == 1
    features = surest("six", installed)
    readers = [reader_of(run, features) for run in one.runs]
    few = one.proceed(readers[:1], may_go_on=False)
    assert isinstance(few, Answer)
    assert few.finish_reason is FinishReason.DEADLINE
    assert few.detail["answers"]["lamp"] == {"finish_reason": "deadline"}
    assert list(few.json) == ["a"]
    more = one.proceed(readers[:4], may_go_on=False)
    assert isinstance(more, Answer)
    assert list(more.json) == ["lamp", "a"]


def test_the_first_that_is_answered_is_needed(installed: Installed) -> None:
    one = decider(installed, asked(LAMPS, MOODS, on_deadline=OnDeadline.SHORTEN))
    assert (len(one.runs), one.num_needed) == (4, 3)
    assert text(one.runs[2]).endswith("Which lamp?>")


def test_none_of_these_is_null(installed: Installed) -> None:
    class Nothing:
        runs: Sequence[Run] = (Run([1], lambda: OptionScorer(1, [[1]])),)
        num_needed = 1

        def proceed(self, readers: Sequence[Read], *, may_go_on: bool) -> Run | Answer:
            return Answer("", FinishReason.STOP, is_choice=True, choice=2)

    questions: Mapping[str, Decider] = {"a": Nothing()}
    answer = QuestionsDecider(questions).proceed([Seen(np.zeros(1, np.float32))], may_go_on=True)
    assert isinstance(answer, Answer)
    assert (answer.json, answer.text) == ({"a": None}, '{"a": null}')


def test_what_is_not_installed_is_named_with_its_question(installed: Installed) -> None:
    with pytest.raises(UnknownSpecialistError, match=r"^questions\.a\.specialist: seven is not"):
        installed.decider(asked(MOODS, head("a", "seven")), encode_chat)


def test_a_question_may_leave_the_choice_of_a_specialist_to_the_gate(
    specialists: dict[str, Specialist],
) -> None:
    gate = fitted_gate(specialists)
    assert gate is not None
    gated = Installed(Template(encode, ()), LAYOUT.width, specialists, gate=gate)
    features = surest("six", gated)
    answer = answered(decider(gated, asked(head("a", AUTO), head("b"))), features)
    alone = gated.decider(make_request(specialist=AUTO), encode_chat)
    assert alone is not None
    expected = answered(alone, features)
    assert answer.detail["answers"]["a"]["specialists"] == expected.detail["specialists"]
    assert answer.detail["answers"]["a"]["text"] == expected.text


def test_a_written_answer_has_no_decider(installed: Installed) -> None:
    held = OutputFormat(FormatType.CHOICE, choices=("on", "off"))
    assert installed.decider(make_request(format=held), encode_chat) is None
    with pytest.raises(ValueError, match="without a model"):
        Installed().decider(make_request(format=replace(held, is_scored=True)), encode_chat)


def test_what_is_unsure_may_be_written_by_the_plain_model(
    specialists: dict[str, Specialist],
) -> None:
    said = replace(specialists["six"].description, escalate=PLAIN_MODEL)
    passing = {"six": replace(specialists["six"], description=said)}
    installed = Installed(Template(encode, ()), LAYOUT.width, passing)
    for may_escalate, num_runs in ((True, 2), (False, 1)):
        request = make_request(specialist="six", may_escalate=may_escalate)
        one = installed.decider(request, encode_chat)
        assert one is not None
        assert len(one.runs) == num_runs


def test_without_a_model_nothing_is_read_and_nothing_takes_memory(installed: Installed) -> None:
    assert Installed().size_bytes == 0
    assert installed.size_bytes == sum(one.size_bytes for one in installed.specialists.values())
    with pytest.raises(ValueError, match="without a model"):
        Installed().reading("It is dark.")
