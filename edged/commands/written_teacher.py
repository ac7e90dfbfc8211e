"""Distilling where answers are written: a larger model writes them, and a writer learns from these.

Each prompt is asked several times, at a temperature. An answer counts that the schema allows and
most of the times agree on. What was answered is kept in a file: a run that was ended goes on from
it, and a person can correct it.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.commands.broker_options import node_of_url
from edged.commands.gather import check_review
from edged.commands.kept_answers import begin_file
from edged.commands.node_teacher import AskedNode
from edged.errors import UsageError
from edged.specialists.dialogues import MAX_DIALOGUES, check_dialogue, dialogue_of
from edged.specialists.examples import read_rows
from edged.specialists.wording import Wording, wording_of_schema, wording_of_tools

TAUGHT = "taught.jsonl"
NUM_TIMES = 5
TEMPERATURE = 0.7
_NUM_SHOWN = 5
# Calls in one answer of a teacher.
_MAX_CALLS = 8
_PROGRESS_EVERY = 10

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, or a dialogue, that has no answer."""

    line: int
    row: Row
    """As the file has it."""

    @property
    def key(self) -> str:
        """The same for the same prompt with the same inputs."""
        said = {name: self.row.get(name) for name in ("prompt", "messages", "inputs")}
        return json.dumps(said, sort_keys=True)

    @property
    def messages(self) -> list[Any]:
        """What was said, as a request has it."""
        if "messages" in self.row:
            return list(self.row["messages"])
        return [{"role": "user", "content": self.row["prompt"]}]

    def answered(self, answer: Any) -> Row:  # noqa: ANN401 - of JSON
        """Return the row with an answer."""
        return {**self.row, "answer": answer}


class WrittenTeacher:
    """What a node is asked, and which of its answers count.

    Args:
        node: Connected.
        wording: Of the answers.
        schema: JSON Schema of one answer.
        shown: Examples with answers, that it is shown.
    """

    def __init__(
        self, node: AskedNode, wording: Wording, schema: Mapping[str, Any], shown: Sequence[Row]
    ) -> None:
        self._node, self._wording, self._schema = node, wording, schema
        parts = ["Answer with JSON of this schema:", json.dumps(schema, ensure_ascii=False)]
        if shown:
            parts += ["Examples:", *map(_example, shown)]
        self._system = "\n\n".join(parts)

    def ask(self, asked: Asked, place: str) -> tuple[Any, bool]:
        """Return the answer that was given most often, and whether it counts; blocks for seconds.

        Raises:
            UsageError: The node refuses the prompt.
            UnavailableError: The node gives no reply.
        """
        counts: Counter[str] = Counter()
        answers: dict[str, Any] = {}
        enough = NUM_TIMES // 2 + 1
        for time in range(NUM_TIMES):
            answer = self._answer(asked, place, seed=time)
            text = self._written(asked, answer)
            if text is not None:
                counts[text] += 1
                answers[text] = answer
            best = max(counts.values(), default=0)
            if best == enough or best + NUM_TIMES - 1 - time < enough:
                break
        if not counts:
            return None, False
        text, count = counts.most_common(1)[0]
        return answers[text], count >= enough

    def _answer(self, asked: Asked, place: str, seed: int) -> Any:  # noqa: ANN401 - of JSON
        inputs = asked.row.get("inputs")
        told = f"\n\nInputs: {json.dumps(inputs, ensure_ascii=False)}" if inputs else ""
        system = {"role": "system", "content": f"{self._system}{told}"}
        members = {
            "messages": [system, *map(_message, asked.messages)],
            "temperature": TEMPERATURE,
            "seed": seed,
            "format": {"type": "json_schema", "schema": self._schema},
        }
        return self._node.reply(members, place).json

    def _written(self, asked: Asked, answer: Any) -> str | None:  # noqa: ANN401 - of JSON
        """Return an answer in the compact form; None of one that the schema does not allow."""
        if answer is None:
            return None
        with suppress(ValueError, RecursionError):
            # Neither NaN nor half of a surrogate pair, which no file of examples may have.
            json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
            dialogue = dialogue_of(asked.line, asked.answered(answer))
            check_dialogue(dialogue, self._wording)
            return self._wording.write(answer, dialogue.inputs)
        return None


