"""Examples of a specialist: what is read, and how a wrong line is named."""

import json
from pathlib import Path

import pytest

from edged.errors import UsageError
from edged.specialists.examples import AnswerKind, example_of, kind_of, read_examples


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


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    (example,) = read_examples(write(tmp_path, r'{"prompt": "\ud83d\ude00", "answer": "y"}'))
    assert example.prompt == "\N{GRINNING FACE}"


def test_a_line_may_wait_for_a_teacher(tmp_path: Path) -> None:
    path = write(tmp_path, "prompt,answer", "x,", "y,b", name="examples.csv")
    assert [one.is_open for one in read_examples(path, has_teacher=True)] == [True, False]
    assert [one.is_open for one in read_examples(path)] == [False, False]
    with pytest.raises(UsageError, match="answer: is missing"):
        example_of(path, 2, {"prompt": "x"})


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
        *(
            ({"prompt": "x", "answer": "y", "weight": weight}, "weight: must be a number from 0.00")
            for weight in (0, True, 1e-9, 2e6, 10**400, float("nan"), "1")
        ),
        ({"prompt": "x", "answer": 1_200_000}, "1200000 is beyond 1000000; use a larger unit"),
        ({"prompt": "x", "answer": -1e301}, "answer: -1e+301 is beyond 1000000"),
        ({"prompt": "x", "answer": 10**400}, "answer: the number is beyond 1000000"),
        ({"prompt": "x", "answer": [10**400]}, "a label must be a text of 1 to 200"),
        ({"prompt": "x", "answer": "y", "group": 1}, "group: must be a string"),
        ({"prompt": "x", "answer": "y", "colour": 1}, "'colour' is not known"),
        ('{"prompt": "\\ud83d", "answer": "y"}', "half of a surrogate pair"),
        ('{"prompt": "x", "answer": NaN}', "the number is not finite"),
        ({"messages": ["x"], "answer": "y"}, "messages: must be a list of objects"),
        ({"prompt": "x", "answer": True}, "answer: must be a label, null, a list"),
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
        ("prompt,answer,answer\nx,y,z\n", ":1: the column 'answer' is there more than once"),
    ],
)
def test_a_wrong_row_of_csv_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=r"examples\.csv") as caught:
        read_examples(write(tmp_path, text, name="examples.csv"))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_of_csv_ends_where_a_spreadsheet_ends_it(tmp_path: Path, end: str) -> None:
    lines = ["prompt,answer", "a\u2028b,x", "c\x0bd,y", "e\x85f,x", '"g', 'h",y', "i,x"]
    path = tmp_path / "examples.csv"
    path.write_bytes(end.join([*lines, ""]).encode())
    assert [(one.line, one.prompt) for one in read_examples(path)] == [
        (2, "a\u2028b"),
        (3, "c\x0bd"),
        (4, "e\x85f"),
        (6, "g\nh"),
        (7, "i"),
    ]


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
    path = write(tmp_path, *rows)
    assert kind_of(read_examples(path)) is kind


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        (["on", 1], "examples.jsonl:2: the answer is a number, that of line 1 a label"),
        ([None], "examples.jsonl: no example has an answer"),
        ([1, 2, 1], "examples.jsonl: the answers are fewer than three numbers"),
    ],
)
def test_answers_that_fit_no_kind_are_refused(
    tmp_path: Path, answers: list[object], complaint: str
) -> None:
    rows = [{"prompt": f"p{i}", "answer": answer} for i, answer in enumerate(answers)]
    path = write(tmp_path, *rows)
    with pytest.raises(UsageError, match=complaint):
        kind_of(read_examples(path))


@pytest.mark.parametrize(
    ("cells", "answers"),
    [
        (("1", "2.5", "", "3"), [1.0, 2.5, None, 3.0]),
        (('["a"]', "[]", '["b", "a"]'), [("a",), (), ("a", "b")]),
        (('{"room": "hall"}', '{"room": null}'), [{"room": "hall"}, {"room": None}]),
        (("1", "2", "often"), ["1", "2", "often"]),
        (("1", "0", "1", "0"), ["1", "0", "1", "0"]),  # fewer than three numbers are labels
        (("true", "false", "true"), ["true", "false", "true"]),
    ],
)
def test_a_cell_of_csv_is_what_every_other_cell_is_too(
    tmp_path: Path, cells: list[str], answers: list[object]
) -> None:
    table = ["prompt,answer"]
    table += [
        f'p{index},"{cell.replace(chr(34), 2 * chr(34))}"' for index, cell in enumerate(cells)
    ]
    read = read_examples(write(tmp_path, *table, name="examples.csv"))
    assert [example.answer for example in read] == answers


def test_files_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, *({"prompt": "x", "answer": "y"} for _ in range(4)))
    monkeypatch.setattr("edged.specialists.examples.MAX_EXAMPLES", 3)
    with pytest.raises(UsageError, match="more than the 3 examples"):
        read_examples(path)
    monkeypatch.setattr("edged.specialists.examples._MAX_FILE_BYTES", 10)
    with pytest.raises(UsageError, match="use fewer examples"):
        read_examples(path)


def test_labels_may_be_written_as_truth_and_numbers_inside_of_lists_and_fields(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": "x", "answer": [True, False, 3]}, {"prompt": "y", "answer": {"on": True}}]
    lists, fields = read_examples(write(tmp_path, *rows))
    assert lists.answer == ("3", "false", "true")
    assert fields.answer == {"on": "true"}
