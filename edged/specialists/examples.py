"""Examples for a specialist: read from a file, checked, and what their answers are.

Rule: every complaint names the file and the line.
"""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from edged.errors import UsageError

# A label; null for "none of these"; several labels; a number; a field's label by its name.
Answer: TypeAlias = str | float | tuple[str, ...] | dict[str, str | None] | None

# Their features take 230 MB of memory with a model of 576 hidden states: a board has 1 GiB.
MAX_EXAMPLES = 5_000
MAX_PROMPT_CHARACTERS = 4096
MAX_LABEL_CHARACTERS = 200
MAX_LABELS = 512
MAX_FIELDS = 32
# Either side of 0: no scale that is read from a folder goes beyond it.
MAX_NUMBER = 1_000_000
_MIN_WEIGHT, _MAX_WEIGHT = 1e-6, 1e6
_MAX_FILE_BYTES = 64 << 20
_HALF_PAIR = re.compile(r"\\u[dD]")
_KEYS = frozenset(("prompt", "messages", "answer", "group", "weight"))
# Fewer distinct numbers than this are labels, not a scale.
_FEWEST_ON_A_SCALE = 3


class AnswerKind(StrEnum):
    """What the answers of a file are."""

    LABEL = "label"
    LABELS = "labels"
    NUMBER = "number"
    FIELDS = "fields"


_KINDS = {
    str: AnswerKind.LABEL,
    tuple: AnswerKind.LABELS,
    float: AnswerKind.NUMBER,
    dict: AnswerKind.FIELDS,
}


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt and its right answer."""

    prompt: str
    answer: Answer
    line: int
    """In its file, from 1."""
    group: str
    """Examples of one group are alike: they are never split between teaching and testing."""
    weight: float = 1.0
    is_open: bool = False
    """Whether it has no answer yet: a teacher is to be asked."""
    file: str = ""
    """Where it was read from."""
    is_measure: bool = True
    """Whether it counts when it was held out."""

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file}:{self.line}"


def read_examples(path: Path, *, has_teacher: bool = False) -> list[Example]:
    """Read JSONL, or CSV where the name ends in ``.csv``.

    A cell of CSV is text. Its answers are read as numbers, lists or objects where every one of
    them that is not empty is such JSON, and as labels else (numbers, too, if there are fewer than
    three); an empty one is null.

    With a teacher a line may have no answer. In CSV that is an empty cell, too, which is "none of
    these" otherwise.

    Raises:
        UsageError: the file cannot be read, or a line is wrong.
    """
    examples = [_example(path, *row, has_teacher=has_teacher) for row in read_rows(path)]
    if not examples:
        raise UsageError(f"{path}: has no examples")
    return examples


def read_rows(path: Path, most: int | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Return the number and the members of each line, as ``read_examples`` reads it.

    Args:
        path: Of the file.
        most: How many lines it may have; None is as many as are allowed to a head.

    Raises:
        UsageError: the file cannot be read, or has too many lines.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"{path}: more than {_MAX_FILE_BYTES >> 20} MiB; use fewer examples")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return rows_of(path, text, MAX_EXAMPLES if most is None else most)


def rows_of(path: Path, text: str, most: int) -> list[tuple[int, dict[str, Any]]]:
    """Return what ``read_rows`` does, of a text that was read.

    Raises:
        UsageError: a line is wrong, or there are more than ``most``.
    """
    read = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    # One more than are allowed is enough to refuse them.
    rows = list(islice(read(path, text), most + 1))
    if len(rows) > most:
        raise UsageError(f"{path}: more than the {most} examples that are allowed")
    if read is _csv_rows:
        _type_answers(rows)
    return rows


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}:{line}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UsageError(f'{path}:{line}: must be an object such as {{"prompt": …}}')
        if _HALF_PAIR.search(content):
            _check_pairs(path, line, row)
        yield line, row


def _check_pairs(path: Path, line: int, row: object) -> None:
    """Refuse half of a surrogate pair: only an escape can write it, and no text can hold it.

    Raises:
        UsageError: there is one.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{path}:{line}: has half of a surrogate pair (\\ud…)") from error


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not str.splitlines, for which a line ends at U+2028 and the like, too.
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        _check_columns(path, reader.fieldnames or ())
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(f"{path}:{reader.line_num}: not as many columns as the first line")
            filled = {key: value for key, value in row.items() if key == "answer" or value}
            if filled.get("answer") == "":
                filled["answer"] = None
            if "weight" in filled:
                filled["weight"] = _number(path, reader.line_num, filled["weight"])
            yield reader.line_num, filled
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if name and names.count(name) > 1:  # of empty ones, no cell may be filled
            raise UsageError(f"{path}:1: the column {name!r} is there more than once")


