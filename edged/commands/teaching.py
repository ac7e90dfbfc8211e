"""The work of ``edged teach``: read, measure, teach, report, write."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edged.bundle.disk import make_folders
from edged.commands.features import FeatureReader
from edged.commands.gather import gather
from edged.errors import ExitCode, UsageError
from edged.specialists.checks import Remark, check, distinct, leaks, remarks
from edged.specialists.examples import AnswerKind, Example, kind_of, read_examples
from edged.specialists.features import Floats
from edged.specialists.folder import ARRAYS, Result, Specialist, write_specialist
from edged.specialists.judging import Measured, judge, measured, result_of
from edged.specialists.lesson import Lesson, Note, default_tolerance, label_names, taught
from edged.specialists.mistakes import confusions
from edged.specialists.names import taught_name
from edged.specialists.report import Findings, report, shortened, summary
from edged.specialists.writer import WRITER

REPORT = "report.html"
# Shares of the time, about: to read the features, and to measure.
_READING, _MEASURING = 0.55, 0.40
_SHOWN_REMARKS, _SHOWN_CONFUSIONS = 20, 5
# Examples by which a specialist is measured, where a teacher answered many more.
_ENOUGH_ANSWERED = 20


@dataclass(frozen=True, slots=True)
class Material:
    """What was read of the examples."""

    kind: AnswerKind
    examples: Sequence[Example]
    tests: Sequence[Example]
    remarks: Sequence[Remark]
    """Of the examples; their lines are those of the file."""
    leaks: Sequence[Remark]
    """Of the tests, likewise."""


class Progress:
    """A line on the terminal: what is done, and how long it will still take."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started_s = time.monotonic()

    def part(self, start: float, share: float) -> "_Part":
        """Return what reports a part of the work that begins at ``start``."""
        return _Part(self, start, share)

    def show(self, share: float) -> None:
        """Show the share that is done, 0 to 1."""
        if sys.stderr.isatty():
            left_s = (time.monotonic() - self._started_s) * (1 / max(share, 1e-3) - 1)
            text = f"\r{self._title}: {share:4.0%}, about {left_s:.0f} s left   "
            print(text, end="" if share < 1 else "\n", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class _Part:
    progress: Progress
    start: float
    share: float

    def __call__(self, done: float) -> None:
        self.progress.show(self.start + self.share * done)


def run(arguments: argparse.Namespace) -> int:
    """Do what ``edged teach`` does.

    Raises:
        UsageError: An option or the examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong, or gives no hidden states.
    """
    output: Path = arguments.output
    name = _name(arguments)
    asking = Progress("asking the teacher")
    material = _material(arguments, *gather(arguments, name, asking.show))
    _print_remarks(arguments, material)
    reader = FeatureReader(arguments.model)
    progress = Progress("teaching")
    lesson = _lesson(arguments, name, material, reader, progress.part(0, _READING))
    print(f"{arguments.examples}: {len(lesson.examples)} examples, {lesson.summary}")
    found = measured(lesson, progress.part(_READING, _MEASURING))
    rest = _READING + _MEASURING
    specialist = taught(lesson, progress.part(rest, 1 - rest))
    result = result_of(found.judged, lesson.precision)
    if material.tests:
        result = _tested(arguments, specialist, material.tests, reader)
    _print_confusions(lesson, found)
    print(summary(result))
    findings = Findings(
        *(str(arguments.examples), arguments.test and str(arguments.test), lesson, found, result),
        [*material.remarks, *material.leaks],
    )
    specialist = described(specialist, result, arguments.escalate)
    return _write(output, arguments.floor, specialist, report(findings))


def _write(output: Path, floor: float, specialist: Specialist, html: str) -> int:
    result = specialist.description.result
    try:
        make_folders(output)
        (output / REPORT).write_text(html, encoding="utf-8")
        if result.accuracy < floor:
            raise UsageError(
                f"{result.accuracy:.1%} right is below --floor {floor:.1%}: no specialist is "
                f"written; {output / REPORT} shows what to look at"
            )
        write_specialist(output, specialist)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror})") from error
    size_bytes = (output / ARRAYS).stat().st_size
    print(f"{output}: written, {size_bytes / 1e6:.1f} MB; {output / REPORT} shows more")
    return ExitCode.OK


def described(specialist: Specialist, result: Result, escalate: str | None) -> Specialist:
    """Return the specialist with what was measured of it, and what it passes prompts on to."""
    description = replace(specialist.description, result=result, escalate=escalate)
    return replace(specialist, description=description)


