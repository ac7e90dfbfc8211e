"""What a person should know of examples before they are taught: refused, repaired or remarked.

Rule: every complaint names the lines.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edged.errors import UsageError
from edged.specialists.examples import (
    MAX_FIELDS,
    MAX_LABELS,
    Answer,
    AnswerKind,
    Example,
    same_prompt,
)

_FEWEST = 2
# Fewer examples of a label than this are remarked.
_FEW = 5
_FEWEST_FOR_FOLDS = 8
_MOST_LINES_NAMED = 5


@dataclass(frozen=True, slots=True)
class Remark:
    """Something about the examples that a person should look at."""

    lines: tuple[int, ...]
    text: str

    def __str__(self) -> str:
        named = ", ".join(map(str, self.lines[:_MOST_LINES_NAMED]))
        where = named + (", …" if len(self.lines) > _MOST_LINES_NAMED else "")
        return f"line{'s' if len(self.lines) > 1 else ''} {where}: {self.text}"


def remarks(kind: AnswerKind, examples: Sequence[Example]) -> list[Remark]:
    """Find repeated and contradicting examples, leaks between groups, and labels with few."""
    result = []
    for same in _by_prompt(examples):
        lines = tuple(example.line for example in same)
        answers = Counter(json.dumps(example.answer, ensure_ascii=False) for example in same)
        groups = sorted({example.group for example in same if not _is_own(example)})
        if len(answers) > 1:
            result.append(Remark(lines, f"one prompt, several answers: {', '.join(answers)}"))
        elif len(same) > 1:
            result.append(Remark(lines, "the same prompt and answer; the first one counts"))
        if len(groups) > 1:
            text = (
                f"one prompt in the groups {', '.join(map(repr, groups))}: they count as one group"
            )
            result.append(Remark(lines, text))
    for labels in _labels_by_decision(kind, examples).values():
        for name, few in labels.items():
            if len(few) < _FEW:
                text = f"{name} has only {len(few)} examples; 10 of each are a good start"
                result.append(Remark(tuple(example.line for example in few), text))
    return result


def leaks(examples: Sequence[Example], tests: Sequence[Example]) -> list[Remark]:
    """Find the lines of a test whose prompts are among the examples."""
    known = {same_prompt(example.prompt): example.line for example in examples}
    return [
        Remark((test.line,), f"its prompt is taught in line {known[key]}; it does not count")
        for test in tests
        if (key := same_prompt(test.prompt)) in known
    ]


def distinct(examples: Sequence[Example]) -> list[Example]:
    """Leave out repeated examples, and put those that share a prompt into one group.

    Else what is taught would be held out as well.
    """
    merged: dict[str, str] = {}

    def root(group: str) -> str:
        while group in merged:
            group = merged[group]
        return group

    kept: dict[tuple[str, str], Example] = {}
    for same in _by_prompt(examples):
        first = root(same[0].group)
        for example in same:
            if (other := root(example.group)) != first:
                merged[other] = first
            kept.setdefault((same_prompt(example.prompt), json.dumps(example.answer)), example)
    in_order = sorted(kept.values(), key=lambda example: example.line)
    return [replace(example, group=root(example.group)) for example in in_order]


def check(kind: AnswerKind, examples: Sequence[Example]) -> None:
    """Refuse examples from which nothing can be taught.

    Raises:
        UsageError: a label has too few examples, there are too few or too many labels, or an
            answer is on no scale; it names the line.
    """
    path = examples[0].file
    if sum(example.is_measure for example in examples) < _FEWEST_FOR_FOLDS:
        raise UsageError(f"{path}: give it {_FEWEST_FOR_FOLDS} examples with an answer at least")
    missing = [example for example in examples if example.answer is None]
    if kind is AnswerKind.NUMBER and missing:
        raise UsageError(f"{missing[0].place}: answer: null is on no scale")
    if len(names := _fields(examples)) > MAX_FIELDS:
        raise UsageError(f"{path}: {len(names)} fields; {MAX_FIELDS} are allowed")
    for subject, labels in _labels_by_decision(kind, examples).items():
        _check_labels(path, subject, labels)


def _check_labels(path: str, subject: str, labels: Mapping[str, Sequence[Example]]) -> None:
    if len(labels) > MAX_LABELS:
        raise UsageError(f"{path}: {len(labels)} labels; {MAX_LABELS} are allowed")
    if len(labels) < _FEWEST:
        raise UsageError(f"{path}: {subject} is always the same; there is nothing to decide")
    for name, few in labels.items():
        if len(few) < _FEWEST:
            raise UsageError(f"{few[0].place}: {name} has 1 example; give it {_FEWEST} at least")


def _by_prompt(examples: Iterable[Example]) -> list[list[Example]]:
    found: dict[str, list[Example]] = {}
    for example in examples:
        found.setdefault(same_prompt(example.prompt), []).append(example)
    return list(found.values())


def _is_own(example: Example) -> bool:
    return example.group == f"line {example.line}"


def _fields(examples: Iterable[Example]) -> list[str]:
    answers = (example.answer for example in examples if isinstance(example.answer, dict))
    return list(dict.fromkeys(name for answer in answers for name in answer))


def _labels_by_decision(
    kind: AnswerKind, examples: Sequence[Example]
) -> dict[str, dict[str, list[Example]]]:
    """Return for each decision the examples of its labels; both as they are named in messages."""
    fields = _fields(examples)
    every = sorted({one for example in examples for one in _several(example.answer)})
    found: dict[str, dict[str, list[Example]]] = {}
    for example in examples:
        for subject, label in _decisions(kind, example.answer, fields, every):
            found.setdefault(subject, {}).setdefault(label, []).append(example)
    return found


def _decisions(
    kind: AnswerKind, answer: Answer, fields: Sequence[str], labels: Sequence[str]
) -> Iterator[tuple[str, str]]:
    if kind is AnswerKind.FIELDS:
        given = answer if isinstance(answer, dict) else {}
        for name in fields:
            label = given.get(name)
            yield f"field {name!r}", f"{name}: {'null' if label is None else repr(label)}"
    elif kind is AnswerKind.LABELS:
        chosen = _several(answer)
        for label in labels:
            yield f"label {label!r}", f"{label!r}" if label in chosen else f"no {label!r}"
    elif kind is AnswerKind.LABEL:
        yield "the answer", "null" if answer is None else repr(answer)


def _several(answer: Answer) -> tuple[str, ...]:
    return answer if isinstance(answer, tuple) else ()
