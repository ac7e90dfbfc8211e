"""Compare engines: from a bundle and the sources of other engines to a document."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.compare.bandwidth import measure_bandwidth
from benchmarks.compare.comparison import Comparison, Start
from benchmarks.compare.engines import EDGED, other_setup, start
from benchmarks.compare.figures import document
from benchmarks.compare.process import Setup
from benchmarks.compare.weights import weight_bytes_per_token
from edged.bundle.folder import Bundle, open_bundle
from edged.commands.bench.daemon import measure_daemon
from edged.commands.bench.device import describe_device
from edged.commands.bench.figures import Document
from edged.commands.bench.measure import BenchOptions, circumstances, context_of, run_turns
from edged.commands.bench.turns import Prompts
from edged.engine.tokenizer import Tokenizer


def compare(
    options: BenchOptions,
    against: Mapping[str, str],
    note: Callable[[str], None],
    start_engine: Start = start,
) -> Document:
    """Measure everything; blocks for minutes.

    Args:
        options: What to measure.
        against: Source of each other engine, by name.
        note: Reports progress.
        start_engine: Starts an engine and loads its model; for tests.

    Raises:
        BundleError: The bundle is damaged.
        EngineLostError: edged's own engine could not be measured.
    """
    device = describe_device()  # first: it reads the load before the measurement
    bundle = open_bundle(options.bundle)
    bandwidths = [measure_bandwidth(options.num_threads)]
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as state:
        own = _edged_setup(bundle, options, state)
        # Before the engines: edged's uses the settings that the daemon found to be the fastest.
        note("the daemon")
        place = (bundle.folder, own.num_threads, own.max_model_len, Path(state))
        daemon = measure_daemon(*place)
        others = [other_setup(own, engine, source) for engine, source in against.items()]
        comparison = Comparison([own, *others], note, start_engine)

        def end_run() -> None:
            comparison.end_run()
            bandwidths.append(measure_bandwidth(options.num_threads))

        try:
            prompts = Prompts(Tokenizer.load(bundle).encode)
            run_turns(prompts, own.max_model_len, options.runs, comparison.take, end_run)
        finally:
            comparison.close()
    samples = {name: engine.samples for name, engine in comparison.engines.items()}
    versions = {
        name: number
        for engine in comparison.engines.values()
        for name, number in engine.process.loaded["versions"].items()
    }
    return {
        **document(samples, bandwidths, weight_bytes_per_token(bundle.model_path)),
        "daemon": daemon,
        "left_out": comparison.left_out,
        **comparison.interference.shares(os.cpu_count() or 1),
        **circumstances(bundle, options, device, versions),
    }


def _edged_setup(bundle: Bundle, options: BenchOptions, state: str) -> Setup:
    return Setup(
        engine=EDGED,
        adapter="benchmarks.compare.engines:load_edged",
        source=str(bundle.folder),
        bundle=str(bundle.folder),
        vocab_size=bundle.manifest.model.vocab_size,
        num_threads=options.num_threads,
        max_model_len=context_of(bundle, options),
        state=state,
    )
