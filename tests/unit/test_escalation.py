"""Who decides a request, and what is passed on: to another specialist, or to the plain model."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.commands import teach
from edged.errors import UsageError
from edged.protocol.request import Answer, ChatMessage, FinishReason, Request
from edged.specialists.asked import Choose, Second, SpecialistDecider, Writing
from edged.specialists.choice import ChoiceHead, Powers, Preferences
from edged.specialists.compact.shapes import Inputs
from edged.specialists.decider import Decider, Run
from edged.specialists.features import Template
from edged.specialists.folder import Specialist
from edged.specialists.gate import GateChoice, fitted_gate
from edged.specialists.installed import Installed, UnknownSpecialistError
from edged.specialists.lesson import taught
from edged.specialists.names import PLAIN_MODEL, check_names
from edged.specialists.writer import Writer
from tests.make_request import make_request
from tests.unit.lessons import LAYOUT, WIDTH, drawn, labels_lesson, lesson, number_lesson
from tests.unit.writers import writer

PLAIN = Second(PLAIN_MODEL, Writing(Run([7, 8])))
PROMPT: NDArray[np.float32] = drawn(1, seed=9)[0][0]
CHAT = (ChatMessage("system", "Be brief."), ChatMessage("user", "a"), ChatMessage("assistant", "b"))


class Read:
    """What was read of a prompt."""

    num_before = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take nothing: all is read."""

    def features(self) -> NDArray[np.float32]:
        return PROMPT


READING = Run([1, 2], Read)


@pytest.fixture(scope="module")
def made() -> Specialist:
    return taught(lesson(), lambda _: None)


def named(
    made: Specialist, name: str, *, is_unsure: bool = False, escalate: str | None = None
) -> Specialist:
    """Return a specialist that is always sure, or never."""
    least = 2.0 if is_unsure else 0.0
    description = replace(
        made.description,
        name=name,
        unsure_below=least,
        unfamiliar_below=-1.0,
        escalate=escalate,
    )
    return replace(made, description=description)


def by_name(*specialists: Specialist) -> dict[str, Specialist]:
    return {one.description.name: one for one in specialists}


def decided(
    specialists: Sequence[Specialist],
    choose: Choose,
    second: Second | None = None,
    *,
    may_go_on: bool = True,
) -> Run | Answer:
    decider = SpecialistDecider(READING, by_name(*specialists), choose, second)
    assert decider.proceed([], may_go_on=may_go_on) == READING
    return decider.proceed([Read()], may_go_on=may_go_on)


def answered(*arguments: object, **others: object) -> Answer:
    outcome = decided(*arguments, **others)  # type: ignore[arg-type]
    assert isinstance(outcome, Answer)
    return outcome


def test_a_sure_specialist_answers_and_asks_nobody(made: Specialist) -> None:
    lamp = named(made, "lamp", escalate="model")
    answer = answered([lamp], "lamp", PLAIN)
    assert (answer.text, answer.choice) == ("label 0", 0)
    assert answer.finish_reason is FinishReason.STOP
    assert answer.detail["specialist"] == "lamp"
    assert answer.detail["confidence"] == pytest.approx(max(answer.detail["probabilities"]))
    assert "escalated_from" not in answer.detail
    assert "guesses" not in answer.detail


def test_another_specialist_answers_what_the_first_is_unsure_of(made: Specialist) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="door")
    answer = answered([lamp, named(made, "door")], "lamp")
    assert answer.finish_reason is FinishReason.STOP
    assert answer.detail["specialist"] == "door"
    assert answer.detail["escalated_from"] == "lamp"


def test_a_request_that_forbids_it_is_passed_on_to_nobody(made: Specialist) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="door")
    node = installed(lamp, named(made, "door"))
    for may_escalate, name in ((True, "door"), (False, "lamp")):
        answer = decider(node, asked("lamp", may_escalate=may_escalate)).proceed(
            [Read()], may_go_on=True
        )
        assert isinstance(answer, Answer)
        assert answer.detail["specialist"] == name


