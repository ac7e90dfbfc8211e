"""``edged eval``: measure a specialist on examples, through the engine as the daemon runs it."""

import argparse
import json
import statistics
import time
from pathlib import Path

from edged.bundle.folder import open_bundle
from edged.commands.features import FeatureReader
from edged.errors import ExitCode
from edged.specialists.examples import read_examples
from edged.specialists.folder import BaseModel, read_specialist
from edged.specialists.judging import judge, label_counts, result_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument("--specialist", type=Path, required=True, metavar="DIR")
    parser.add_argument("--examples", type=Path, required=True, metavar="FILE", help="JSONL or CSV")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def main(arguments: argparse.Namespace) -> int:
    """Decide on each example, and print how often that was right.

    An answer of null is right when it is unsure.

    Raises:
        UsageError: The examples are wrong.
        BundleError: The bundle or the specialist is wrong.
    """
    examples = read_examples(arguments.examples)
    base = BaseModel.of(open_bundle(arguments.model, verify=False).manifest)
    specialist = read_specialist(arguments.specialist, base)
    reader = FeatureReader(arguments.model)
    judged, taken_s = [], []
    for example in examples:
        started_s = time.perf_counter()
        features = reader.one(example.prompt)
        judged.append(judge(specialist, example, features))
        taken_s.append(time.perf_counter() - started_s)
    result = result_of(judged, specialist.description.result.precision)
    figures = {
        "accuracy": round(result.accuracy, 4),
        "interval": [round(result.low, 4), round(result.high, 4)],
        "exact": round(result.accuracy, 4),
        "valid_json": 1.0,
        "ece": round(result.ece, 4),
        "unsure": round(1 - result.answered, 4),
        "answered_right": round(result.answered_right, 4),
        "p50_ms": round(1000 * statistics.median(taken_s), 2),
        "n": result.num_examples,
    }
    if result.error is not None:
        figures["error"] = round(result.error, 6)
    if counts := label_counts(judged):
        figures["f1"] = {one.label: round(one.f1, 4) for one in counts}
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<12}{value}" for name, value in figures.items()))
    return ExitCode.OK
