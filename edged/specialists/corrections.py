"""Corrections: what a person said of answers that were wrong, used beside the examples.

A node keeps them as JSONL, ``{"prompt": …, "answer": …, "specialist": …, …}``; further members say
what the specialist answered, and when.
"""

import errno
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edged.bundle.plain_file import read_plain
from edged.errors import UsageError
from edged.specialists.checks import Remark
from edged.specialists.dialogues import MAX_DIALOGUES, Dialogue, dialogue_of
from edged.specialists.examples import (
    MAX_EXAMPLES,
    Example,
    example_of,
    read_rows,
    rows_of,
    same_prompt,
)

FILE_NAME = "corrections.jsonl"
# Of all specialists: a node keeps fewer, in 4 MiB.
_MOST_LINES = 100_000
MAX_NODE_BYTES = 4 << 20
"""Of the file that a node keeps."""
_USED = ("prompt", "messages", "answer")
_OF_DIALOGUES = (*_USED, "inputs")


def read_corrections(path: Path, specialist: str) -> list[Example]:
    """Read the corrections of one specialist, and those that name none, from a file or its folder.

    Raises:
        UsageError: the file cannot be read, or a line is wrong.
    """
    path, rows = _rows(path, specialist)
    corrections = []
    for line, row in rows:
        used = {key: row[key] for key in _USED if key in row}
        found = example_of(path, line, used)
        corrections.append(replace(found, group=f"correction {line}"))
    _check_count(path, {same_prompt(one.prompt) for one in corrections}, MAX_EXAMPLES)
    return corrections


def read_corrected_dialogues(path: Path, specialist: str) -> list[Dialogue]:
    """Read the corrections of one specialist that writes, and those that name none.

    Raises:
        UsageError: the file cannot be read, or a line is wrong.
    """
    path, rows = _rows(path, specialist)
    corrections = []
    for line, row in rows:
        used = {key: row[key] for key in _OF_DIALOGUES if key in row}
        if "messages" in used:  # the prompt is the same without its turns
            used.pop("prompt", None)
        try:
            found = dialogue_of(line, used)
        except ValueError as error:
            raise UsageError(f"{path}:{line}: {error}") from error
        corrections.append(replace(found, group=f"correction {line}", file=str(path)))
    _check_count(path, {_asked(one) for one in corrections}, MAX_DIALOGUES)
    return corrections


def _check_count(path: Path, prompts: Collection[str], most: int) -> None:
    # The last correction of each counts.
    if len(prompts) > most:
        raise UsageError(f"{path}: corrects {len(prompts)} prompts; {most} are allowed")


def _rows(path: Path, specialist: str) -> tuple[Path, list[tuple[int, dict[str, Any]]]]:
    if path.is_dir():
        path /= FILE_NAME
        found = rows_of(path, _node_text(path), _MOST_LINES)
    else:
        found = read_rows(path, _MOST_LINES)
    rows = []
    for line, row in found:
        name = row.get("specialist")
        if not (name is None or isinstance(name, str)):
            raise UsageError(f"{path}:{line}: specialist: must be a name")
        if name in {None, specialist}:
            rows.append((line, row))
    return path, rows


def _node_text(path: Path) -> str:
    """Return the whole lines of a node's file; a power cut may have left half a line.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        if not path.exists():
            return ""  # nothing was corrected so far
        data = read_plain(path, MAX_NODE_BYTES)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            print(f"{path}: the last line is not whole; it is left out", file=sys.stderr)
        return whole.decode()
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            problem = f"more than {MAX_NODE_BYTES >> 20} MiB: no node wrote it"
            raise UsageError(f"{path}: {problem}") from error
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def corrected(
    examples: Sequence[Example], corrections: Sequence[Example]
) -> tuple[list[Example], list[Remark]]:
    """Return the examples with the corrections, and where these contradict.

    Of one prompt the last correction counts, instead of any example of it.
    """
    latest = {same_prompt(one.prompt): one for one in corrections}
    kept, remarks = [], []
    for example in examples:
        key = same_prompt(example.prompt)
        if key not in latest:
            kept.append(example)
            continue
        correction = latest[key]
        if not example.is_open and example.answer != correction.answer:
            was, now = (json.dumps(one.answer, ensure_ascii=False) for one in (example, correction))
            text = f"{was} is corrected to {now} by {correction.place}"
            remarks.append(Remark((example.line,), text))
        # The group still says which other examples are like it.
        latest[key] = replace(correction, group=example.group)
    return [*kept, *latest.values()], remarks


def with_corrected(
    dialogues: Sequence[Dialogue], corrections: Sequence[Dialogue]
) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return the examples, corrected where one is of the same prompt and inputs, and the others.

    Of one prompt the last correction counts.
    """
    latest = {_asked(one): one for one in corrections}
    groups: dict[str, str] = {}
    kept = []
    for one in dialogues:
        if (key := _asked(one)) in latest:
            # The group still says which other examples are like it.
            groups.setdefault(key, one.group)
        else:
            kept.append(one)
    known = [replace(latest[key], group=group) for key, group in groups.items()]
    return [*kept, *known], [one for key, one in latest.items() if key not in groups]


def _asked(dialogue: Dialogue) -> str:
    """Return what identifies a prompt: what was said before the last answer, and the inputs."""
    said = [same_prompt(turn.said) for turn in dialogue.turns]
    answers = [turn.answer for turn in dialogue.turns[:-1]]
    return json.dumps([said, answers, dialogue.inputs], sort_keys=True)
