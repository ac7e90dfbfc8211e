"""A whole measurement: from a bundle and the names of other engines to a document.

Rule: the order of things is here; what a turn is stands in ``plan``, how it is taken in ``turns``.
"""

import datetime as dt
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edged.bundle.folder import Bundle, open_bundle
from edged.commands.bench.adapters import EDGED, Setup
from edged.commands.bench.bandwidth import read_bandwidth
from edged.commands.bench.daemon import measure_daemon
from edged.commands.bench.device import describe_device
from edged.commands.bench.figures import Document, document
from edged.commands.bench.plan import Prompts, single_turns, together_turns, warm_up
from edged.commands.bench.process import Channel, start
from edged.commands.bench.turns import Field
from edged.commands.bench.weights import weight_bytes_per_token
from edged.engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be measured."""

    bundle: Path
    against: Mapping[str, str]
    """Other engines' sources, by their names."""
    num_threads: int
    max_model_len: int
    runs: int
    command: str
    """The command line, for those who want to repeat it."""


def measure(
    question: Question,
    note: Callable[[str], None],
    start_engine: Callable[[Setup], Channel] = start,
) -> Document:
    """Measure everything; blocks for minutes.

    Args:
        question: what to measure.
        note: tells a person what happens now.
        start_engine: starts an engine and loads its model; for tests.

    Raises:
        BundleError: the bundle is damaged.
        BenchError: edged's own engine could not be measured.
    """
    device = describe_device()  # first: it tells how busy the machine was before us
    bundle = open_bundle(question.bundle)
    max_model_len = min(question.max_model_len, bundle.manifest.limits.max_model_len)
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as state:
        # Before the engine: it is run as the daemon has found it to run fastest here.
        note("the daemon")
        daemon = measure_daemon(question.bundle, question.num_threads, max_model_len, Path(state))
        field = Field(_setups(question, bundle, max_model_len, state), start_engine, note)
        try:
            bandwidths = _run(field, bundle, question, max_model_len)
        finally:
            field.close()
    return {
        **document(field.samples, bandwidths, weight_bytes_per_token(bundle.model_path)),
        "daemon": daemon,
        "model": {"id": bundle.model_id, "scheme": bundle.manifest.scheme},
        "num_threads": question.num_threads,
        "max_model_len": max_model_len,
        "runs": question.runs,
        "left_out": field.left_out,
        **field.quiet.shares(os.cpu_count() or 1),
        "versions": {"python": platform.python_version(), **field.versions},
        "device": device,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": question.command,
    }


def _setups(question: Question, bundle: Bundle, max_model_len: int, state: str) -> list[Setup]:
    folder = str(question.bundle)
    return [
        Setup(
            engine=engine,
            source=source,
            bundle=folder,
            vocab_size=bundle.manifest.model.vocab_size,
            num_threads=question.num_threads,
            max_model_len=max_model_len,
            state=state,
        )
        for engine, source in {EDGED: folder, **question.against}.items()
    ]


def _run(field: Field, bundle: Bundle, question: Question, max_model_len: int) -> list[float]:
    """Take all turns; return the read bandwidth of each run."""
    prompts = Prompts(Tokenizer.load(bundle).encode)
    field.start()
    for turn in warm_up(prompts, max_model_len):
        field.take(turn)
    bandwidths = []
    for _ in range(question.runs):
        bandwidths.append(read_bandwidth(question.num_threads))
        for turn in single_turns(prompts, max_model_len):
            field.take(turn)
        field.load_afresh()
    # After all the memory was read: several contexts leave their traces.
    for _ in range(question.runs):
        for turn in together_turns(prompts):
            field.take(turn)
    return bandwidths
