"""``python -m benchmarks.compare``: the command line.

Rule: only options and output; ``measure`` measures.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import page, table
from benchmarks.compare.board import add_row
from benchmarks.compare.engines import ENGINES
from benchmarks.compare.goals import goal_rows
from benchmarks.compare.measure import compare
from benchmarks.compare.plot import plot
from edged.commands.bench.command import (
    OutputError,
    add_measure_options,
    note,
    read_options,
    write,
)
from edged.commands.bench.figures import Document, aligned, heading
from edged.errors import ExitCode, UsageError

_PRINT = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, metavar="DIR", help="the bundle to measure")
    source.add_argument(
        "--from", dest="document", type=Path, metavar="FILE", help="read figures of an earlier run"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="ENGINE=SOURCE",
        help="measure this too: llama.cpp=FILE.gguf, openvino=FILE.gguf, ollama=NAME; repeatable",
    )
    add_measure_options(parser)
    outputs = parser.add_argument_group("files")
    outputs.add_argument("--json", type=Path, metavar="FILE", help="all figures and samples")
    outputs.add_argument("--plot", type=Path, metavar="FILE", help="two diagrams as SVG")
    outputs.add_argument("--markdown", type=Path, metavar="FILE", help="a page, for docs/")
    outputs.add_argument(
        "--board",
        nargs="?",
        const=_PRINT,
        type=Path,
        metavar="FILE",
        help="append this device's row to a table of devices; without FILE print it",
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure or read a document, print the table, and write the requested files.

    Raises:
        UsageError: An option is wrong.
        BundleError: The bundle is damaged.
        EngineLostError: edged's own engine could not be measured.
        OutputError: A file cannot be written.
    """
    if arguments.document:
        document = _read(arguments.document)
    else:
        against = parse_against(arguments.against)
        document = compare(read_options(arguments, "python -m benchmarks.compare"), against, note)
    print(heading(document), aligned(table.figures(document)), sep="\n\n", end="\n\n")
    print(*table.remarks(document), sep="\n")
    goals = list(goal_rows(document))
    if goals:
        print("", aligned([["goal", "", "measured", ""], *goals]), sep="\n")
    _write(document, arguments)
    return ExitCode.OK


def parse_against(options: Sequence[str]) -> dict[str, str]:
    """Return the source of each engine.

    Raises:
        UsageError: An option is not ENGINE=SOURCE, or names an engine twice or an unknown one.
    """
    against: dict[str, str] = {}
    for option in options:
        engine, _, source = option.partition("=")
        if engine not in ENGINES or not source:
            raise UsageError(
                f"--against {option}: give ENGINE=SOURCE; engines are {', '.join(ENGINES)}"
            )
        if engine in against:
            raise UsageError(f"--against {option}: {engine} is given twice")
        against[engine] = source
    return against


def _read(file: Path) -> Document:
    try:
        return page.load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--from {file}: {error}") from error


def _write(document: Document, arguments: argparse.Namespace) -> None:
    if arguments.json is not None:
        write(arguments.json, json.dumps(document, indent=2) + "\n")
    if arguments.plot is not None:
        write(arguments.plot, plot(document))
    if arguments.markdown is not None:
        write(arguments.markdown, page.page(document))
    if arguments.board is not None:
        file = None if arguments.board == _PRINT else arguments.board
        try:
            print("", add_row(document, file), sep="\n")
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
