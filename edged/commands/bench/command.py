"""``edged bench``: measure a bundle on this machine."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from edged.commands.bench import figures
from edged.commands.bench.decisions import decision_rows, measure_decisions
from edged.commands.bench.measure import BenchOptions, measure
from edged.engine.session import default_num_threads
from edged.errors import EdgedError, ExitCode, UsageError

_CONTEXT = 2048
_CONTEXT_MIN = 160
_RUNS = 5


class OutputError(EdgedError):
    """A file cannot be written; the message names it."""

    exit_code = ExitCode.CANNOT_CREATE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged bench``."""
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="the bundle")
    add_measure_options(parser)
    parser.add_argument(
        "--decisions",
        action="store_true",
        help="measure decisions instead: how many a second, for 1, 2, 4 and 8 clients",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures and samples")


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a measurement."""
    parser.add_argument("--threads", type=int, metavar="N", help="default: all")
    parser.add_argument("--runs", type=int, default=_RUNS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--context", type=int, default=_CONTEXT, metavar="N", help="tokens (default: %(default)s)"
    )


def read_options(arguments: argparse.Namespace, program: str) -> BenchOptions:
    """Read the options of ``add_measure_options``, and ``--model``.

    Args:
        arguments: The options.
        program: Name of the command, for the command line in the document.

    Raises:
        UsageError: One of them is wrong.
    """
    num_threads = default_num_threads() if arguments.threads is None else arguments.threads
    for name, value, least in (
        ("--threads", num_threads, 1),
        ("--runs", arguments.runs, 1),
        ("--context", arguments.context, _CONTEXT_MIN),
    ):
        if value < least:
            raise UsageError(f"{name} {value}: at least {least}")
    command = shlex.join([*program.split(), *sys.argv[1:]])
    return BenchOptions(arguments.model, num_threads, arguments.context, arguments.runs, command)


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON file if requested.

    Raises:
        UsageError: An option is wrong.
        BundleError: The bundle is damaged.
        OutputError: The file cannot be written.
    """
    options = read_options(arguments, "edged")
    if arguments.decisions:
        document = measure_decisions(options, note)
        rows, remarks = list(decision_rows(document)), figures.busy_warning(document["device"])
    else:
        document = measure(options, note)
        rows = [[row.title, row.cell(document["samples"])] for row in figures.ROWS]
        rows = [cells for cells in rows if cells[1] != figures.ABSENT]
        remarks = figures.remarks(document)
    print(figures.heading(document), figures.aligned(rows), "", sep="\n")
    print(*remarks, sep="\n")
    if arguments.json is not None:
        write(arguments.json, json.dumps(document, indent=2) + "\n")
    return ExitCode.OK


def write(file: Path, text: str) -> None:
    """Write a file.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def note(line: str) -> None:
    """Report progress."""
    print(f"edged bench: {line}", file=sys.stderr, flush=True)