def test_it_goes_one_hop_and_no_further(made: Specialist) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="door")
    door = named(made, "door", is_unsure=True, escalate="oven")
    answer = answered([lamp, door, named(made, "oven")], "lamp", PLAIN)
    assert answer.finish_reason is FinishReason.UNSURE
    assert answer.detail["specialist"] == "lamp"
    assert answer.detail["guesses"][0]["text"] == "label 0"


def test_what_is_passed_on_to_nobody_stays_unsure(made: Specialist) -> None:
    answer = answered([named(made, "lamp", is_unsure=True, escalate="door")], "lamp", PLAIN)
    assert (answer.finish_reason, answer.detail["specialist"]) == (FinishReason.UNSURE, "lamp")
    answer = answered([named(made, "lamp", is_unsure=True)], "lamp", PLAIN)
    assert (answer.finish_reason, answer.detail["specialist"]) == (FinishReason.UNSURE, "lamp")


def test_the_plain_model_writes_what_a_specialist_is_unsure_of(made: Specialist) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="model")
    assert decided([lamp], "lamp", PLAIN) == PLAIN.writing.run
    assert answered([lamp], "lamp").finish_reason is FinishReason.UNSURE
    # Admitted for the first run alone.
    late = answered([lamp], "lamp", PLAIN, may_go_on=False)
    assert late.finish_reason is FinishReason.UNSURE
    one = SpecialistDecider(READING, by_name(lamp), "lamp", PLAIN)
    for reason in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.CANCELLED):
        found = one.proceed([Read(), Answer("yes", reason)], may_go_on=False)
        assert found == Answer("yes", reason, detail=passed_on("lamp", None))


def passed_on(first: str, second: str | None) -> dict[str, object]:
    return {"specialist": second, "escalated_from": first}


def test_the_one_that_the_gate_chooses_decides_or_passes_on(made: Specialist) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="model")
    door = named(made, "door")
    shares = {"lamp": 0.25, "door": 0.75}

    def choose(name: str | None) -> Choose:
        return lambda _: GateChoice(name, shares)

    answer = answered([lamp, door], choose("door"), PLAIN)
    assert answer.detail["specialist"] == "door"
    assert answer.detail["specialists"] == shares
    assert decided([lamp, door], choose("lamp"), PLAIN) == PLAIN.writing.run
    nothing = answered([lamp, door], choose(None), PLAIN)
    assert (nothing.text, nothing.finish_reason) == ("", FinishReason.UNSURE)
    assert nothing.detail == {"specialist": None, "specialists": shares}


def test_other_kinds_of_answers_are_told_with_what_they_have(made: Specialist) -> None:
    number = named(taught(number_lesson(), lambda _: None), "number")
    answer = answered([number], "number")
    low, high = answer.detail["interval"]
    assert low <= float(answer.text) <= high
    assert not answer.is_choice
    labels = named(taught(labels_lesson(), lambda _: None), "labels")
    answer = answered([labels], "labels")
    assert answer.json == ["half", "third"]
    assert len(answer.detail["probabilities"]) == 2


def installed(*specialists: Specialist) -> Installed:
    template = Template(lambda text: [ord(character) for character in text], [0])
    found = by_name(*specialists)
    return Installed(template, LAYOUT.width, found, gate=fitted_gate(found))


def encode(messages: Sequence[ChatMessage]) -> list[int]:
    return [len(message.content) for message in messages]


def decider(node: Installed, request: Request) -> Decider:
    found = node.decider(request, encode)
    assert found is not None
    return found


def asked(name: str | None, *, may_escalate: bool = True) -> Request:
    request = make_request(deadline_s=1.0)
    return replace(request, messages=CHAT, specialist=name, may_escalate=may_escalate)


@pytest.mark.parametrize("escalate", [None, "model", "door"])
def test_names_that_a_request_can_use(escalate: str | None) -> None:
    check_names("lamp-2", escalate)


