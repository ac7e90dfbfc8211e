"""Compare the estimated cost of schemas with their measured compilation, with a real tokenizer.

    scripts/measure-schemas models/smollm2-135m-instruct --count 3000

Each schema that the estimate accepts is compiled in a child process under limits, and the first
tokens of an answer are drawn. Times are CPU time; the worst schemas are measured three times, and
the median counts. Memory is the child's peak minus its memory before.
"""

import argparse
import ctypes
import json
import math
import os
import pickle
import resource
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edged.bundle.folder import open_bundle
from edged.engine.grammar import FormatError, GrammarConstraint, compile_format
from edged.engine.schema_cost import estimate_cost
from edged.engine.tokenizer import Tokenizer
from edged.protocol.request import FormatType, OutputFormat
from tests.system.hostile.schemas import EXPENSIVE, HONEST, Schema, schemas

_TOKENS = 24
_CHILD_CPU_S = 30
_CHILD_DATA_BYTES = 2 << 30
_LIMIT_MS = 50
_LIMIT_MB = 16.0
_WORST = 12
_FIGURES = ("CPU ms", "MB", "mask ms", "answer MB")
_COLUMNS = "{:>8} {:>9} {:>9} {:>9} {:>9}  {}"


class Cost(NamedTuple):
    """Measured cost of one schema; infinite if the child died."""

    figures: tuple[float, float, float, float]
    """As in ``_FIGURES``: the slowest mask is of the first tokens, and the answer's memory that of
    the compilation and of these tokens together."""
    outcome: str


class Meter:
    """Compiles schemas in children of this process, which holds the tokenizer."""

    def __init__(self, bundle: Path) -> None:
        self._tokenizer = Tokenizer.load(open_bundle(bundle))
        pieces = self._tokenizer.vocabulary()
        self._is_closing = np.array([b"}" in piece or b"]" in piece for piece in pieces])
        self._compile({})

    def measure(self, schema: Schema) -> Cost:
        """Return the cost of ``schema`` in a new child process."""
        receiving, sending = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(sending, pickle.dumps(self._in_child(schema)))
            os._exit(0)
        os.close(sending)
        with os.fdopen(receiving, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        if not answer:
            return Cost((math.inf,) * 4, "ended the process")
        cost: Cost = pickle.loads(answer)  # noqa: S301 - from our own child
        return cost

    def _compile(self, schema: Schema) -> GrammarConstraint:
        compiled = compile_format(
            self._tokenizer, OutputFormat(FormatType.JSON_SCHEMA, schema=schema)
        )
        if compiled is None:
            raise RuntimeError("a schema was taken for free text")
        return compiled

    def _in_child(self, schema: Schema) -> Cost:
        resource.setrlimit(resource.RLIMIT_CPU, (_CHILD_CPU_S, _CHILD_CPU_S))
        resource.setrlimit(resource.RLIMIT_DATA, (_CHILD_DATA_BYTES, _CHILD_DATA_BYTES))
        self._answer(self._compile({}), [])  # loads the libraries, whose pages do not count
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", "ascii")
        before_mb, before_s, outcome = _peak_mb(), time.process_time(), "ok"
        masks: list[float] = [0.0]
        try:
            constraint: GrammarConstraint | None = self._compile(schema)
        except FormatError as error:
            constraint, outcome = None, str(error)
        compile_ms, compile_mb = 1000 * (time.process_time() - before_s), _peak_mb() - before_mb
        if constraint is not None:
            outcome = self._answer(constraint, masks)
        return Cost((compile_ms, compile_mb, max(masks), _peak_mb() - before_mb), outcome)

    def _answer(self, constraint: GrammarConstraint, masks: list[float]) -> str:
        """Draw allowed tokens at random; those that close an object or array come last."""
        rng = np.random.default_rng(0)
        try:
            for _ in range(_TOKENS):
                logits = np.zeros(len(self._is_closing), np.float32)
                before_s = time.process_time()
                constraint.allowed(logits)
                masks.append(1000 * (time.process_time() - before_s))
                allowed = np.flatnonzero(np.isfinite(logits))
                opening = allowed[~self._is_closing[allowed]]
                constraint.advance(int(rng.choice(opening if len(opening) else allowed)))
                if constraint.is_complete:
                    break
        except RuntimeError as error:
            return str(error)
        return "ok"


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text("ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _passing(found: Iterable[Schema]) -> list[tuple[float, Schema]]:
    passing = []
    for schema in found:
        try:
            passing.append((estimate_cost(schema), schema))
        except ValueError:
            continue
    return passing


def _median(meter: Meter, schema: Schema) -> Cost:
    runs = [meter.measure(schema) for _ in range(3)]
    one, two, three, four = (sorted(run.figures[n] for run in runs)[1] for n in range(4))
    return Cost((one, two, three, four), runs[0].outcome)


def _report(meter: Meter, name: str, passing: list[tuple[float, Schema]], limit_ms: int) -> bool:
    """Print the maxima of ``passing``; return whether all are within the limits."""
    costs = [meter.measure(schema) for _, schema in passing]
    worst: set[int] = set()
    for column in range(4):
        worst.update(sorted(range(len(costs)), key=lambda n: -costs[n].figures[column])[:_WORST])
    for index in worst:
        costs[index] = _median(meter, passing[index][1])
    refused = sum(cost.outcome != "ok" for cost in costs)
    print(f"\n{name}: {len(passing)} passed the estimate; of those the library refused {refused}")
    print(_COLUMNS.format("estimate", *_FIGURES, "schema"))
    for index in sorted(worst, key=lambda n: -costs[n].figures[0]):
        estimate, schema = passing[index]
        figures = [f"{figure:.1f}" for figure in costs[index].figures]
        text = f"{json.dumps(schema)[:90]} {costs[index].outcome[:60]}"
        print(_COLUMNS.format(round(estimate), *figures, text))
    most = [max(cost.figures[column] for cost in costs) for column in range(4)]
    print(_COLUMNS.format("most", *[f"{figure:.1f}" for figure in most], ""))
    return most[0] <= limit_ms and most[1] <= _LIMIT_MB


def main() -> int:
    """Measure; return 1 if an accepted schema exceeds the limits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=3000, help="schemas to generate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-ms", type=int, default=_LIMIT_MS, help="CPU time for one")
    settings = parser.parse_args()
    meter = Meter(settings.bundle)
    if _passing(EXPENSIVE):
        print("an expensive schema passes the estimate", file=sys.stderr)
        return 1
    is_well = _report(meter, "honest", _passing(HONEST), settings.limit_ms)
    generated = _passing(schemas(settings.seed, settings.count))
    name = f"{settings.count} generated"
    return 0 if _report(meter, name, generated, settings.limit_ms) and is_well else 1


if __name__ == "__main__":
    sys.exit(main())