def with_answers(arguments: argparse.Namespace) -> Path:
    """Have a node answer the lines without an answer; return the file of all that have one.

    Raises:
        UsageError: An option or a line is wrong, or the node refuses a prompt.
        UnavailableError: The node cannot be asked now.
    """
    given, asked = _divided(arguments.examples)
    if not asked:
        raise UsageError(f"--teacher: each line of {arguments.examples} has an answer already")
    if not arguments.teacher.startswith(("mqtt://", "mqtts://")):
        raise UsageError(
            "--teacher: answers are written by a node; serve the bundle with `edged run`, and name "
            "mqtt://host[:port]/NODE"
        )
    if arguments.review is not None:
        check_review(arguments.review)
    wording, schema = _shape(arguments, given)
    shown = [row for row in given if "prompt" in row][:_NUM_SHOWN]
    path: Path = arguments.output / TAUGHT
    target = node_of_url(arguments.teacher, arguments, "--teacher")
    try:
        known = _known(path)
        arguments.output.mkdir(parents=True, exist_ok=True)
        kept = [known[one.key] for one in asked if one.key in known]
        begin_file(path, "".join(map(_line, [*given, *kept])))
        with AskedNode(target) as node:
            teacher = WrittenTeacher(node, wording, schema, shown)
            doubtful = _ask_all(teacher, [one for one in asked if one.key not in known], arguments)
        if arguments.review is not None:
            arguments.review.write_text("".join(map(_line, doubtful)), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{error.filename or path}: cannot be read or written ({error})"
        ) from error
    _say(f"{path}: {len(asked) - len(doubtful)} of {len(asked)} prompts answered the same way")
    _say("the figures say how well it agrees with the teacher, unless --test has better answers")
    return path


def _ask_all(
    teacher: WrittenTeacher, asked: Sequence[Asked], arguments: argparse.Namespace
) -> list[Row]:
    """Append each answer that counts to the file as soon as it is known; return the others."""
    doubtful = []
    with (arguments.output / TAUGHT).open("a", encoding="utf-8") as file:
        for number, one in enumerate(asked, 1):
            answer, counts = teacher.ask(one, f"{arguments.examples}:{one.line}")
            if counts:
                file.write(_line(one.answered(answer)))
                file.flush()
            else:
                doubtful.append(one.answered(answer))
            if number % _PROGRESS_EVERY == 0:
                _say(f"asked about {number} of {len(asked)} prompts")
    return doubtful


def _divided(path: Path) -> tuple[list[Row], list[Asked]]:
    """Return the lines with an answer, and those without.

    Raises:
        UsageError: A line is wrong.
    """
    given, asked = [], []
    for line, row in read_rows(path, MAX_DIALOGUES):
        messages = row.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else {}
        is_open = not isinstance(last, dict) or last.get("role") != "assistant"
        is_asked = is_open and row.get("answer") is None
        try:
            # Whatever else is wrong is said before anybody is asked.
            dialogue_of(line, {**row, "answer": "?"} if is_asked else row)
        except ValueError as error:
            raise UsageError(f"{path}:{line}: {error}") from error
        if is_asked:
            asked.append(Asked(line, row))
        else:
            given.append(row)
    return given, asked


def _shape(arguments: argparse.Namespace, given: Sequence[Row]) -> tuple[Wording, Row]:
    """Return how answers are written, and the schema of one for a node.

    Raises:
        UsageError: None is given, or it is wrong.
    """
    option, path = "--schema", arguments.schema
    if arguments.tools is not None:
        option, path = "--tools", arguments.tools
    if path is None:
        raise UsageError("--teacher: what is written needs a shape; give --tools or --schema")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if option == "--schema":
            return wording_of_schema(read)[0], read
        answers = [row["answer"] for row in given if "answer" in row]
        wording = wording_of_tools(read, answers)
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        raise UsageError(f"{option}: {path}: {error}") from error
    functions = [tool.get("function", tool) for tool in read]
    one = {"anyOf": [_call_schema(function) for function in functions]}
    is_list = any(isinstance(answer, list) for answer in answers)
    return wording, {"type": "array", "items": one, "maxItems": _MAX_CALLS} if is_list else one


def _call_schema(function: Row) -> Row:
    arguments = function.get("parameters") or {"type": "object", "properties": {}}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _known(path: Path) -> dict[str, Row]:
    """Return what a run that was ended has answered already."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    last = content.rpartition(b"\n")[2]
    try:
        json.loads(last)
    except ValueError:
        # Nothing, or what a run that was ended had half written.
        os.truncate(path, len(content) - len(last))
    return {Asked(line, row).key: row for line, row in read_rows(path, MAX_DIALOGUES)}


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _example(row: Row) -> str:
    return f"{row['prompt']}\n{json.dumps(row['answer'], ensure_ascii=False)}"


def _message(message: Row) -> Row:
    """Return a message of an example as a request takes it: with text alone."""
    calls = message.get("tool_calls")
    content = json.dumps(calls, ensure_ascii=False) if calls else message["content"]
    return {"role": "assistant" if message["role"] == "assistant" else "user", "content": content}


def _say(text: str) -> None:
    print(text, file=sys.stderr)