@pytest.mark.parametrize(
    ("name", "escalate", "complaint"),
    [
        ("Lamp", None, "name 'Lamp' must be 1 to 64 characters of a-z 0-9 -"),
        ("-lamp", None, "must be 1 to 64 characters of a-z 0-9 -, not starting with -"),
        ("", None, "name '' must be"),
        ("auto", None, "name 'auto' is taken"),
        ("model", None, "name 'model' is taken"),
        ("lamp", "lamp", "escalate 'lamp' must be another specialist, or model"),
        ("lamp", "auto", "escalate 'auto' must be"),
        ("lamp", "../door", "escalate '../door' must be"),
    ],
)
def test_names_that_no_request_can_use(name: str, escalate: str | None, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check_names(name, escalate)


def test_teach_refuses_names_before_it_reads_anything() -> None:
    parser = argparse.ArgumentParser()
    teach.add_arguments(parser)
    options = ["missing.jsonl", "--model", "missing", "--output", "lamp", "--escalate"]
    with pytest.raises(UsageError, match="--escalate 'lamp' must be another specialist, or model"):
        teach.main(parser.parse_args([*options, "lamp"]))
    with pytest.raises(UsageError, match="--name 'auto' is taken"):
        teach.main(parser.parse_args([*options, "model", "--name", "auto"]))


def test_without_a_specialist_an_answer_is_written(made: Specialist) -> None:
    assert installed(named(made, "lamp")).decider(asked(None), encode) is None


def test_the_prompt_of_a_specialist_is_what_was_said_in_the_template(made: Specialist) -> None:
    node = installed(named(made, "lamp"))
    (run,) = decider(node, asked("lamp")).runs
    said = "".join(map(chr, run.prompt_ids[1:]))
    assert 'This sentence: "a\nb" is about: "' in said
    assert "brief" not in said
    assert run.new_reader is not None
    assert run.new_reader().features().shape == (WIDTH,)


@pytest.mark.parametrize("name", ["lamp", "auto"])
def test_the_plain_model_is_prepared_only_where_it_may_be_needed(
    made: Specialist, name: str
) -> None:
    door = named(made, "door", escalate="lamp")
    writing = installed(named(made, "lamp", escalate="model"), door)
    assert decider(writing, asked(name)).runs[1:] == [Run([9, 1, 1])]
    assert len(decider(writing, asked(name, may_escalate=False)).runs) == 1
    assert len(decider(installed(named(made, "lamp"), door), asked(name)).runs) == 1
    assert len(decider(writing, asked("door")).runs) == 1
    assert decider(writing, asked(name)).num_needed == 1


def test_auto_asks_the_gate(made: Specialist) -> None:
    """Two specialists with the same examples: each is as probable."""
    node = installed(named(made, "lamp"), named(made, "door"))
    answer = decider(node, asked("auto")).proceed([Read()], may_go_on=True)
    assert isinstance(answer, Answer)
    shares = answer.detail["specialists"]
    assert shares["lamp"] == pytest.approx(shares["door"], abs=1e-3)
    gate = node.gate
    assert gate is not None
    assert node.size_bytes == sum(one.size_bytes for one in node.specialists.values()) + (
        gate.size_bytes
    )


def test_who_is_not_installed_is_named_with_those_who_are(made: Specialist) -> None:
    node = installed(named(made, "lamp"), named(made, "door"))
    with pytest.raises(UnknownSpecialistError, match="oven is not installed on this node"):
        node.decider(asked("oven"), encode)
    with pytest.raises(UnknownSpecialistError, match="nothing is installed on this node"):
        installed().decider(asked("lamp"), encode)
    with pytest.raises(UnknownSpecialistError, match="nothing is installed on this node"):
        installed().decider(asked("auto"), encode)
    blind = Installed(specialists=by_name(named(made, "lamp")))
    with pytest.raises(ValueError, match="no template"):
        blind.decider(asked("lamp"), encode)


def prompted(writer: Writer, messages: object, inputs: Inputs) -> tuple[list[int], None]:
    """Prepare a prompt; the writer ``needy`` needs inputs."""
    if writer.description.name == "needy" and not inputs:
        raise ValueError("inputs.rooms: must be a list")
    return [len(writer.description.name)], None


def with_writers(*writers: Writer, heads: Sequence[Specialist] = ()) -> Installed:
    template = Template(lambda text: [ord(character) for character in text], [0])
    found, by_names = by_name(*heads), {one.description.name: one for one in writers}
    return Installed(template, LAYOUT.width, found, gate=fitted_gate(found), writers=by_names)


def writing(node: Installed, request: Request) -> Decider:
    found = node.decider(request, encode, prompted)
    assert found is not None
    return found


# What a writer of texts gives, sure or not, or cut off.
WRITTEN = Answer("go", FinishReason.STOP, detail={"specialist": "talk", "confidence": 0.9})
NOT_SURE = replace(WRITTEN, finish_reason=FinishReason.UNSURE)
CUT = Answer("g", FinishReason.LENGTH, detail={"specialist": "talk"})


@pytest.mark.parametrize("written", [WRITTEN, NOT_SURE, CUT])
def test_what_a_writer_passes_on_to_nobody_is_its_answer(written: Answer) -> None:
    one = writing(with_writers(writer(name="talk")), asked("talk"))
    (run,) = one.runs
    assert (run.prompt_ids, run.max_tokens) == ([4], 128)
    assert one.proceed([], may_go_on=True) == run
    assert one.proceed([written], may_go_on=True) == written


@pytest.mark.parametrize(("given", "most"), [(None, 30), (7, 7), (900, 900)])
def test_an_answer_is_as_long_as_the_examples_unless_the_request_says(
    given: int | None, most: int
) -> None:
    request = replace(asked("talk"), max_tokens=given or 128, is_length_given=given is not None)
    (run,) = writing(with_writers(writer(name="talk", max_tokens=30)), request).runs
    assert run.max_tokens == most


def test_what_a_writer_is_unsure_of_the_plain_model_answers() -> None:
    node = with_writers(writer(name="talk", escalate="model"))
    one = writing(node, asked("talk"))
    assert one.runs[1:] == [Run([9, 1, 1])]
    assert one.proceed([WRITTEN], may_go_on=True) == WRITTEN
    assert one.proceed([CUT], may_go_on=True) == CUT
    assert one.proceed([NOT_SURE], may_go_on=False) == NOT_SURE
    assert one.proceed([NOT_SURE], may_go_on=True) == one.runs[1]
    found = one.proceed([NOT_SURE, Answer("yes", FinishReason.LENGTH)], may_go_on=True)
    assert found == Answer("yes", FinishReason.LENGTH, detail=passed_on("talk", None))
    assert len(writing(node, asked("talk", may_escalate=False)).runs) == 1


@pytest.mark.parametrize("is_unsure", [False, True])
def test_what_a_writer_is_unsure_of_another_specialist_decides(
    made: Specialist, *, is_unsure: bool
) -> None:
    lamp = named(made, "lamp", is_unsure=is_unsure)
    one = writing(with_writers(writer(name="talk", escalate="lamp"), heads=[lamp]), asked("talk"))
    assert one.runs[1].new_reader is not None
    found = one.proceed([NOT_SURE, Read()], may_go_on=True)
    assert isinstance(found, Answer)
    if is_unsure:
        assert found == NOT_SURE
    else:
        assert (found.text, found.finish_reason) == ("label 0", FinishReason.STOP)
        assert passed_on("talk", "lamp").items() <= found.detail.items()


def other(reason: FinishReason) -> Answer:
    return Answer("come", reason, detail={"specialist": "chat", "confidence": 0.5})


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.CANCELLED])
def test_what_a_writer_or_a_head_is_unsure_of_another_writer_answers(
    made: Specialist, reason: FinishReason
) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="chat")
    writers = (writer(name="talk", escalate="chat"), writer(name="chat"))
    node = with_writers(*writers, heads=[lamp])
    assert [node.writes(name) for name in ("talk", "lamp", "none")] == [True, True, False]
    for name, own in (("talk", NOT_SURE), ("lamp", Read())):
        one = writing(node, asked(name))
        assert one.proceed([own], may_go_on=True) == one.runs[1]
        found = one.proceed([own, other(reason)], may_go_on=True)
        assert found == replace(
            other(reason), detail=other(reason).detail | passed_on(name, "chat")
        )
        for unsure in (other(FinishReason.UNSURE), other(FinishReason.LENGTH)):
            found = one.proceed([own, unsure], may_go_on=True)
            assert isinstance(found, Answer)
            assert (found.finish_reason, found.detail["specialist"]) == (FinishReason.UNSURE, name)


