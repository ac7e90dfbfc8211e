"""``edged teach``: examples become a specialist, on this device, without a token of an answer."""

import argparse
import os
from pathlib import Path

from edged.commands.broker_options import add_credentials


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Declare EXAMPLES, ``--corrections``, ``--teacher`` and what belongs to it."""
    parser.add_argument("examples", type=Path, metavar="EXAMPLES", help="JSONL or CSV")
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="PATH",
        help="what a person said of wrong answers: a node's state folder, or JSONL",
    )
    parser.add_argument(
        "--teacher",
        metavar="MODEL",
        help="asked for the answers of lines without one: mqtt://host[:port]/NODE, or a bundle",
    )
    parser.add_argument(
        "--labels",
        metavar="LABELS",
        help="what the teacher chooses from: a,b,c or a file, one a line (default: the answers)",
    )
    parser.add_argument(
        "--review",
        type=Path,
        metavar="FILE",
        help="write the prompts that a person should look at first, to be corrected and given back "
        "as --corrections",
    )
    add_credentials(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_source_options(parser)
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
        "--tolerance",
        type=float,
        metavar="T",
        help="of numbers: error up to which an answer is right (default: a tenth of their range)",
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=0.0,
        metavar="A",
        help="least accuracy, else only the report is written",
    )
    parser.add_argument(
        "--escalate",
        metavar="NAME",
        help="pass unsure prompts on: to this specialist, or to `model`, which writes an answer",
    )
    parser.add_argument(
        "--test", type=Path, metavar="FILE", help="measure on these examples (default: held-out)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Teach, print what was measured, and write the folder.

    Raises:
        UsageError: The examples are wrong, or the accuracy is below the floor.
        BundleError: The bundle is wrong, or gives no hidden states.
    """
    # numpy's threads spin while they wait, and its matrices are small here. It reads the variable
    # when it is imported, which nothing has done so far.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edged.commands.teaching import run  # noqa: PLC0415

    return run(arguments)
