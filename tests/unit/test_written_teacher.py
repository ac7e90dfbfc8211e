"""A teacher that writes: which of its answers count, and what it is asked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import pytest

from edged.commands.received import ReceivedReply, decode_reply
from edged.commands.written_teacher import NUM_TIMES, Asked, WrittenTeacher
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
