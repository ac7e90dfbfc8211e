"""``edged bench``: measure a bundle on this machine, and other engines beside it.

Rule: parse and write; the measuring is in ``measure``.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edged.commands.bench import page, table, wire_table
from edged.commands.bench.adapters import EDGED, KNOWN
from edged.commands.bench.board import add_row
from edged.commands.bench.figures import Document
from edged.commands.bench.goals import goal_rows
from edged.commands.bench.measure import Question, measure
from edged.commands.bench.plot import plot
from edged.commands.bench.wire import Effort, measure_wire
from edged.engine.session import default_num_threads
from edged.errors import EdgedError, ExitCode, UsageError

_CONTEXT = 2048
_CONTEXT_MIN = 160
_RUNS = 5
_PRINT = Path("-")


class OutputError(EdgedError):
    """A file cannot be written; the message names it."""

    exit_code = ExitCode.CANNOT_CREATE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``edged bench``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, metavar="DIR", help="the bundle to measure")
    source.add_argument(
        "--from", dest="document", type=Path, metavar="FILE", help="read figures of an earlier run"
    )
    source.add_argument(
        "--wire", action="store_true", help="measure MQTT and the daemon without a model"
    )
    parser.add_argument(
        "--broker", metavar="URL", help="for --wire: measure on this one, not on a new Mosquitto"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="ENGINE=SOURCE",
        help="measure this too: llama.cpp=FILE.gguf, openvino=FILE.gguf, ollama=NAME; repeatable",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of every engine (default: all)")
    parser.add_argument("--runs", type=int, default=_RUNS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--context", type=int, default=_CONTEXT, metavar="N", help="tokens (default: %(default)s)"
    )
    outputs = parser.add_argument_group("what is written beside the table")
    outputs.add_argument("--json", type=Path, metavar="FILE", help="all figures and samples")
    outputs.add_argument("--plot", type=Path, metavar="FILE", help="two diagrams as SVG")
    outputs.add_argument("--markdown", type=Path, metavar="FILE", help="a page, for docs/")
    outputs.add_argument(
        "--board",
        nargs="?",
        const=_PRINT,
        type=Path,
        metavar="FILE",
        help="append this device's row to a board; without FILE print it",
    )


def main(arguments: argparse.Namespace) -> int:
    """Measure or read, print the table, write what was asked for.

    Raises:
        UsageError: an option is wrong.
        BundleError: the bundle is.
        BenchError: edged's own engine could not be measured.
        WireError: there is no broker.
        OutputError: a file cannot be written.
    """
    if arguments.wire:
        document, write = measure_wire(arguments.broker, Effort(), _command(), _note), _write_wire
    else:
        document = _read(arguments.document) if arguments.document else _measure(arguments)
        write = _write
    try:
        write(document, arguments)
    except OSError as error:
        raise OutputError(f"{error.filename}: cannot be written: {error.strerror}") from error
    return ExitCode.OK


def parse_against(options: Sequence[str]) -> dict[str, str]:
    """Return the sources by engine.

    Raises:
        UsageError: an option is not ENGINE=SOURCE, or names an engine twice or an unknown one.
    """
    others = [name for name in KNOWN if name != EDGED]
    against: dict[str, str] = {}
    for option in options:
        engine, _, source = option.partition("=")
        if engine not in others or not source:
            raise UsageError(
                f"--against {option}: give ENGINE=SOURCE; engines are {', '.join(others)}"
            )
        if engine in against:
            raise UsageError(f"--against {option}: {engine} is given twice")
        against[engine] = source
    return against


def _measure(arguments: argparse.Namespace) -> Document:
    num_threads = default_num_threads() if arguments.threads is None else arguments.threads
    for name, value, least in (
        ("--threads", num_threads, 1),
        ("--runs", arguments.runs, 1),
        ("--context", arguments.context, _CONTEXT_MIN),
    ):
        if value < least:
            raise UsageError(f"{name} {value}: at least {least}")
    question = Question(
        bundle=arguments.model,
        against=parse_against(arguments.against),
        num_threads=num_threads,
        max_model_len=arguments.context,
        runs=arguments.runs,
        command=_command(),
    )
    return measure(question, _note)


def _read(file: Path) -> Document:
    try:
        return page.load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--from {file}: {error}") from error


def _write(document: Document, arguments: argparse.Namespace) -> None:
    print(table.heading(document), table.aligned(table.figures(document)), sep="\n\n", end="\n\n")
    print(*table.remarks(document), sep="\n")
    goals = list(goal_rows(document))
    if goals:
        print("", table.aligned([["goal", "", "measured", ""], *goals]), sep="\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if arguments.plot is not None:
        arguments.plot.write_text(plot(document), encoding="utf-8")
    if arguments.markdown is not None:
        arguments.markdown.write_text(page.page(document), encoding="utf-8")
    if arguments.board is not None:
        file = None if arguments.board == _PRINT else arguments.board
        print("", add_row(document, file), sep="\n")


def _write_wire(document: Document, arguments: argparse.Namespace) -> None:
    print(wire_table.heading(document), table.aligned(list(wire_table.rows(document))), sep="\n\n")
    print("", table.aligned(list(wire_table.goal_rows(document))), sep="\n")
    print(*wire_table.remarks(document), sep="\n")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _command() -> str:
    return shlex.join(["edged", *sys.argv[1:]])


def _note(line: str) -> None:
    print(f"edged bench: {line}", file=sys.stderr, flush=True)
