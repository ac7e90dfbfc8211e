"""Examples of a specialist: what is read, and how a wrong line is named."""

import json
from pathlib import Path

import pytest

from edged.errors import UsageError
from edged.specialists.examples import AnswerKind, kind_of, read_examples, remarks


def write(folder: Path, *rows: object, name: str = "examples.jsonl") -> Path:
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    rows = [
        {"prompt": "lights on", "answer": "on"},
        {"prompt": 'say "hello", please', "answer": None, "group": "a", "weight": 2.0},
    ]
    table = 'prompt,answer,group,weight\nlights on,on,,\n"say ""hello"", please",,a,2\n'
    from_json = read_examples(write(tmp_path, *rows))
    from_csv = read_examples(write(tmp_path, table, name="examples.csv"))
    assert [(one.prompt, one.answer, one.weight) for one in from_json] == [
        (one.prompt, one.answer, one.weight) for one in from_csv
    ]
    assert from_json[1].group == from_csv[1].group == "a"
    assert from_json[0].group != from_json[1].group


def test_a_dialogue_is_what_was_said_in_it(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "user", "content": "lights on"}]
    (example,) = read_examples(write(tmp_path, {"messages": messages, "answer": "on"}))
    assert example.prompt == "hello\nlights on"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("nonsense", "not JSON"),
        ([1], "must be an object"),
        ({"prompt": "x"}, "answer: is missing"),
        ({"answer": "x"}, "give either prompt or messages"),
        ({"prompt": "x", "messages": [], "answer": "y"}, "give either prompt or messages"),
        ({"prompt": " ", "answer": "y"}, "prompt: must be a text"),
        ({"prompt": "x" * 5000, "answer": "y"}, "prompt: 5000 characters"),
        ({"prompt": "x", "answer": ""}, "answer: a label must be a text of 1 to 200"),
        ({"prompt": "x", "answer": {}}, "answer: must have 1 to 32 fields"),
        ({"prompt": "x", "answer": "y", "weight": 0}, "weight: must be a number above 0"),
        ({"prompt": "x", "answer": "y", "weight": True}, "weight: must be a number above 0"),
        ({"prompt": "x", "answer": "y", "group": 1}, "group: must be a string"),
        ({"prompt": "x", "answer": "y", "colour": 1}, "'colour' is not known"),
        ('{"prompt": "x", "answer": NaN}', "the number is not finite"),
        ({"messages": ["x"], "answer": "y"}, "messages: must be a list of objects"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(
    tmp_path: Path, row: object, complaint: str
) -> None:
    path = write(tmp_path, {"prompt": "x", "answer": "y"}, row)
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("prompt,answer\nx\n", ":2: not as many columns"),
        ("prompt,answer,weight\nx,y,much\n", ":2: weight: 'much' is not a number"),
        ('prompt,answer\n"x\n', "not CSV"),
    ],
)
def test_a_wrong_row_of_csv_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=r"examples\.csv") as caught:
        read_examples(write(tmp_path, text, name="examples.csv"))
    assert complaint in str(caught.value)


def test_a_file_that_is_no_text_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "binary", tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            read_examples(path)
    with pytest.raises(UsageError, match="has no examples"):
        read_examples(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["on", "off", None], AnswerKind.LABEL),
        ([["on"], ["on", "off"]], AnswerKind.LABELS),
        ([1, 2.5, 3], AnswerKind.NUMBER),
        ([{"room": "hall"}, {"room": None}], AnswerKind.FIELDS),
    ],
)
def test_it_says_what_the_answers_are(
    tmp_path: Path, answers: list[object], kind: AnswerKind
) -> None:
    rows = [{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    assert kind_of(read_examples(write(tmp_path, *rows))) is kind


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        (["on", 1], "label in line 1, number in line 2"),
        ([None], "no example has an answer"),
        ([1, 2, 1], "fewer than three numbers"),
    ],
)
def test_answers_that_fit_no_kind_are_refused(
    tmp_path: Path, answers: list[object], complaint: str
) -> None:
    rows = [{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    with pytest.raises(UsageError, match=complaint):
        kind_of(read_examples(write(tmp_path, *rows)))


def test_duplicates_and_contradictions_are_named_with_their_lines(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Lights on", "answer": "on"},
        {"prompt": "lights  ON", "answer": "on"},
        {"prompt": "warmer", "answer": "up"},
        {"prompt": "warmer", "answer": "down"},
    ]
    same, torn = remarks(read_examples(write(tmp_path, *rows)))
    assert (same.lines, torn.lines) == ((1, 2), (3, 4))
    assert str(torn) == 'lines 3, 4: one prompt, several answers: "up", "down"'
