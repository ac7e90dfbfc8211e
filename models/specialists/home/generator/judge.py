"""``python -m models.specialists.home.generator.judge EXPECTED ANSWERS``: how many are right.

Both are JSON lines in the same order: examples, and what was answered to each (``data.json`` of
the reply, or null).
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.specialists.measures import interval
from models.specialists.home.generator.effects import same_actions


@dataclass(frozen=True, slots=True)
class Judged:
    """One example, and whether it was answered rightly."""

    group: str
    """What was asked for."""
    expected: str
    """``actions``, ``none`` or ``ambiguous``."""
    given: str
    is_right: bool


def judge(examples: Sequence[Mapping[str, Any]], answers: Sequence[Any]) -> list[Judged]:
    """Compare answers with the right ones."""
    return [
        Judged(
            example["group"].split(":")[0],
            _kind(example["answer"]),
            _kind(given),
            isinstance(given, dict) and same_actions(given, example["answer"]),
        )
        for example, given in zip(examples, answers, strict=True)
    ]


def _kind(answer: object) -> str:
    """Return what an answer is: actions, a reason why there are none, or no answer at all."""
    if not isinstance(answer, dict) or not isinstance(answer.get("actions"), list):
        return "invalid"
    return "actions" if answer["actions"] else str(answer.get("reason"))


def report(judged: Sequence[Judged]) -> Iterator[str]:
    """Yield lines for a person."""
    yield _line("right", [one.is_right for one in judged])
    commands = [one for one in judged if one.expected == "actions"]
    yield _line("commands right", [one.is_right for one in commands])
    for reason in ("none", "ambiguous"):
        found = [one.given == reason for one in judged if one.expected == reason]
        said = [one.given == reason for one in judged if one.expected != reason]
        yield _line(f"{reason} found", found)
        yield _line(f"{reason} wrongly said", said)
    done = [one.given == "actions" for one in judged if one.expected != "actions"]
    yield _line("done where nothing may be done", done)
    groups = sorted({one.group for one in judged})
    shares = {g: [one.is_right for one in judged if one.group == g] for g in groups}
    for group in sorted(groups, key=lambda g: sum(shares[g]) / len(shares[g]))[:20]:
        yield _line(f"  {group}", shares[group])


def _line(name: str, truths: Sequence[bool]) -> str:
    """Say a share with its 95 % interval."""
    low, high = interval(sum(truths), len(truths))
    share = sum(truths) / max(len(truths), 1)
    return f"{name}: {share:.1%} ({low:.1%} to {high:.1%}) of {len(truths)}"


def main() -> None:
    """Print the report of two files."""
    parser = argparse.ArgumentParser(prog="python -m models.specialists.home.generator.judge")
    parser.add_argument("expected", type=Path)
    parser.add_argument("answers", type=Path)
    given = parser.parse_args()
    read = [
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in (given.expected, given.answers)
    ]
    for line in report(judge(*read)):
        print(line)


if __name__ == "__main__":
    main()
