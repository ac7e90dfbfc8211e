"""A whole comparison: from a bundle and the sources of other engines to a document."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.compare.bandwidth import read_bandwidth
from benchmarks.compare.engines import EDGED, other_setup, start
from benchmarks.compare.field import Field, Start
from benchmarks.compare.figures import document
from benchmarks.compare.process import Setup
from benchmarks.compare.weights import weight_bytes_per_token
from edged.bundle.folder import Bundle, open_bundle
from edged.commands.bench.daemon import measure_daemon
from edged.commands.bench.device import describe_device
from edged.commands.bench.figures import Document
from edged.commands.bench.measure import Question, circumstances, context_of, run_turns
from edged.commands.bench.turns import Prompts
from edged.engine.tokenizer import Tokenizer


def compare(
    question: Question,
    against: Mapping[str, str],
    note: Callable[[str], None],
    start_engine: Start = start,
) -> Document:
    """Measure everything; blocks for minutes.

    Args:
        question: What to measure.
        against: Other engines' sources, by their names.
        note: Tells a person what happens now.
        start_engine: Starts an engine and loads its model; for tests.

    Raises:
        BundleError: The bundle is damaged.
        EngineLostError: edged's own engine could not be measured.
    """
    device = describe_device()  # first: it tells how busy the machine was before us
    bundle = open_bundle(question.bundle)
    bandwidths = [read_bandwidth(question.num_threads)]
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as state:
        own = _edged_setup(bundle, question, state)
        # Before the engines: edged's is run as the daemon has found it to run fastest here.
        note("the daemon")
        place = (bundle.folder, own.num_threads, own.max_model_len, Path(state))
        daemon = measure_daemon(*place)
        others = [other_setup(own, engine, source) for engine, source in against.items()]
        field = Field([own, *others], note, start_engine)

        def end_run() -> None:
            field.end_run()
            bandwidths.append(read_bandwidth(question.num_threads))

        try:
            prompts = Prompts(Tokenizer.load(bundle).encode)
            run_turns(prompts, own.max_model_len, question.runs, field.take, end_run)
        finally:
            field.close()
    samples = {name: engine.samples for name, engine in field.engines.items()}
    versions = {
        name: number
        for engine in field.engines.values()
        for name, number in engine.process.loaded["versions"].items()
    }
    return {
        **document(samples, bandwidths, weight_bytes_per_token(bundle.model_path)),
        "daemon": daemon,
        "left_out": field.left_out,
        **field.quiet.shares(os.cpu_count() or 1),
        **circumstances(bundle, question, device, versions),
    }


def _edged_setup(bundle: Bundle, question: Question, state: str) -> Setup:
    return Setup(
        engine=EDGED,
        adapter="benchmarks.compare.engines:load_edged",
        source=str(bundle.folder),
        bundle=str(bundle.folder),
        vocab_size=bundle.manifest.model.vocab_size,
        num_threads=question.num_threads,
        max_model_len=context_of(bundle, question),
        state=state,
    )
