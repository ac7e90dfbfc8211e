"""The work of ``edged teach``: read, teach, measure, write."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edged.bundle.folder import open_bundle
from edged.commands.features import FeatureReader
from edged.errors import ExitCode, UsageError
from edged.specialists.examples import AnswerKind, Example, kind_of, read_examples, remarks
from edged.specialists.folder import BaseModel, Result, write_specialist
from edged.specialists.judging import held_out_parts, judged_parts, result_of
from edged.specialists.lesson import Lesson, label_names, taught
from edged.specialists.names import check_names


class Progress:
    """A line on the terminal: what is done, and how long it still takes."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._started_s = time.monotonic()

    def __call__(self, share: float) -> None:
        """Show a share, 0 to 1."""
        if sys.stderr.isatty():
            left_s = (time.monotonic() - self._started_s) * (1 - share) / max(share, 1e-6)
            text = f"\r{self._title}: {share:4.0%}, {left_s:.0f} s left   "
            print(text, end="" if share < 1 else "\n", file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace) -> int:
    """Do what ``edged teach`` does.

    Raises:
        UsageError: The examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong, or gives no hidden states.
    """
    path = arguments.examples
    try:
        check_names(arguments.name or arguments.output.name, arguments.escalate)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    examples = read_examples(path)
    kind = kind_of(examples)
    for remark in remarks(examples):
        print(f"{path}: {remark}", file=sys.stderr)
    lesson = _lesson(arguments, kind, examples)
    parts = held_out_parts(lesson)
    judged = list(judged_parts(lesson, parts, 1.0, Progress("measuring")))
    flat = [one for part in judged for one in part]
    result = result_of(flat, lesson.precision)
    print(_summary(result))
    if result.accuracy < arguments.floor:
        raise UsageError(f"{result.accuracy:.1%} is below --floor {arguments.floor:.1%}")
    specialist = taught(lesson, Progress("teaching"))
    description = replace(
        specialist.description, result=result, escalate=arguments.escalate
    )
    write_specialist(arguments.output, replace(specialist, description=description))
    print(f"{arguments.output}: written")
    return ExitCode.OK


def _lesson(arguments: argparse.Namespace, kind: AnswerKind, examples: Sequence[Example]) -> Lesson:
    reader = FeatureReader(arguments.model)
    names = label_names(kind, examples)
    total = len(examples) + len(names)
    progress = Progress("reading")
    rows = []
    for example in examples:
        try:
            rows.append(reader.one(example.prompt))
        except UsageError as error:
            raise UsageError(f"{arguments.examples}:{example.line}: {error}") from error
        progress(len(rows) / total)
    said = (
        reader.read(names, lambda share: progress((len(rows) + share * len(names)) / total))
        if names
        else rows
    )
    numbers = [one.answer for one in examples if isinstance(one.answer, float)]
    tolerance = arguments.tolerance
    if tolerance is None:
        tolerance = (max(numbers) - min(numbers)) / 10 if numbers else 0.0
    return Lesson(
        arguments.name or arguments.output.name,
        BaseModel.of(open_bundle(arguments.model, verify=False).manifest),
        reader.layout,
        kind,
        arguments.precision,
        tolerance,
        examples,
        np.stack(rows),
        dict(zip(names, said, strict=False)),
    )


def _summary(result: Result) -> str:
    text = (
        f"{result.accuracy:.1%} right ({result.low:.1%} to {result.high:.1%}), ECE {result.ece:.3f}"
    )
    if result.error is not None:
        text += f", mean error {result.error:.3g}"
    return f"{text}; answers {result.answered:.1%}, of these {result.answered_right:.1%} right"
