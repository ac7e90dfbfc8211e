"""``python -m benchmarks.forced``: the command line."""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from benchmarks.forced.measure import FORCED, Answered, Time, measure
from edged.commands.bench import figures
from edged.commands.bench.command import note, write
from edged.errors import ExitCode, UsageError

_HEADING = ("answer", "engine", "tokens", "passes", "ms", "/ edged", "CPU ms", "/ edged")
_TIMES: Sequence[Time] = (lambda said: said.seconds, lambda said: said.cpu_s)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", type=Path, required=True, metavar="BUNDLE", help="edged's")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE.gguf",
        help="measure llama.cpp with these weights, too (the extra `bench`, scripts/make-q8-gguf)",
    )
    parser.add_argument("--runs", type=int, default=9, help="answers of each (default 9)")
    parser.add_argument("--threads", type=int, default=2, help="of each engine (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")


def main(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write the JSON file if requested.

    Raises:
        UsageError: An option is wrong, or an answer is.
        BundleError: The bundle is damaged.
        OutputError: The file cannot be written.
    """
    if arguments.runs < 1:
        raise UsageError(f"--runs {arguments.runs}: at least 1")
    if arguments.against is not None and find_spec("llama_cpp") is None:
        raise UsageError("--against: llama.cpp is not installed: scripts/setup build dev bench")
    measured = measure(arguments.model, arguments.against, arguments.threads, arguments.runs, note)
    print(figures.aligned([_HEADING, *(row for one in measured for row in _rows(one))]))
    for one in measured:
        print("", one.question.title, *_texts(one), sep="\n")
    if arguments.json is not None:
        write(arguments.json, json.dumps([asdict(one) for one in measured], indent=2) + "\n")
    return ExitCode.OK


def _rows(one: Answered) -> Iterator[Sequence[str]]:
    for engine, said in one.said.items():
        cells = [one.question.title, engine, str(len(said[0].token_ids)), str(said[0].num_passes)]
        for time in _TIMES:
            ratio = "" if engine == FORCED else _spread(one.ratios(engine, time))
            cells += [f"{1e3 * one.median_s(engine, time):.0f}", ratio]
        yield cells


def _spread(ratios: Sequence[float]) -> str:
    """Return the median and the extremes."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _texts(one: Answered) -> Iterator[str]:
    own = one.texts[FORCED]
    yield f"  {own}"
    for engine, text in one.texts.items():
        if engine != FORCED:
            yield f"  {engine}: {'the same' if text == own else text}"
