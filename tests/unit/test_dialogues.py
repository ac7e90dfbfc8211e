"""Examples whose answers are written: what is read, and what is refused with its line."""

import json
import re
from pathlib import Path

import pytest

from edged.errors import UsageError
from edged.specialists.dialogues import (
    MAX_TURNS,
    Turn,
    as_lists,
    check_answers,
    is_written,
    parsed,
    read_dialogues,
)
from edged.specialists.examples import read_rows
from edged.specialists.wording import TEXT, wording_of_schema, wording_of_tools
from tests.paths import ROOT

CALL = {"name": "set_light", "arguments": {"on": True}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_light",
            "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
        },
    }
]


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_prompt_and_a_dialogue_are_read(tmp_path: Path) -> None:
    tool_call = {"type": "function", "function": {"name": "set_light", "arguments": '{"on": true}'}}
    messages = [
        {"role": "user", "content": "light on"},
        {"role": "assistant", "content": None, "tool_calls": [tool_call]},
        {"role": "tool", "content": "done"},
        {"role": "user", "content": "thanks"},
        {"role": "assistant", "content": "You are welcome."},
    ]
    path = write(
        tmp_path / "a.jsonl",
        {"prompt": "light on", "answer": CALL, "group": "on", "inputs": {"area": "hall"}},
        {"messages": messages},
        {"messages": messages[:1], "answer": CALL},
    )
    first, second, third = read_dialogues(path)
    assert first.turns == third.turns == (Turn("light on", CALL),)
    assert (first.group, first.inputs, second.group) == ("on", {"area": "hall"}, "line 2")
    assert second.turns == (Turn("light on", CALL), Turn("done\nthanks", "You are welcome."))
    assert second.place == f"{path}:2"
    assert is_written(read_rows(path))
    listed = as_lists([*read_dialogues(path), first])
    assert listed[0].turns[0].answer == CALL  # no answer is a list
    several = write(tmp_path / "b.jsonl", {"prompt": "x", "answer": [CALL]})
    assert as_lists([*read_dialogues(several), first])[1].turns[0].answer == [CALL]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "x"}, "answer: is missing"),
        ({"prompt": "x", "answer": 1, "label": 2}, "'label' is not known"),
        ({"prompt": "x", "messages": [], "answer": 1}, "give either prompt or messages"),
        ({"prompt": " ", "answer": "y"}, "prompt: must be a text of 1 to 4096 characters"),
        ({"prompt": "x" * 5000, "answer": "y"}, "prompt: must be a text of 1 to 4096 characters"),
        ({"prompt": "x", "answer": "y", "group": 3}, "group: must be a string"),
        ({"prompt": "x", "answer": "y", "inputs": []}, "inputs: must be an object"),
        ({"prompt": "x", "answer": "y", "inputs": {"a": "b" * 201}}, "inputs.a: must have 1 to"),
        ({"messages": [{"role": "user", "content": "x"}]}, "messages: must end with an answer"),
        ({"messages": "x"}, f"messages: must be a list of 1 to {MAX_TURNS} messages"),
        ({"messages": [7]}, r"messages\[0\]: must have the role user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, r"messages\[0\]: must have"),
        ({"messages": [{"role": "system", "content": "x"}]}, "belongs into --template"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant"}]},
            r"messages\[1\]: has neither content nor tool_calls",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, row: object, complaint: str) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "answer": "y"}, row)
    with pytest.raises(UsageError, match=rf"a\.jsonl:2: .*{complaint}"):
        read_dialogues(path)


@pytest.mark.parametrize(
    ("calls", "complaint"),
    [
        ("x", "must be a list of calls"),
        ([{"function": {}}], "names no function"),
        ([{"function": {"name": "a", "arguments": "{"}}], "arguments: is not JSON"),
        ([{"function": {"name": "a", "arguments": "[]"}}], "arguments: must be an object"),
    ],
)
def test_a_wrong_call_is_named(tmp_path: Path, calls: object, complaint: str) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}]
    path = write(tmp_path / "a.jsonl", {"messages": messages})
    with pytest.raises(UsageError, match=rf"a\.jsonl:1: messages\[1\]\.tool_calls.*{complaint}"):
        read_dialogues(path)


def test_answers_are_compared_with_the_schema(tmp_path: Path) -> None:
    wrong = {"name": "set_light", "arguments": {"on": "maybe"}}
    dialogues = read_dialogues(write(tmp_path / "a.jsonl", {"prompt": "x", "answer": wrong}))
    wording = wording_of_tools(TOOLS, [wrong])
    with pytest.raises(UsageError, match=r"a\.jsonl:1: answer\.arguments\.on: must be one of true"):
        check_answers(dialogues, wording)
    with pytest.raises(UsageError, match=r"a\.jsonl:1: answer: must be a text"):
        check_answers(dialogues, TEXT)


def test_inputs_that_the_schema_needs_must_be_there(tmp_path: Path) -> None:
    wording, _ = wording_of_schema({"type": "string", "x-inputs": {"list": "rooms"}})
    dialogues = read_dialogues(write(tmp_path / "a.jsonl", {"prompt": "x", "answer": "hall"}))
    with pytest.raises(UsageError, match=r"a\.jsonl:1: inputs\.rooms: must be a list"):
        check_answers(dialogues, wording)


def test_texts_that_hold_json_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "answer": '{"a": 1}'})
    assert parsed(read_dialogues(path))[0].turns[0].answer == {"a": 1}
    path = write(tmp_path / "a.jsonl", {"prompt": "x", "answer": "{"})
    assert parsed(read_dialogues(path))[0].turns[0].answer == "{"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "x", "answer": "leak"}, False),
        ({"prompt": "x", "answer": {"room": "hall", "on": True}}, False),
        ({"prompt": "x", "answer": ["a", "b"]}, False),
        ({"messages": [{"role": "user", "content": "x"}], "answer": "leak"}, False),
        ({"prompt": "x", "answer": CALL}, True),
        ({"prompt": "x", "answer": [CALL]}, True),
        ({"prompt": "x", "answer": "a", "inputs": {}}, True),
    ],
)
def test_what_a_head_can_learn_is_left_to_it(row: dict[str, object], expected: bool) -> None:
    assert is_written([(1, row)]) is expected


def test_the_examples_of_the_page_are_such(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "specialists.md").read_text("utf-8")
    section = page.partition("## Answers that are written")[2]
    lines, schema = re.findall(r"^```json\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[:2]
    path = tmp_path / "commands.jsonl"
    path.write_text(lines)
    one, dialogue = read_dialogues(path)
    assert one.group == "make it"
    first, second = dialogue.turns
    assert first.answer["arguments"] == {"mode": "heat", "room": "hall"}
    assert second.answer["arguments"] == {"mode": "heat", "room": "attic"}
    devices = [{"id": "light.a", "name": "Lamp", "area": area} for area in ("Office", "Hall")]
    wording, problem = wording_of_schema(json.loads(schema))
    assert problem is None
    assert "Lamp \\(Office\\)" in str(wording.grammar({"devices": devices}))
