"""Examples as a writer is asked them, and what it wrote."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from edged.protocol.request import ChatMessage
from edged.specialists.compact.shapes import AnswerError, same
from edged.specialists.dialogues import Dialogue
from edged.specialists.wording import Wording
from edged.specialists.writer import heard, messages_of


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt of an example, and what was to be answered."""

    messages: tuple[ChatMessage, ...]
    """Up to where the answer begins, with the right answers before it."""
    text: str
    """The answer as it is written."""
    dialogue: Dialogue


class WrittenText(NamedTuple):
    """What was decoded."""

    text: str
    log_probability: float
    """Of all of it, among what the grammar allows."""
    is_ended: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What was answered to a prompt."""

    asked: Asked
    text: str
    log_probability: float
    is_valid: bool
    is_right: bool


def asked_of(dialogue: Dialogue, wording: Wording) -> list[Asked]:
    """Return the prompt of each answer of an example.

    Raises:
        ValueError: An answer is none of the wording.
    """
    said = [turn.said for turn in dialogue.turns]
    texts = [wording.write(turn.answer, dialogue.inputs) for turn in dialogue.turns]
    return [
        Asked(messages_of(said[: index + 1], texts[:index]), text, dialogue)
        for index, text in enumerate(texts)
    ]


def judged(asked: Asked, wording: Wording, found: WrittenText) -> Written:
    """Return whether a text is the right answer, however it is written."""
    inputs, said = asked.dialogue.inputs, heard(asked.messages)
    is_right = False
    is_valid = found.is_ended
    try:
        value = wording.read(found.text, inputs, said)
    except AnswerError:
        is_valid = False
    else:
        is_right = found.is_ended and same(value, wording.read(asked.text, inputs, said))
    return Written(asked, found.text, found.log_probability, is_valid, is_right)


def num_right(written: Sequence[Written]) -> int:
    """Return how many are right."""
    return sum(one.is_right for one in written)
