"""Corrections: what a person said of answers that were wrong, used beside the examples.

A node keeps them as JSONL, ``{"prompt": …, "answer": …, "specialist": …, …}``; further members say
what the specialist answered, and when.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edged.errors import UsageError
from edged.specialists.checks import Remark
from edged.specialists.examples import Example, example_of, read_rows, same_prompt

FILE_NAME = "corrections.jsonl"
_USED = ("prompt", "messages", "answer")


def read_corrections(path: Path, specialist: str) -> list[Example]:
    """Read the corrections of one specialist, and those that name none, from a file or its folder.

    Raises:
        UsageError: the file cannot be read, or a line is wrong.
    """
    if path.is_dir():
        path /= FILE_NAME
        if not path.exists() or not path.stat().st_size:
            return []  # nothing was corrected so far
    corrections = []
    for line, row in read_rows(path):
        name = row.get("specialist")
        if not (name is None or isinstance(name, str)):
            raise UsageError(f"{path}:{line}: specialist: must be a name")
        if name in {None, specialist}:
            used = {key: row[key] for key in _USED if key in row}
            found = example_of(path, line, used)
            corrections.append(replace(found, group=f"correction {line}"))
    return corrections


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
