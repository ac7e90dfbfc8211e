"""``python -m benchmarks.wire``: the command line."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from benchmarks.wire.measure import WireLoad, heading, measure_wire, rows
from edged.commands.bench import figures
from edged.commands.bench.command import note, write
from edged.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--broker", metavar="URL", help="default: a new Mosquitto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON file if requested.

    Raises:
        UsageError: The URL is invalid.
        WireError: There is no broker, or it does not answer.
        OutputError: The file cannot be written.
    """
    command = shlex.join(["python", "-m", "benchmarks.wire", *sys.argv[1:]])
    document = measure_wire(arguments.broker, WireLoad(), command, note)
    remarks = figures.busy_warning(document["device"])
    print(heading(document), figures.aligned(list(rows(document))), "", *remarks, sep="\n")
    if arguments.json is not None:
        write(arguments.json, json.dumps(document, indent=2) + "\n")
    return ExitCode.OK
