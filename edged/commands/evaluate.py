"""``edged eval``: measure a specialist on examples, through the engine as the daemon runs it."""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from edged.bundle.folder import open_bundle
from edged.commands.features import FeatureReader
from edged.errors import ExitCode
from edged.specialists.decision import decide
from edged.specialists.examples import read_examples
from edged.specialists.folder import BaseModel, read_specialist
from edged.specialists.measures import calibration_error, interval


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
    (head,) = specialist.heads
    labels = head.description.labels
    right, confidences, taken_s, unsure = [], [], [], []
    for example in examples:
        started_s = time.perf_counter()
        decision = decide(head, specialist.layout, reader.one(example.prompt))
        taken_s.append(time.perf_counter() - started_s)
        label = labels[decision.choice]
        is_right = decision.is_unsure if example.answer is None else label == example.answer
        right.append(is_right)
        unsure.append(decision.is_unsure)
        confidences.append(decision.confidence)
    low, high = interval(sum(right), len(right))
    figures = {
        "accuracy": round(statistics.fmean(right), 4),
        "interval": [round(low, 4), round(high, 4)],
        "exact": round(statistics.fmean(right), 4),
        "valid_json": 1.0,
        "ece": round(calibration_error(np.array(confidences), np.array(right)), 4),
        "unsure": round(statistics.fmean(unsure), 4),
        "p50_ms": round(1000 * statistics.median(taken_s), 2),
        "n": len(right),
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:<12}{value}" for name, value in figures.items()))
    return ExitCode.OK