def _name(arguments: argparse.Namespace) -> str:
    # Before minutes of work, not after them.
    for option, least, most in (("precision", 0, 1), ("floor", 0, 1), ("tolerance", 0, 1e6)):
        value = getattr(arguments, option)
        if value is not None and not least <= value <= most:
            raise UsageError(f"--{option}: {value:g} is not from {least} to {most:g}")
    name = taught_name(arguments.output, arguments.name, arguments.escalate)
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UsageError(f"--output: {arguments.output} is no folder")
    if (arguments.output / WRITER).exists():  # a node would go on reading that
        raise UsageError(
            f"--output: {arguments.output} holds a specialist that writes; choose another folder"
        )
    return name


def _material(
    arguments: argparse.Namespace, answered: Sequence[Example], distilled: Sequence[Example]
) -> Material:
    # What people answered is a measure; what a teacher thinks is one only for want of it. What they
    # corrected alone would be a harsh one: it is what was hard.
    own = [one for one in answered if one.file == str(arguments.examples)]
    if len(own) >= _ENOUGH_ANSWERED:
        distilled = [replace(one, is_measure=False) for one in distilled]
    elif distilled:
        print("measured by the teacher's answers: few lines have one of their own", file=sys.stderr)
    given = [*answered, *distilled]
    kind = kind_of(given)
    examples = distinct(given)
    check(kind, examples)
    if arguments.test is None:
        return Material(kind, examples, (), remarks(kind, answered), ())
    tests = read_examples(arguments.test)
    if (other := kind_of(tests)) is not kind:
        raise UsageError(f"{arguments.test}: its answers are {other}, those to learn from {kind}")
    found = leaks(given, tests)
    leaked = {line for one in found for line in one.lines}
    kept = [one for one in tests if one.line not in leaked]
    if not kept:
        raise UsageError(f"{arguments.test}: every prompt is taught as well; use other ones")
    return Material(kind, examples, kept, remarks(kind, answered), found)


def _lesson(
    arguments: argparse.Namespace, name: str, material: Material, reader: FeatureReader, note: Note
) -> Lesson:
    names = label_names(material.kind, material.examples)
    total = len(material.examples) + len(names)
    rows = _features(material.examples, reader, lambda count: note(count / total))
    said = {}
    for name_of_label in names:
        said[name_of_label] = reader.one(name_of_label)
        note((len(rows) + len(said)) / total)
    tolerance = arguments.tolerance
    return Lesson(
        name=name,
        base=reader.base,
        layout=reader.layout,
        kind=material.kind,
        precision=arguments.precision,
        tolerance=default_tolerance(material.examples) if tolerance is None else tolerance,
        examples=material.examples,
        features=rows,
        names=said,
    )


def _features(
    examples: Sequence[Example], reader: FeatureReader, note: Callable[[int], None]
) -> Floats:
    # A teacher's opinion of one prompt is several examples.
    read: dict[str, Floats] = {}
    for count, example in enumerate(examples, 1):
        if example.prompt not in read:
            try:
                read[example.prompt] = reader.one(example.prompt)
            except UsageError as error:
                raise UsageError(f"{example.place}: {error}") from error
        note(count)
    return np.stack([read[example.prompt] for example in examples])


def _tested(
    arguments: argparse.Namespace,
    specialist: Specialist,
    tests: Sequence[Example],
    reader: FeatureReader,
) -> Result:
    rows = _features(tests, reader, lambda _: None)
    found = [judge(specialist, one, row) for one, row in zip(tests, rows, strict=True)]
    return result_of(found, arguments.precision)


def _print_remarks(arguments: argparse.Namespace, material: Material) -> None:
    for path, found in ((arguments.examples, material.remarks), (arguments.test, material.leaks)):
        for remark in found[:_SHOWN_REMARKS]:
            print(f"{path}: {remark}", file=sys.stderr)
        if len(found) > _SHOWN_REMARKS:
            print(f"{path}: {len(found) - _SHOWN_REMARKS} more in the report", file=sys.stderr)


def _print_confusions(lesson: Lesson, found: Measured) -> None:
    for confusion in confusions(lesson.kind, found.judged)[:_SHOWN_CONFUSIONS]:
        example = confusion.judged[0].example
        times = f"{confusion.count} times " if confusion.count > 1 else ""
        said = f"{times}{confusion.said!r} for {confusion.right!r}"
        print(f"{example.place}: {said}: {shortened(example.prompt)!r}")
