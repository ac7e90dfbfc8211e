"""Where the examples of a specialist come from: a file, corrections, and a teacher's answers."""

import argparse
import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edged.commands.broker_options import node_of_url
from edged.commands.bundle_teacher import BundleTeacher
from edged.commands.kept_answers import KeptAnswers
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
# Lines with an answer that the teacher is asked about as well: a poor one does harm.
_NUM_CHECKED = 50
_NUM_GUESSES = 3
_FEWEST_LABELS = 2
_PROMPT_WIDTH = 60


def gather(
    arguments: argparse.Namespace, specialist: str, note: Callable[[float], None]
) -> tuple[list[Example], list[Example]]:
    """Return the examples with an answer, and those that a teacher answered.

    Args:
        arguments: of ``add_source_options``, and ``output``.
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
    if arguments.review is not None:
        check_review(arguments.review)
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
    known = {same_prompt(example.prompt) for example in answered}
    asked: dict[str, Example] = {}
    for example in examples:
        if example.is_open and same_prompt(example.prompt) not in known:
            asked.setdefault(same_prompt(example.prompt), example)
    return answered, _distilled(arguments, answered, list(asked.values()), note)


def check_review(path: Path) -> None:
    """Refuse what cannot be written, before the teacher is asked for minutes.

    Raises:
        UsageError: it is there already, or its folder is not.
    """
    if not path.parent.is_dir():
        raise UsageError(f"--review: {path.parent} is no folder")
    # A person may have corrected it since.
    if os.path.lexists(path):
        raise UsageError(f"--review: {path} is there already; choose another file")


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
        # Not its URL, which may contain a password.
        name, output = arguments.teacher.rpartition("@")[2], arguments.output.resolve()
        # Not in the folder: a signature is one of all that is in it.
        path = output.with_name(f"{output.name}.asked.jsonl")
        kept = KeptAnswers(teacher, name, labels, path)
        if kept.num_known:
            _say(f"{path}: goes on from {kept.num_known} answers of a run that was ended")
        opinions, unanswered = ask_all(kept, asked, note)
        own = [one for one in answered if one.file == str(arguments.examples) and one.answer]
        _check_teacher(kept, own[:_NUM_CHECKED], labels)
    kept.forget()
    _say(f"{arguments.examples}: the teacher answered {len(opinions)} of {len(asked)} prompts")
    for example in unanswered:
        _say(f"{example.place}: no answer; the prompt is left out")
    doubtful = to_look_at(opinions, NUM_TO_LOOK_AT)
    if doubtful:
        _say("look at these first: the teacher was torn")
    for opinion in doubtful[:_NUM_SHOWN]:
        _say(f"  {_described(opinion, labels)}")
    if arguments.review is not None:
        _write_review(arguments.review, doubtful, labels)
    return taught_by(opinions, labels)


def _check_teacher(teacher: Teacher, known: Sequence[Example], labels: Sequence[str]) -> None:
    """Tell how often the teacher is right where a person answered."""
    if not known:
        return
    opinions, _ = ask_all(teacher, known, lambda _: None)
    num_right = sum(one.best(labels, 1)[0][0] == one.example.answer for one in opinions)
    advice = "; teach without it, too, and compare" if 2 * num_right < len(known) else ""
    _say(f"the teacher is right in {num_right} of {len(known)} lines with an answer{advice}")


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
