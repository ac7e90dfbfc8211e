"""A correction: whether its answer is one that the specialist can give, and has given before."""

from typing import Any

from edged.protocol.fields import describe
from edged.specialists.decider import Said
from edged.specialists.examples import MAX_PROMPT_CHARACTERS, AnswerKind, read_answer
from edged.specialists.folder import HeadDescription, Specialist

# Of the difference of two decimal numbers.
_ROUNDING = 1e-9


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
    if said.kind is AnswerKind.FIELDS:
        return _fields(specialist, answer)
    if said.scale is not None:
        low, high = said.scale.low, said.scale.high
        if not isinstance(answer, float) or not low <= answer <= high:
            raise ValueError(f"answer: {said.name} gives a number from {low:g} to {high:g}")
        return answer
    head = said.heads[0]
    if said.kind is AnswerKind.LABELS:
        if answer is not None and not isinstance(answer, tuple):
            raise ValueError(f"answer: {said.name} gives a list of labels")
        chosen = [_label(said.name, head, label) for label in answer or ()]
        return [label for label in head.labels if label in chosen]
    # Where nothing was taught to be none of the labels, "unsure" is right for it.
    return None if answer is None else _label(said.name, head, answer)


def agrees(specialist: Specialist, said: Said, answer: object) -> bool:
    """Tell whether what it said, or guessed where it was unsure, is the checked right answer."""
    scale, heads = specialist.description.scale, specialist.heads
    if scale is not None:
        is_number = isinstance(said.answer, int | float) and isinstance(answer, float)
        return is_number and abs(said.answer - answer) <= scale.tolerance + _ROUNDING
    if answer is None and None not in heads[0].description.labels:
        return said.is_unsure
    return bool(said.answer == answer)


def _fields(specialist: Specialist, answer: object) -> dict[str, str | None]:
    said = specialist.description
    heads = {str(head.field): head for head in said.heads}
    if not isinstance(answer, dict) or not answer.keys() <= heads.keys():
        raise ValueError(f"answer: {said.name} gives an object of its fields; `info` lists them")
    return {name: _label(said.name, head, answer.get(name), name) for name, head in heads.items()}


def _label(name: str, head: HeadDescription, label: object, field: str = "") -> str | None:
    if not isinstance(label, str | None) or label not in head.labels:
        path = f"answer.{field}" if field else "answer"
        raise ValueError(f"{path}: {describe(label)} is not a label of {name}; `info` lists them")
    return label
