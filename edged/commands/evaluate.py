"""``edged eval``: measure a specialist or the plain model, in the engine as the daemon runs it.

Every answer is compared as a whole, whatever its kind; one that is written, by what it says.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.commands.bundle_teacher import BundleTeacher
from edged.commands.features import FeatureReader
from edged.commands.writer_figures import written_figures
from edged.errors import ExitCode, UsageError
from edged.specialists.examples import MAX_LABELS, Answer, AnswerKind, Example, read_examples
from edged.specialists.judging import Judged, judge, label_counts
from edged.specialists.measures import calibration_error, interval
from edged.specialists.writer import WRITER

_FEWEST_OPTIONS = 2
_TYPES = {
    AnswerKind.LABEL: str,
    AnswerKind.LABELS: tuple,
    AnswerKind.NUMBER: float,
    AnswerKind.FIELDS: dict,
}


@dataclass(frozen=True, slots=True)
class Answered:
    """One example, and what was said of it."""

    answer: Answer
    """The right one."""
    is_right: bool
    """Of a number: within the tolerance."""
    is_exact: bool
    confidence: float
    is_unsure: bool = False
    is_none: bool = False
    """Whether it was said to be none of the labels, or is like no example."""
    judged: Judged | None = None


class AskedSpecialist:
    """A specialist on its base.

    Raises:
        BundleError: the bundle or the specialist is wrong.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self._reader = FeatureReader(model)
        self._specialist = self._reader.specialist(folder)

    def check(self, examples: Sequence[Example]) -> None:
        """Refuse answers of another kind than the specialist's.

        Raises:
            UsageError: there is one; it names the line.
        """
        kind = self._specialist.description.kind
        for example in examples:
            if not isinstance(example.answer, _TYPES[kind] | None):
                raise UsageError(f"{example.place}: answer: this specialist answers with {kind}")

    def answer(self, example: Example) -> Answered:
        """Decide on an example; null is right if it is none of the labels, or like no example."""
        judged = judge(self._specialist, example, self._reader.one(example.prompt))
        decision, said = judged.decision, self._specialist.description
        is_none, is_right, is_exact = False, judged.is_right, judged.is_right
        if said.kind is AnswerKind.LABEL:
            is_none = not decision.text or decision.familiarity < said.unfamiliar_below
            is_right = is_none if example.answer is None else is_right
        if said.kind is AnswerKind.NUMBER:
            is_exact = float(decision.text) == example.answer
        return Answered(
            *(example.answer, is_right, is_exact, decision.confidence, decision.is_unsure),
            is_none,
            judged,
        )


class AskedModel:
    """The plain model, which chooses from the file's own answers by likelihood; it is never unsure.

    Raises:
        BundleError: the bundle is wrong.
        UsageError: there are too few or too many answers.
    """

    def __init__(self, model: Path, examples: Sequence[Example]) -> None:
        texts = {_text(one.answer) for one in examples if one.answer is not None}
        if not _FEWEST_OPTIONS <= len(texts) <= MAX_LABELS:
            raise UsageError(
                f"--examples: {len(texts)} different answers to choose from; {_FEWEST_OPTIONS} to "
                f"{MAX_LABELS} can be compared without --specialist"
            )
        self._options = sorted(texts)
        self._teacher = BundleTeacher(model, self._options)

    def answer(self, example: Example) -> Answered:
        """Choose one of the answers; null is none of them, so never right."""
        probabilities = self._teacher.ask(example)
        best = int(probabilities.argmax())
        is_right = example.answer is not None and self._options[best] == _text(example.answer)
        return Answered(example.answer, is_right, is_right, float(probabilities[best]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument(
        "--specialist",
        type=Path,
        metavar="DIR",
        help="default: the model alone, which chooses from the file's answers by likelihood",
    )
    parser.add_argument("--examples", type=Path, required=True, metavar="FILE", help="JSONL or CSV")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Ask about each example, and print how often the answer was right.

    Raises:
        UsageError: The examples are wrong, or of another kind than the specialist's.
        BundleError: The bundle or the specialist is wrong.
    """
    if arguments.specialist is not None and (arguments.specialist / WRITER).exists():
        figures = written_figures(arguments.specialist, arguments.model, arguments.examples)
    else:
        figures = _decided_figures(arguments)
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<20}{value}" for name, value in figures.items()))
    return ExitCode.OK


def _decided_figures(arguments: argparse.Namespace) -> dict[str, Any]:
    examples = read_examples(arguments.examples)
    asked: AskedSpecialist | AskedModel
    if arguments.specialist is None:
        asked = AskedModel(arguments.model, examples)
    else:
        asked = AskedSpecialist(arguments.specialist, arguments.model)
        asked.check(examples)
    answered, taken_s = [], []
    for example in examples:
        started_s = time.perf_counter()
        answered.append(asked.answer(example))
        taken_s.append(time.perf_counter() - started_s)
    return figures_of(answered, taken_s)


def figures_of(answered: Sequence[Answered], taken_s: Sequence[float]) -> dict[str, Any]:
    """Return what ``edged eval`` prints; null is what does not apply to this kind of answers."""
    num_right = sum(one.is_right for one in answered)
    low, high = interval(num_right, len(answered))
    is_written = any(not isinstance(one.answer, str | None) for one in answered)
    judged = [one.judged for one in answered if one.judged is not None]
    # Of what is none of the labels a probability among them says nothing.
    labelled = [one for one in answered if one.answer is not None]
    others = [one for one in answered if one.answer is None]
    confidences = [one.confidence for one in labelled]
    is_right = [one.is_right for one in labelled]
    figures: dict[str, Any] = {
        "accuracy": round(num_right / len(answered), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "exact": _share([one.is_exact for one in answered]) if is_written else None,
        # Heads and options have no way to write anything else.
        "valid_json": 1.0 if is_written else None,
        "ece": round(calibration_error(confidences, is_right), 4) if labelled else None,
        "unsure": _share([one.is_unsure for one in answered]),
        "p50_ms": round(1000 * statistics.median(taken_s), 2),
        "n": len(answered),
        "in_scope_kept": _share([not one.is_none for one in labelled]),
        "out_of_scope_found": _share([one.is_none for one in others]),
        "answered_right": _share([one.is_right for one in answered if not one.is_unsure]),
    }
    errors = [
        abs(float(one.decision.text) - one.example.answer)
        for one in judged
        if isinstance(one.example.answer, float)
    ]
    if errors:
        figures["error"] = round(statistics.fmean(errors), 6)
    if counts := label_counts(judged):
        figures["f1"] = {one.label: round(one.f1, 4) for one in counts}
    return figures


def _share(values: Sequence[bool]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def _text(answer: Answer) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
