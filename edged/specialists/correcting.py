"""A correction: whether its answer is one that the specialist can give, and has given before."""

import json
from collections.abc import Sequence
from typing import Any

from edged.protocol.fields import describe
from edged.protocol.request import ChatMessage
from edged.specialists.compact.shapes import Inputs, same
from edged.specialists.decider import Said
from edged.specialists.dialogues import check_dialogue, dialogue_of, listed
from edged.specialists.examples import MAX_PROMPT_CHARACTERS, Answer, AnswerKind, read_answer
from edged.specialists.folder import HeadDescription, Scale, Specialist
from edged.specialists.wording import WordingKind
from edged.specialists.writer import Writer


def checked_answer(specialist: Specialist, prompt: str, value: object) -> Any:  # noqa: ANN401 - JSON
    """Return the right answer as it is kept: with all fields, and labels in their order.

    Raises:
        ValueError: The specialist cannot give it, or the prompt is too long for an example.
    """
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise ValueError(
            f"prompt: {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS} are kept"
        )
    answer, said = read_answer(value), specialist.description
    if said.scale is not None:
        return _number(said.name, said.scale, answer)
    if said.kind is AnswerKind.FIELDS:
        return _fields(specialist, answer)
    if said.kind is AnswerKind.LABELS:
        return _labels(said.name, said.heads[0], answer)
    # Where nothing was taught to be none of the labels, "unsure" is right for it.
    return None if answer is None else _label(said.name, said.heads[0], answer)


def agrees(specialist: Specialist, said: Said, answer: object) -> bool:
    """Tell whether what it said, or guessed where it was unsure, is the checked right answer."""
    scale, heads = specialist.description.scale, specialist.heads
    if scale is not None:
        if not isinstance(said.answer, int | float) or not isinstance(answer, float):
            return False
        return scale.is_right(said.answer, answer)
    if answer is None and None not in heads[0].description.labels:
        return said.is_unsure
    return bool(said.answer == answer)


def checked_example(
    writer: Writer, messages: Sequence[ChatMessage], inputs: Inputs, value: object
) -> dict[str, Any]:
    """Return an example of a writer with the right answer, as a line of a file has it.

    Args:
        writer: Who was asked.
        messages: What it was asked, with its earlier answers as it wrote them.
        inputs: What came with that.
        value: What it should have answered.

    Raises:
        ValueError: It cannot answer that, or the dialogue is none that it can learn.
    """
    name, wording = writer.description.name, writer.wording
    if wording.kind is WordingKind.JSON:
        raise ValueError(
            f"specialist: no correction of {name} is kept; its schema has no compact form"
        )
    if value is None:
        raise ValueError(f"answer: null is no answer of {name}")
    if not _is_text(value):
        raise ValueError("answer: has half of a character; send whole ones")
    example: dict[str, Any] = {"inputs": inputs} if inputs else {}
    if len(messages) == 1:
        example["prompt"] = messages[0].content
    else:
        example["messages"] = [
            {"role": one.role, "content": _content(writer, index, one, inputs)}
            for index, one in enumerate(messages)
        ]
    example["answer"] = listed(value) if writer.description.is_list else value
    check_dialogue(dialogue_of(0, example), wording)
    return example


def _is_text(value: object) -> bool:
    """Tell whether a value can be written as UTF-8: the JSON of a stranger may have halves."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(writer: Writer, index: int, message: ChatMessage, inputs: Inputs) -> Any:  # noqa: ANN401
    if message.role != "assistant":
        return message.content
    try:
        return writer.wording.parsed(message.content, inputs)
    except ValueError as error:
        raise ValueError(
            f"messages[{index}].content: must be the text of an answer of {writer.description.name}"
        ) from error


def agrees_written(writer: Writer, said: Said, answer: object, inputs: Inputs) -> bool:
    """Tell whether what a writer said, or guessed where it was unsure, is the right answer."""
    found = said.answer
    if said.is_unsure and isinstance(found, str):
        try:
            found = writer.wording.read(found, inputs)
        except ValueError:  # it was cut off, or names several things
            return False
    # What is taught may be less than what a node makes of it.
    return same(found, writer.wording.read(writer.wording.write(answer, inputs), inputs))


def _number(name: str, scale: Scale, answer: Answer) -> float:
    if isinstance(answer, float) and scale.low <= answer <= scale.high:
        return answer
    raise ValueError(f"answer: {name} gives a number from {scale.low:g} to {scale.high:g}")


def _fields(specialist: Specialist, answer: Answer) -> dict[str, str | None]:
    said = specialist.description
    heads = {str(head.field): head for head in said.heads}
    if isinstance(answer, dict) and answer.keys() <= heads.keys():
        return {field: _label(said.name, heads[field], answer.get(field), field) for field in heads}
    raise ValueError(f"answer: {said.name} gives an object of its fields; `info` lists them")


def _labels(name: str, head: HeadDescription, answer: Answer) -> list[str | None]:
    if answer is None or isinstance(answer, tuple):
        chosen = [_label(name, head, label) for label in answer or ()]
        return [label for label in head.labels if label in chosen]
    raise ValueError(f"answer: {name} gives a list of labels")


def _label(name: str, head: HeadDescription, label: Answer, field: str = "") -> str | None:
    if label in head.labels and isinstance(label, str | None):
        return label
    path = f"answer.{field}" if field else "answer"
    # Only a label is short enough to be quoted.
    shown = describe(label) if isinstance(label, str | None) else "this"
    raise ValueError(f"{path}: {shown} is not a label of {name}; `info` lists them")
