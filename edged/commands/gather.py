"""Where the examples of a specialist come from: a file, corrections, and a teacher's answers."""

import argparse
import contextlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edged.commands.broker_options import node_of_url
from edged.commands.bundle_teacher import BundleTeacher
from edged.commands.node_teacher import NodeTeacher
from edged.errors import UsageError
from edged.specialists.corrections import corrected, read_corrections
from edged.specialists.examples import (
    MAX_LABEL_CHARACTERS,
    MAX_LABELS,
    AnswerKind,
    Example,
    kind_of,
    read_examples,
    same_prompt,
)
from edged.specialists.teacher import Opinion, Teacher, ask_all, taught_by, to_look_at

NUM_TO_LOOK_AT = 20
_NUM_SHOWN = 5
_NUM_GUESSES = 3
_FEWEST_LABELS = 2
_PROMPT_WIDTH = 60


def gather(
    arguments: argparse.Namespace, specialist: str, note: Callable[[float], None]
) -> tuple[list[Example], list[Example]]:
    """Return the examples with an answer, and those that a teacher answered.

    Args:
        arguments: of ``add_source_options``.
        specialist: its name, as corrections have it.
        note: reports the share of the prompts that the teacher was asked about.

    Raises:
        UsageError: an option or a line is wrong, or the teacher refuses a prompt.
        UnavailableError: the teacher cannot be asked now.
        BundleError: the teacher's bundle is wrong.
    """
    has_teacher = arguments.teacher is not None
    if not has_teacher and (arguments.labels is not None or arguments.review is not None):
        raise UsageError("--labels and --review: only with --teacher")
    # It may hold what a person corrected since.
    if arguments.review is not None and arguments.review.exists():
        raise UsageError(f"--review: {arguments.review} is there already; choose another file")
    examples = read_examples(arguments.examples, has_teacher=has_teacher)
    if arguments.corrections is not None:
        corrections = read_corrections(arguments.corrections, specialist)
        examples, contradictions = corrected(examples, corrections)
        _say(f"{arguments.corrections}: {len(corrections)} corrections of {specialist}")
        for contradiction in contradictions:
            _say(f"{arguments.examples}: {contradiction}")
    answered = [example for example in examples if not example.is_open]
    if not has_teacher:
        return answered, []
    is_answered = {same_prompt(example.prompt) for example in answered}
    asked = {same_prompt(example.prompt): example for example in examples if example.is_open}
    left = [example for key, example in asked.items() if key not in is_answered]
    return answered, _distilled(arguments, answered, left, note)


def _distilled(
    arguments: argparse.Namespace,
    answered: Sequence[Example],
    asked: Sequence[Example],
    note: Callable[[float], None],
) -> list[Example]:
    if not asked:
        raise UsageError(f"--teacher: each prompt of {arguments.examples} has an answer already")
    labels = _labels(arguments.labels, answered)
    with _teacher(arguments, labels) as teacher:
        opinions, unanswered = ask_all(teacher, asked, note)
    _say(f"{arguments.teacher}: {len(opinions)} prompts answered")
    for example in unanswered:
        _say(f"{example.place}: no answer; the prompt is left out")
    doubtful = to_look_at(opinions, NUM_TO_LOOK_AT)
    _say("look at these first: the teacher was torn")
    for opinion in doubtful[:_NUM_SHOWN]:
        _say(f"  {_described(opinion, labels)}")
    if arguments.review is not None:
        _write_review(arguments.review, doubtful, labels)
    return taught_by(opinions, labels)


@contextlib.contextmanager
def _teacher(arguments: argparse.Namespace, labels: Sequence[str]) -> Iterator[Teacher]:
    if arguments.teacher.startswith(("mqtt://", "mqtts://")):
        target = node_of_url(arguments.teacher, arguments, "--teacher")
        with NodeTeacher(target, labels) as node:
            yield node
    else:
        yield BundleTeacher(Path(arguments.teacher), labels)


def _labels(option: str | None, answered: Sequence[Example]) -> list[str]:
    """Return what the teacher chooses from.

    Raises:
        UsageError: there are too few or too many, or an answer is none of them.
    """
    if any(example.answer is not None for example in answered):
        kind = kind_of(answered)
        if kind is not AnswerKind.LABEL:
            raise UsageError(f"--teacher: chooses one label, and the answers are of kind {kind}")
    known = {str(example.answer): example for example in answered if example.answer is not None}
    labels = sorted(known if option is None else _named_labels(option))
    if not _FEWEST_LABELS <= len(labels) <= MAX_LABELS:
        raise UsageError(
            f"--teacher: {len(labels)} labels to choose from; name {_FEWEST_LABELS} to "
            f"{MAX_LABELS} with --labels, or give examples of them"
        )
    for label, example in known.items():
        if label not in labels:
            raise UsageError(f"{example.place}: answer: {label!r} is not one of --labels")
    return labels


def _named_labels(option: str) -> set[str]:
    path, separator = Path(option), ","
    if "," not in option and path.is_file():
        separator = "\n"
        try:
            with path.open(encoding="utf-8-sig") as file:
                option = file.read(MAX_LABELS * (MAX_LABEL_CHARACTERS + 1) + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--labels: {path}: cannot be read as UTF-8 text") from error
    labels = {label.strip() for label in option.split(separator)} - {""}
    longest = max(labels, key=len, default="")
    if len(longest) > MAX_LABEL_CHARACTERS:
        raise UsageError(
            f"--labels: one has {len(longest)} characters, at most {MAX_LABEL_CHARACTERS}"
        )
    return labels


def _described(opinion: Opinion, labels: Sequence[str]) -> str:
    prompt = textwrap.shorten(opinion.example.prompt, _PROMPT_WIDTH, placeholder=" …")
    guesses = opinion.best(labels, _NUM_GUESSES)
    shown = ", ".join(f"{label} {probability:.0%}" for label, probability in guesses)
    return f"{opinion.example.place}: {prompt}: {shown}"


def _write_review(path: Path, doubtful: Sequence[Opinion], labels: Sequence[str]) -> None:
    rows = (
        {"prompt": opinion.example.prompt, "answer": opinion.best(labels, 1)[0][0]}
        for opinion in doubtful
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--review: {path}: cannot be written: {error.strerror}") from error
    _say(f"{path}: {len(doubtful)} prompts to correct; give it back as --corrections")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
