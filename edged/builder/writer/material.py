"""What ``edged teach`` reads of a writer: examples, their shape, and those that are kept apart."""

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.errors import UsageError
from edged.specialists.compact.shapes import ShapeError
from edged.specialists.corrections import read_corrected_dialogues, with_corrected
from edged.specialists.dialogues import (
    Dialogue,
    as_lists,
    check_answers,
    parsed,
    read_dialogues,
)
from edged.specialists.names import taught_name
from edged.specialists.wording import TEXT, Wording, grounded, wording_of_schema, wording_of_tools

SEED = 0
_HELD_OUT, _MOST_HELD_OUT, _FEWEST = 0.1, 200, 20


@dataclass(frozen=True, slots=True)
class Material:
    """What was read: examples to learn from, and those that are kept apart."""

    taught: Sequence[Dialogue]
    held_out: Sequence[Dialogue]
    tests: Sequence[Dialogue]
    wording: Wording


def read_material(arguments: argparse.Namespace) -> Material:
    """Read and check the examples, and keep some apart.

    Raises:
        UsageError: A file is wrong; it names the line.
    """
    dialogues = read_dialogues(arguments.examples)
    tests = [] if arguments.test is None else read_dialogues(arguments.test)
    corrections = _corrections(arguments)
    both = [*dialogues, *tests, *corrections]
    wording = TEXT
    if arguments.tools is not None:
        both = as_lists(both)
        answers = [turn.answer for one in both for turn in one.turns]
        try:
            wording = wording_of_tools(_json(arguments.tools), answers)
        except ShapeError as error:
            raise UsageError(f"{arguments.tools}{error}") from error
    elif arguments.schema is not None:
        both = parsed(both)
        schema = _json(arguments.schema)
        if not isinstance(schema, dict):
            raise UsageError(f"{arguments.schema}: must be a JSON Schema of an object")
        wording, problem = wording_of_schema(schema)
        if problem is not None:
            print(f"{arguments.schema}{problem}: so answers are written as JSON, which is slower")
    elif any(not isinstance(turn.answer, str) for one in both for turn in one.turns):
        raise UsageError(
            f"{arguments.examples}: the answers are JSON; give their shape with --tools or --schema"
        )
    check_answers(both, wording)
    examples, rest = both[: len(dialogues)], both[len(dialogues) :]
    tests, corrections = rest[: len(tests)], rest[len(tests) :]
    examples, corrections = with_corrected(examples, corrections)
    taught, held_out = _apart(examples)
    # What people corrected is learned from: it was hard, and would be a harsh measure.
    taught += corrections
    return Material(taught, held_out, tests, grounded(wording, _heard(taught, wording)))


def _corrections(arguments: argparse.Namespace) -> list[Dialogue]:
    if arguments.corrections is None:
        return []
    name = taught_name(arguments.output, arguments.name, arguments.escalate)
    found = read_corrected_dialogues(arguments.corrections, name)
    print(f"{arguments.corrections}: {len(found)} corrections of {name}")
    return found


def _heard(dialogues: Sequence[Dialogue], wording: Wording) -> list[tuple[Any, str]]:
    """Return each answer with all that was said before it."""
    found = []
    for one in dialogues:
        said: list[str] = []
        for turn in one.turns:
            said.append(turn.said)
            found.append((turn.answer, "\n".join(said)))
            said.append(wording.write(turn.answer, one.inputs))
    return found


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error})") from error


def _apart(dialogues: Sequence[Dialogue]) -> tuple[list[Dialogue], list[Dialogue]]:
    """Return the examples to learn from, and groups that are kept apart; none of few examples."""
    if len(dialogues) < _FEWEST:
        return list(dialogues), []
    sizes = Counter(one.group for one in dialogues)
    groups = sorted(sizes)
    random.Random(SEED).shuffle(groups)  # noqa: S311 - reproducible
    most = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(dialogues))))
    chosen: set[str] = set()
    count = 0
    for group in groups:
        if count + sizes[group] <= most:
            chosen.add(group)
            count += sizes[group]
    taught = [one for one in dialogues if one.group not in chosen]
    return taught, [one for one in dialogues if one.group in chosen]
