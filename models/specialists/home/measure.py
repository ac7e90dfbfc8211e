"""``python -m models.specialists.home.measure --model BUNDLE``: how good the home specialist is.

Asks the engine, as a node does, about homes that were not learned from: of 5 and of 30 devices with
forms and names that are held out, and sentences by hand, which no rule made. An answer is right if
it does the same.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from edged.commands.writer_figures import AskedWriter
from edged.protocol.request import ChatMessage
from edged.specialists.compact.shapes import AnswerError
from edged.specialists.measures import calibration_error, interval
from models.specialists.home.generator import by_hand
from models.specialists.home.generator.examples import make_many
from models.specialists.home.generator.judge import judge, report

HERE = Path(__file__).parent
_ANSWERED = 0.9


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, whether or not it is sure enough for a node to say it."""

    value: Any
    """JSON; null where it is none."""
    log_probability: float
    """Of all its tokens."""
    confidence: float
    taken_ms: float


def ask(home: AskedWriter, example: Mapping[str, Any]) -> Reply:
    """Return what the specialist answers to an example."""
    messages, inputs = (ChatMessage("user", example["prompt"]),), example["inputs"]
    started_s = time.perf_counter()
    found = home.runner.write(messages, inputs)
    taken_ms = 1000 * (time.perf_counter() - started_s)
    value = None
    if found.is_ended:
        with suppress(AnswerError):
            value = home.writer.wording.read(found.text, inputs, example["prompt"])
    confidence = home.writer.description.confidence(found.log_probability)
    return Reply(value, found.log_probability, confidence, taken_ms)


def measure(name: str, home: AskedWriter, examples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Ask about examples, and yield lines for a person."""
    replies = [ask(home, example) for example in examples]
    judged = judge(examples, [reply.value for reply in replies])
    yield f"{name}: {len(examples)} sentences"
    yield from (f"  {line}" for line in report(judged))
    confidence = [reply.confidence for reply in replies]
    yield f"  ECE {calibration_error(confidence, [one.is_right for one in judged]):.3f}"
    order = sorted(range(len(replies)), key=lambda index: -confidence[index])
    surest = [judged[index].is_right for index in order[: round(_ANSWERED * len(order))]]
    low, high = interval(sum(surest), len(surest))
    yield (
        f"  of the surest {_ANSWERED:.0%}: {statistics.fmean(surest):.1%} right "
        f"({low:.1%} to {high:.1%})"
    )


def taken(home: AskedWriter, examples: Sequence[Mapping[str, Any]]) -> str:
    """Say how long an answer takes in a home that is in the cache already."""
    cached: list[float] = []
    for _, alike in groupby(examples, lambda one: (one["group"], one["inputs"].get("area"))):
        _, *others = [ask(home, example) for example in alike]
        cached += [reply.taken_ms for reply in others]
    return f"an answer, home cached: {statistics.median(cached):.0f} ms (median of {len(cached)})"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m models.specialists.home.measure")
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--specialist", type=Path, default=HERE / "specialist", metavar="DIR")
    parser.add_argument("--count", type=int, default=1000, help="sentences of each set")
    parser.add_argument("--seed", type=int, default=2)
    given = parser.parse_args()
    home = AskedWriter(given.specialist, given.model)
    sets: dict[str, list[Mapping[str, Any]]] = {
        f"{size} devices": [
            example.as_json()
            for example in make_many(given.count, given.seed, "held-out", (size, size))
        ]
        for size in (5, 30)
    }
    sets["by hand, harder"] = list(by_hand.read(by_hand.HARDER))
    sets["by hand, fresh"] = list(by_hand.read(by_hand.FRESH))
    for name, examples in sets.items():
        for line in measure(name, home, examples):
            print(line, flush=True)
    print(taken(home, sets["by hand, fresh"]))


if __name__ == "__main__":
    main()
