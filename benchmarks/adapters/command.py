"""``python -m benchmarks.adapters``: the command line."""

import argparse
from pathlib import Path

from benchmarks.adapters.measure import HEADING, Plan, measure
from edged.commands.bench import figures
from edged.errors import ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", type=Path, metavar="BUNDLE", help="one that takes adapters")
    parser.add_argument(
        "--before",
        type=Path,
        metavar="BUNDLE",
        help="another one, whose tokens without a writer are the peer",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--tokens", type=int, default=48, metavar="N", help="of an answer")
    parser.add_argument(
        "--writer", type=Path, metavar="DIR", help="a specialist: four of it answer together, too"
    )
    parser.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help="asked of the writer")
    parser.add_argument("--threads", type=int, metavar="N", help="default: as many as edged takes")


def main(arguments: argparse.Namespace) -> int:
    """Measure in turns and print the table.

    Raises:
        UsageError: The writer has no prompts.
        BundleError: A bundle is wrong, or it takes no adapters.
    """
    if (arguments.writer is None) != (arguments.prompts is None):
        raise UsageError("--writer and --prompts belong together")
    asked = None if arguments.writer is None else (arguments.writer, arguments.prompts)
    plan = Plan(arguments.rounds, arguments.tokens, arguments.threads, asked)
    rows = measure(arguments.model, arguments.before, plan)
    print(figures.aligned([HEADING, *(row.cells for row in rows)]))
    return ExitCode.OK