class Preferring:
    """A constraint that notes what is preferred."""

    def __init__(self) -> None:
        self.preferred: list[Preferences] = []

    def prefer(self, preferences: Preferences) -> None:
        self.preferred.append(preferences)


def test_what_was_said_last_is_read_before_a_writer_with_a_head_writes(made: Specialist) -> None:
    constraint, head = Preferring(), ChoiceHead.of(made, Powers(2.0, 1.0))
    talk = replace(writer(name="talk", escalate="chat"), choice=head)
    chat = replace(writer(name="chat"), choice=head)
    node = with_writers(talk, chat, heads=[named(made, "lamp", is_unsure=True, escalate="chat")])
    said = (*CHAT, ChatMessage("user", "no"))
    request = replace(asked("talk"), messages=said)
    one = node.decider(request, encode, lambda *_: ([4], constraint))
    assert one is not None
    reading, run, *others = one.runs
    assert (one.num_needed, len(others)) == (2, 2)
    assert reading.prompt_ids == node.reading("no").prompt_ids
    assert one.proceed([], may_go_on=True) is reading
    assert constraint.preferred == []
    assert one.proceed([Read()], may_go_on=False) is run
    assert constraint.preferred == [head.preferences(PROMPT)]
    assert one.proceed([Read(), WRITTEN], may_go_on=True) == WRITTEN
    assert one.proceed([Read(), NOT_SURE], may_go_on=False) == NOT_SURE
    # The other writer reads and writes as well.
    assert one.proceed([Read(), NOT_SURE], may_go_on=True) is others[0]
    assert one.proceed([Read(), NOT_SURE, Read()], may_go_on=True) is others[1]
    assert len(constraint.preferred) == 2
    found = one.proceed([Read(), NOT_SURE, Read(), other(FinishReason.STOP)], may_go_on=True)
    assert isinstance(found, Answer)
    assert found.text == "come"
    # So it does for a head, and where there is no time for that the head's answer stands.
    decided = node.decider(asked("lamp"), encode, lambda *_: ([4], constraint))
    assert decided is not None
    assert decided.proceed([Read()], may_go_on=True) is decided.runs[1]
    assert decided.proceed([Read(), Read()], may_go_on=True) is decided.runs[2]
    unsure = decided.proceed([Read(), Read()], may_go_on=False)
    assert isinstance(unsure, Answer)
    assert unsure.finish_reason is FinishReason.UNSURE


