"""Teach from each file of examples, and ask about the same tests."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edged.commands.features import FeatureReader
from edged.errors import UsageError
from edged.specialists.checks import check, distinct
from edged.specialists.examples import Example, kind_of, read_examples
from edged.specialists.features import Floats
from edged.specialists.judging import judge, result_of
from edged.specialists.lesson import Lesson, default_tolerance, label_names, taught

_TEST, _OTHERS = "-test.jsonl", "-out-of-scope.jsonl"
_PRECISION = 0.95

HEADING = ("taught from", "examples", "tests", "right", "ECE", "unsure", "kept", "others found")


@dataclass(frozen=True, slots=True)
class TestSet:
    """Files of one kind of decision."""

    name: str
    lessons: Sequence[Path]
    """Each is taught from by itself."""
    test: Path
    others: Path | None
    """Prompts that are none of the labels."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one specialist is worth; shares are from 0 to 1."""

    title: str
    num_examples: int
    num_tests: int
    right: float
    ece: float
    unsure: float
    kept: float
    """Of the tests: as familiar as an example."""
    others_found: float | None
    """Of the prompts that are none of the labels: not familiar."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text, as ``HEADING`` has it."""
        found = "" if self.others_found is None else f"{self.others_found:.1%}"
        numbers = (str(self.num_examples), str(self.num_tests), f"{self.right:.2%}")
        return (
            self.title,
            *numbers,
            f"{self.ece:.3f}",
            f"{self.unsure:.1%}",
            f"{self.kept:.1%}",
            found,
        )


def sets_in(folder: Path) -> list[TestSet]:
    """Return the sets in a folder.

    Raises:
        UsageError: There is none, or one has no file to teach from.
    """
    sets = []
    for test in sorted(folder.glob(f"*{_TEST}")):
        name = test.name.removesuffix(_TEST)
        others = folder / f"{name}{_OTHERS}"
        lessons = sorted({*folder.glob(f"{name}-*.jsonl")} - {test, others})
        if not lessons:
            raise UsageError(f"{folder}: no {name}-….jsonl to teach from beside {test.name}")
        sets.append(TestSet(name, lessons, test, others if others.is_file() else None))
    if not sets:
        raise UsageError(f"{folder}: no file is called …{_TEST}")
    return sets


def measure(one: TestSet, model: Path, note: Callable[[str], None]) -> Iterator[Row]:
    """Yield a row for each file that is taught from, and their mean if there are several.

    Raises:
        UsageError: The examples are wrong.
        BundleError: The bundle is wrong, or gives no hidden states.
    """
    reader = FeatureReader(model)
    tests = _read(one.test, reader, note)
    others = None if one.others is None else _read(one.others, reader, note)
    rows = []
    for path in one.lessons:
        lesson = _lesson(path, reader, note)
        rows.append(_row(path.stem, lesson, tests, others))
        yield rows[-1]
    if len(rows) > 1:
        yield _mean(f"{one.name}, mean", rows)


_Prompts = tuple[Sequence[Example], Floats]


def _read(path: Path, reader: FeatureReader, note: Callable[[str], None]) -> _Prompts:
    examples = read_examples(path)
    note(f"{path.name}: {len(examples)} prompts")
    return examples, reader.read([example.prompt for example in examples], lambda _: None)


def _lesson(path: Path, reader: FeatureReader, note: Callable[[str], None]) -> Lesson:
    given, features = _read(path, reader, note)
    kind = kind_of(given)
    examples = distinct(given)
    check(kind, examples)
    rows = {example.line: row for example, row in zip(given, features, strict=True)}
    return Lesson(
        name=path.stem,
        base=reader.base,
        layout=reader.layout,
        kind=kind,
        precision=_PRECISION,
        tolerance=default_tolerance(examples),
        examples=examples,
        features=np.stack([rows[example.line] for example in examples]),
        names={name: reader.one(name) for name in label_names(kind, examples)},
    )


def _row(title: str, lesson: Lesson, tests: _Prompts, others: _Prompts | None) -> Row:
    specialist = taught(lesson, lambda _: None)
    floor = specialist.description.unfamiliar_below
    judged = [judge(specialist, *pair) for pair in zip(*tests, strict=True)]
    result = result_of(judged, _PRECISION)
    kept = statistics.fmean(judgement.decision.familiarity >= floor for judgement in judged)
    found = None
    if others is not None:
        said = [judge(specialist, *pair).decision for pair in zip(*others, strict=True)]
        found = statistics.fmean(decision.familiarity < floor for decision in said)
    counts = (len(lesson.examples), result.num_examples)
    return Row(title, *counts, result.accuracy, result.ece, 1 - result.answered, kept, found)


def _mean(title: str, rows: Sequence[Row]) -> Row:
    found = [row.others_found for row in rows if row.others_found is not None]
    return Row(
        title,
        round(statistics.fmean(row.num_examples for row in rows)),
        rows[0].num_tests,
        statistics.fmean(row.right for row in rows),
        statistics.fmean(row.ece for row in rows),
        statistics.fmean(row.unsure for row in rows),
        statistics.fmean(row.kept for row in rows),
        statistics.fmean(found) if found else None,
    )
