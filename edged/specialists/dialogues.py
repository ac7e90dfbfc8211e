"""Examples whose answers are written: prompts or whole dialogues, each answer a text or JSON.

Rule: every complaint names the file and the line.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edged.errors import UsageError
from edged.protocol.inputs import check_inputs
from edged.specialists.compact.shapes import AnswerError
from edged.specialists.examples import read_rows
from edged.specialists.wording import Wording, WordingKind

MAX_DIALOGUES = 50_000
MAX_TURNS = 64
MAX_TURN_CHARACTERS = 4096
_KEYS = frozenset(("prompt", "messages", "answer", "inputs", "group"))
_SAID, _ANSWERED = ("user", "tool"), "assistant"


@dataclass(frozen=True, slots=True)
class Turn:
    """What was said, and what it was answered with."""

    said: str
    answer: Any
    """Of JSON, or a text."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One example: turns, each with its answer."""

    turns: tuple[Turn, ...]
    line: int
    """In its file, from 1."""
    group: str
    """Examples of one group are alike: they are never split between teaching and testing."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What came with the request."""
    file: str = ""

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file}:{self.line}"


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read JSONL, or CSV with the columns prompt and answer.

    Raises:
        UsageError: The file cannot be read, or a line is wrong.
    """
    found = []
    for line, row in read_rows(path, MAX_DIALOGUES):
        try:
            found.append(replace(dialogue_of(line, row), file=str(path)))
        except ValueError as error:
            raise UsageError(f"{path}:{line}: {error}") from error
    if not found:
        raise UsageError(f"{path}: has no examples")
    return found


def is_written(rows: Sequence[tuple[int, Mapping[str, Any]]]) -> bool:
    """Tell whether the lines of a file can only be learned by what writes its answers.

    That is so of dialogues with answers in them, of inputs, and of JSON in JSON.
    """
    return any(_needs_writer(row) for _, row in rows)


def _needs_writer(row: Mapping[str, Any]) -> bool:
    messages, answer = row.get("messages"), row.get("answer")
    has_answers = isinstance(messages, list) and any(
        isinstance(one, dict) and one.get("role") == _ANSWERED for one in messages
    )
    parts = [*answer.values()] if isinstance(answer, dict) else answer
    is_nested = isinstance(parts, list) and any(isinstance(one, dict | list) for one in parts)
    return "inputs" in row or (has_answers and "answer" not in row) or is_nested


def check_answers(dialogues: Sequence[Dialogue], wording: Wording) -> None:
    """Refuse answers that the schema does not allow.

    Raises:
        UsageError: There is one; it names the line and the path in the answer.
    """
    for one in dialogues:
        try:
            check_dialogue(one, wording)
        except ValueError as error:
            raise UsageError(f"{one.place}: {error}") from error


def check_dialogue(dialogue: Dialogue, wording: Wording) -> None:
    """Refuse answers that the schema does not allow.

    Raises:
        ValueError: There is one; it names the path in the answer.
    """
    for index, turn in enumerate(dialogue.turns):
        where = "answer" if len(dialogue.turns) == 1 else f"answer {index + 1}"
        try:
            wording.write(turn.answer, dialogue.inputs)
        except AnswerError as error:
            raise ValueError(f"{where}{error}") from error


def dialogue_of(line: int, row: Mapping[str, Any]) -> Dialogue:
    """Return the example that a line of a file is.

    Raises:
        ValueError: It is none; the message names the key.
    """
    if unknown := sorted(row.keys() - _KEYS):
        raise ValueError(f"{unknown[0]!r} is not known; the keys are {', '.join(sorted(_KEYS))}")
    if ("prompt" in row) == ("messages" in row):
        raise ValueError("give either prompt or messages")
    turns = _prompt_turn(row) if "prompt" in row else _turns(row)
    group = row.get("group", f"line {line}")
    if not isinstance(group, str):
        raise ValueError("group: must be a string")  # noqa: TRY004 - as all of a line
    return Dialogue(turns, line, group, check_inputs(row.get("inputs", {})))


def _prompt_turn(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    if row.get("answer") is None:
        raise ValueError("answer: is missing")
    return (Turn(_text("prompt", row["prompt"]), row["answer"]),)


def _turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    messages = row["messages"]
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_TURNS:
        raise ValueError(f"messages: must be a list of 1 to {MAX_TURNS} messages")
    turns: list[Turn] = []
    said: list[str] = []
    for index, one in enumerate(messages):
        path = f"messages[{index}]"
        role = one.get("role") if isinstance(one, dict) else None
        if role in _SAID:
            said.append(_text(f"{path}.content", one.get("content")))
        elif role == _ANSWERED and said:
            turns.append(Turn("\n".join(said), _answer(path, one)))
            said = []
        else:
            raise ValueError(
                f"{path}: must have the role user, or assistant behind it; what is said before "
                "every prompt belongs into --template"
            )
    if said and row.get("answer") is not None:
        turns.append(Turn("\n".join(said), row["answer"]))
    elif said or "answer" in row:
        raise ValueError("messages: must end with an answer, or with the prompt of `answer`")
    return tuple(turns)


def _text(path: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= MAX_TURN_CHARACTERS:
        raise ValueError(f"{path}: must be a text of 1 to {MAX_TURN_CHARACTERS} characters")
    return value


def _answer(path: str, message: Mapping[str, Any]) -> Any:  # noqa: ANN401 - of JSON
    """Return the answer of a message: its calls of functions, else its content.

    Raises:
        ValueError: It is wrong.
    """
    calls = message.get("tool_calls")
    if not calls:
        content = message.get("content")
        if content is None or content == "":
            raise ValueError(f"{path}: has neither content nor tool_calls")
        return content
    if not isinstance(calls, list) or not all(isinstance(one, dict) for one in calls):
        raise ValueError(f"{path}.tool_calls: must be a list of calls")
    found = [_call(f"{path}.tool_calls[{index}]", one) for index, one in enumerate(calls)]
    return found[0] if len(found) == 1 else found


def _call(path: str, call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"{path}: names no function")  # noqa: TRY004 - as all of a line
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}.arguments: is not JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"{path}.arguments: must be an object")  # noqa: TRY004 - as all of a line
    return {"name": name, "arguments": arguments}


def as_wanted(dialogues: Sequence[Dialogue], wording: Wording, *, is_list: bool) -> list[Dialogue]:
    """Return them with answers as a writer gives them, however the file has them."""
    if wording.kind is WordingKind.TEXT:
        return list(dialogues)
    if not isinstance(wording.schema, list):
        return parsed(dialogues)
    return _alllisted(dialogues) if is_list else list(dialogues)


def as_lists(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Return them with lists of calls everywhere, where any answer is one."""
    if not any(isinstance(turn.answer, list) for one in dialogues for turn in one.turns):
        return list(dialogues)
    return _alllisted(dialogues)


def _alllisted(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    return [
        replace(one, turns=tuple(replace(t, answer=listed(t.answer)) for t in one.turns))
        for one in dialogues
    ]


def listed(answer: Any) -> Any:  # noqa: ANN401 - of JSON
    """Return a call as a list of calls, and anything else as it is."""
    return [answer] if isinstance(answer, dict) else answer


def parsed(dialogues: Sequence[Dialogue]) -> list[Dialogue]:
    """Return them with the answers that are JSON texts read, as messages have them."""
    found = []
    for one in dialogues:
        turns = []
        for turn in one.turns:
            answer = turn.answer
            if isinstance(answer, str):
                # Else it is a text, which the schema may allow.
                with suppress(ValueError, RecursionError):
                    answer = json.loads(answer)
            turns.append(replace(turn, answer=answer))
        found.append(replace(one, turns=tuple(turns)))
    return found
