"""``python -m benchmarks.decisions``: the command line."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.decisions.measure import HEADING, measure, sets_in
from edged.commands.bench import figures
from edged.commands.bench.command import note, write
from edged.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folder",
        type=Path,
        help="of NAME-test.jsonl, NAME-….jsonl to teach from, one or more, and, if there are"
        " any, prompts that are none of the labels in NAME-out-of-scope.jsonl",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="the base")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")


def main(arguments: argparse.Namespace) -> int:
    """Teach from each file, test, print the table, and write the JSON file if requested.

    Raises:
        UsageError: There are no sets, or their examples are wrong.
        BundleError: The bundle is wrong, or gives no hidden states.
        OutputError: The file cannot be written.
    """
    sets = sets_in(arguments.folder)
    rows = [row for one in sets for row in measure(one, arguments.model, note)]
    print(figures.aligned([HEADING, *(row.cells for row in rows)]))
    if arguments.json is not None:
        write(arguments.json, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return ExitCode.OK