def test_an_answer_without_a_grammar_has_no_choices(made: Specialist) -> None:
    talk = replace(writer(name="talk"), choice=ChoiceHead.of(made, Powers(2.0, 1.0)))
    assert len(writing(with_writers(talk), asked("talk")).runs) == 1


def test_who_needs_other_inputs_is_passed_nothing_and_a_head_takes_those_of_its_writer(
    made: Specialist,
) -> None:
    heads = [named(made, "lamp", escalate="needy"), named(made, "door")]
    node = with_writers(writer(name="talk", escalate="needy"), writer(name="needy"), heads=heads)
    inputs: dict[str, list[str]] = {"rooms": []}
    for name in ("talk", "lamp"):
        assert len(writing(node, asked(name)).runs) == 1
        assert len(writing(node, replace(asked(name), inputs=inputs)).runs) == 2
    with pytest.raises(UnknownSpecialistError, match=r"^inputs: door writes no answers"):
        writing(node, replace(asked("door"), inputs=inputs))
    with pytest.raises(ValueError, match=r"inputs\.rooms"):
        writing(node, asked("needy"))
    with pytest.raises(ValueError, match="without a model"):
        node.decider(asked("talk"), encode)


def test_auto_chooses_among_those_that_decide_and_passes_on_to_no_writer(made: Specialist) -> None:
    lamp = named(made, "lamp", is_unsure=True, escalate="talk")
    one = writing(with_writers(writer(name="talk"), heads=[lamp]), asked("auto"))
    assert len(one.runs) == 1
    answer = one.proceed([Read()], may_go_on=True)
    assert isinstance(answer, Answer)
    assert answer.detail["specialists"].keys() == {"lamp"}
    says = "^specialist: auto chooses among specialists that decide, and all .* name one of talk$"
    with pytest.raises(UnknownSpecialistError, match=says):
        writing(with_writers(writer(name="talk")), asked("auto"))
