"""``edged teach``: examples become a specialist, on this device, without a token of an answer."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged.bundle.folder import open_bundle
from edged.commands.features import FeatureReader
from edged.errors import ExitCode, UsageError
from edged.specialists.examples import AnswerKind, Example, kind_of, read_examples, remarks
from edged.specialists.folder import (
    FORMAT,
    BaseModel,
    Description,
    HeadDescription,
    Result,
    TaughtHead,
    write_specialist,
)
from edged.specialists.measures import calibration_error, interval
from edged.specialists.training import Examples, Taught, teach, unfamiliar_below, unsure_below

_FEWEST = 2
_SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("examples", type=Path, metavar="EXAMPLES", help="JSONL or CSV")
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the specialist")
    parser.add_argument("--name", help="default: the name of DIR")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.95,
        metavar="P",
        help="share of the answers that must be right; less sure ones are unsure (default: 0.95)",
    )
    parser.add_argument(
        "--floor", type=float, default=0.0, metavar="A", help="least accuracy, else nothing is made"
    )


def main(arguments: argparse.Namespace) -> int:
    """Teach, print what was measured, and write the folder.

    Raises:
        UsageError: The examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong, or gives no hidden states.
    """
    examples = read_examples(arguments.examples)
    if kind_of(examples) is not AnswerKind.LABEL:
        raise UsageError(f"{arguments.examples}: only labels can be taught so far")
    for remark in remarks(examples):
        print(f"{arguments.examples}: {remark}", file=sys.stderr)
    labels = _labels(arguments.examples, examples)
    reader = FeatureReader(arguments.model)
    started_s = time.monotonic()
    features = reader.read([example.prompt for example in examples], _progress)
    names = reader.read([_words(label) for label in labels], lambda _: None)
    taught = teach(_arrays(examples, labels, features, names), reader.layout, _progress, _SEED)
    indices = np.array([labels.index(str(example.answer)) for example in examples])
    result = _result(taught, indices)
    taken_s = time.monotonic() - started_s
    interval_text = f"{result.low:.1%} to {result.high:.1%}"
    print(f"{result.accuracy:.1%} right ({interval_text}), ECE {result.ece:.3f}; {taken_s:.0f} s")
    if result.accuracy < arguments.floor:
        raise UsageError(
            f"{result.accuracy:.1%} is below --floor {arguments.floor:.1%}: nothing is written"
        )
    bundle = open_bundle(arguments.model, verify=False)
    head = HeadDescription(
        None,
        tuple(labels),
        taught.view,
        taught.head.temperature,
        unsure_below(taught, indices, arguments.precision),
        unfamiliar_below(taught),
    )
    description = Description(
        FORMAT,
        arguments.name or arguments.output.name,
        BaseModel.of(bundle.manifest),
        *(reader.layout.num_layers, reader.layout.hidden_size),
        (head,),
        result,
        "",
    )
    write_specialist(arguments.output, description, [TaughtHead(head, taught.scaler, taught.head)])
    print(f"{arguments.output}: written")
    return ExitCode.OK


def _labels(path: Path, examples: Sequence[Example]) -> list[str]:
    lines: dict[str, int] = {}
    counts = Counter(str(example.answer) for example in examples)
    for example in examples:
        lines.setdefault(str(example.answer), example.line)
    for label, count in counts.items():
        if count < _FEWEST:
            raise UsageError(
                f"{path}:{lines[label]}: {label!r} has {count} example; give it {_FEWEST} at least"
            )
    if len(counts) < _FEWEST:
        raise UsageError(f"{path}: all answers are the same; a decision needs two labels")
    return sorted(counts)


def _words(label: str) -> str:
    """Return what a label says, in words."""
    return " ".join(label.replace("_", " ").replace("-", " ").replace(".", " ").split()).lower()


def _arrays(
    examples: Sequence[Example],
    labels: Sequence[str],
    features: NDArray[np.float32],
    names: NDArray[np.float32],
) -> Examples:
    return Examples(
        features,
        np.array([labels.index(str(example.answer)) for example in examples]),
        np.array([example.weight for example in examples]),
        [example.group for example in examples],
        names,
    )


def _result(taught: Taught, labels: NDArray[np.int64]) -> Result:
    is_right = taught.held_out.argmax(axis=1) == labels
    low, high = interval(int(is_right.sum()), len(is_right))
    ece = calibration_error(taught.held_out.max(axis=1), is_right)
    return Result(float(is_right.mean()), low, high, ece, len(is_right))


def _progress(share: float) -> None:
    if sys.stderr.isatty():
        print(f"\r{share:4.0%}", end="" if share < 1 else "\n", file=sys.stderr, flush=True)
