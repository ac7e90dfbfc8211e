"""A teacher that writes: which of its answers count, and what it is asked."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import pytest

from edged.commands import written_teacher
from edged.commands.received import ReceivedReply, decode_reply
from edged.commands.teach import add_arguments
from edged.commands.written_teacher import (
    NUM_TIMES,
    TAUGHT,
    Asked,
    WrittenTeacher,
    with_answers,
)
from edged.errors import UsageError
from edged.specialists.wording import wording_of_schema

if TYPE_CHECKING:
    from edged.commands.node_teacher import AskedNode

SCHEMA = {
    "type": "object",
    "properties": {"state": {"enum": ["on", "off"]}},
    "required": ["state"],
    "additionalProperties": False,
}
ON, OFF, WRONG = {"state": "on"}, {"state": "off"}, {"state": "dim"}
ASKED = Asked(3, {"prompt": "light", "inputs": {"room": "hall"}})


class ScriptedNode:
    """Gives one answer after the other."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self.requests: list[Mapping[str, Any]] = []

    def reply(self, members: Mapping[str, Any], place: str) -> ReceivedReply:
        assert place == "prompts.jsonl:3"
        self.requests.append(members)
        reply = decode_reply(b'{"status": "ok", "data": {"text": ""}}')
        assert reply is not None
        object.__setattr__(reply, "json", next(self._answers))
        return reply


def ask(*answers: Any, asked: Asked = ASKED, shown: Sequence[dict[str, Any]] = ()) -> Any:  # noqa: ANN401
    node = ScriptedNode(answers)
    wording, _ = wording_of_schema(SCHEMA)
    teacher = WrittenTeacher(cast("AskedNode", node), wording, SCHEMA, shown)
    return teacher.ask(asked, "prompts.jsonl:3"), node.requests


@pytest.mark.parametrize(
    ("answers", "expected", "num_asked"),
    [
        ([ON, ON, ON], (ON, True), 3),
        ([ON, OFF, ON, OFF, ON], (ON, True), 5),
        ([ON, OFF, None, ON, WRONG], (ON, False), 5),
        ([WRONG, WRONG, WRONG], (None, False), 3),
        ([None, ON, ON, ON], (ON, True), 4),
        ([ON, OFF, None, WRONG], (ON, False), 4),
        # Which no file of examples may have.
        ([{"state": float("nan")}, {"state": "\ud800"}, "\ud800"], (None, False), 3),
    ],
)
def test_an_answer_counts_that_most_times_agree_on(
    answers: list[Any], expected: tuple[Any, bool], num_asked: int
) -> None:
    """It is not asked once more than decides."""
    found, requests = ask(*answers)
    assert found == expected
    assert len(requests) == num_asked <= NUM_TIMES


def test_what_it_is_asked() -> None:
    _, requests = ask(ON, ON, ON, shown=[{"prompt": "lamp off", "answer": OFF}])
    system, said = requests[0]["messages"]
    assert said == {"role": "user", "content": "light"}
    for part in ('"enum": ["on", "off"]', 'lamp off\n{"state": "off"}', '{"room": "hall"}'):
        assert part in system["content"]
    assert requests[0]["format"] == {"type": "json_schema", "schema": SCHEMA}
    assert [one["seed"] for one in requests] == [0, 1, 2]
    assert requests[0]["temperature"] > 0


def test_a_dialogue_is_asked_as_it_was_said() -> None:
    call = {"type": "function", "function": {"name": "on", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "light on"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
        {"role": "user", "content": "and off"},
    ]
    _, requests = ask(OFF, OFF, OFF, asked=Asked(3, {"messages": messages}))
    said = requests[0]["messages"][1:]
    assert [one["role"] for one in said] == ["user", "assistant", "user", "user"]
    assert '"name": "on"' in said[1]["content"]


@pytest.mark.parametrize("text", ["half of a pair: \ud800", float("nan"), {"\ud800": 1}])
def test_an_answer_that_cannot_be_kept_does_not_count(text: object) -> None:
    """Whatever the schema allows: the run would end at the file."""
    node = ScriptedNode([text] * NUM_TIMES)
    teacher = WrittenTeacher(cast("AskedNode", node), wording_of_schema({})[0], {}, ())
    assert teacher.ask(ASKED, "prompts.jsonl:3") == (None, False)


class NoNode:
    """Fails when it is asked."""

    def __init__(self, _: object) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def resumed(folder: Path, prompts: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(written_teacher, "AskedNode", NoNode)
    (folder / "schema.json").write_text(json.dumps(SCHEMA))
    (folder / "prompts.jsonl").write_text(prompts)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = [str(folder / "prompts.jsonl"), "--schema", str(folder / "schema.json")]
    words += ["--model", "m", "--output", str(folder), "--teacher", "mqtt://broker/attic"]
    return with_answers(parser.parse_args(words)).read_text(encoding="utf-8")


ANSWERED = '{"prompt": "light", "answer": {"state": "on"}}\n'


@pytest.mark.parametrize("rest", ["", '{"prompt": "li', "\0\0\0", "{"])
def test_what_a_run_that_was_ended_had_half_written_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    (tmp_path / TAUGHT).write_bytes(ANSWERED.encode() + rest.encode() + b"\xd0" * bool(rest))
    assert resumed(tmp_path, '{"prompt": "light"}\n', monkeypatch) == ANSWERED


def test_a_last_line_that_a_person_left_without_an_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / TAUGHT).write_text(ANSWERED.strip(), encoding="utf-8")
    assert resumed(tmp_path, '{"prompt": "light"}\n', monkeypatch) == ANSWERED


@pytest.mark.parametrize(
    "line",
    ['{"prompt": 5, "answer": "x"}', '{"answer": "x"}', '{"prompt": "a", "messages": []}'],
)
def test_a_wrong_line_is_named_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    with pytest.raises(UsageError, match=r"prompts.jsonl:2: "):
        resumed(tmp_path, f'{{"prompt": "light"}}\n{line}\n', monkeypatch)