def _type_answers(rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Exchange the answers of CSV for numbers, lists or objects where all of them are such."""
    cells = [row["answer"] for _, row in rows if row.get("answer") is not None]
    try:
        read = {cell: json.loads(cell) for cell in cells}
    except (ValueError, RecursionError):
        return
    for kinds in ((int, float), (list,), (dict,)):
        if all(type(value) in kinds for value in read.values()):
            if kinds[0] is int and len(set(read.values())) < _FEWEST_ON_A_SCALE:
                return
            for _, row in rows:
                row["answer"] = read.get(row.get("answer"))


def _number(path: Path, line: int, text: object) -> float:
    try:
        return float(str(text))
    except ValueError as error:
        raise UsageError(f"{path}:{line}: weight: {text!r} is not a number") from error


def example_of(path: Path, line: int, row: Mapping[str, Any]) -> Example:
    """Check one line of ``read_rows``.

    Raises:
        UsageError: it is wrong.
    """
    return _example(path, line, row, has_teacher=False)


def _example(path: Path, line: int, row: Mapping[str, Any], *, has_teacher: bool) -> Example:
    def refuse(complaint: str) -> UsageError:
        return UsageError(f"{path}:{line}: {complaint}")

    if unknown := sorted(row.keys() - _KEYS):
        raise refuse(f"{unknown[0]!r} is not known; the keys are {', '.join(sorted(_KEYS))}")
    answer = row.get("answer")
    is_missing = "answer" not in row or (answer is None and path.suffix.lower() == ".csv")
    is_open = has_teacher and is_missing
    if "answer" not in row and not is_open:
        raise refuse("answer: is missing; null means none of the labels")
    try:
        weight = _weight(row.get("weight", 1.0))
        prompt, answer = _prompt(row), read_answer(answer)
    except ValueError as error:
        raise refuse(str(error)) from error
    group = row.get("group")
    if group is not None and not isinstance(group, str):
        raise refuse("group: must be a string")
    group = f"line {line}" if group is None else group
    return Example(prompt, answer, line, group, weight, is_open, str(path))


def _weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        value = math.nan
    if _MIN_WEIGHT <= value <= _MAX_WEIGHT:
        return float(value)
    raise ValueError(f"weight: must be a number from {_MIN_WEIGHT:f} to {_MAX_WEIGHT:.0f}")


def _prompt(row: Mapping[str, Any]) -> str:
    if ("prompt" in row) == ("messages" in row):
        raise ValueError("give either prompt or messages")
    prompt = row["prompt"] if "prompt" in row else prompt_of(row["messages"])
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("prompt: must be a text that is not empty")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise ValueError(f"prompt: {len(prompt)} characters, at most {MAX_PROMPT_CHARACTERS}")
    return prompt


def prompt_of(messages: object) -> str:
    """Return what a head reads of a dialogue: what was said, a line for each message.

    Raises:
        ValueError: it is no list of messages.
    """
    if not isinstance(messages, list) or not all(
        isinstance(one, dict) and isinstance(one.get("content"), str) for one in messages
    ):
        raise ValueError("messages: must be a list of objects with role and content")
    return "\n".join(one["content"] for one in messages)


def read_answer(value: object) -> Answer:
    """Return the answer that a value of JSON is.

    Raises:
        ValueError: it is none.
    """
    if value is None or isinstance(value, str):
        return None if value is None else _label(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value)
    if isinstance(value, list):
        return tuple(sorted({_label(one) for one in value}))
    if isinstance(value, dict):
        if not 0 < len(value) <= MAX_FIELDS:
            raise ValueError(f"answer: must have 1 to {MAX_FIELDS} fields")
        return {name: None if one is None else _label(one) for name, one in value.items()}
    raise ValueError("answer: must be a label, null, a list of labels, a number, or an object")


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError(f"answer: the number is beyond {MAX_NUMBER}") from error
    if not math.isfinite(number):
        raise ValueError("answer: the number is not finite")
    if abs(number) > MAX_NUMBER:
        raise ValueError(f"answer: {number:.15g} is beyond {MAX_NUMBER}; use a larger unit")
    return number


def _label(value: object) -> str:
    if isinstance(value, bool | int | float):
        value = json.dumps(value)
    if not isinstance(value, str) or not 0 < len(value.strip()) <= MAX_LABEL_CHARACTERS:
        raise ValueError(
            f"answer: a label must be a text of 1 to {MAX_LABEL_CHARACTERS} characters"
        )
    return value.strip()


def kind_of(examples: Sequence[Example]) -> AnswerKind:
    """Tell what the answers are.

    Raises:
        UsageError: they are of several kinds; it names a line of each.
    """
    first: dict[AnswerKind, Example] = {}
    for example in examples:
        if example.answer is not None:
            first.setdefault(_KINDS[type(example.answer)], example)
    if len(first) > 1:
        (kind, one), (other, another), *_ = first.items()
        raise UsageError(
            f"{another.place}: the answer is a {other}, that of line {one.line} a {kind}; make a "
            "specialist of each kind"
        )
    if not first:
        raise UsageError(f"{examples[0].file}: no example has an answer")
    (kind,) = first
    is_short = len({example.answer for example in examples if isinstance(example.answer, float)})
    if kind is AnswerKind.NUMBER and is_short < _FEWEST_ON_A_SCALE:
        raise UsageError(
            f"{examples[0].file}: the answers are fewer than three numbers; write labels as strings"
        )
    return kind


def same_prompt(prompt: str) -> str:
    """Return what is left of a prompt without case and spaces: equal for what counts as one."""
    return " ".join(prompt.lower().split())
