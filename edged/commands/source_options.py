"""The options of ``edged teach`` that say where the examples come from.

Rule: imports no numpy, whose threads are set before.
"""

import argparse
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
