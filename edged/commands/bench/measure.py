"""Measure a bundle on this machine: from its folder to a document."""

import datetime as dt
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edged.bundle.folder import Bundle, open_bundle
from edged.commands.bench.daemon import measure_daemon
from edged.commands.bench.device import describe_device
from edged.commands.bench.engine import EdgedEngine
from edged.commands.bench.figures import Document, Samples, medians
from edged.commands.bench.turns import (
    Prompts,
    Turn,
    answer,
    batch_turns,
    single_turns,
    warm_up,
)
from edged.commands.bench.usage import read_memory

# Pause before each turn: until spinning threads of the last one have gone to sleep.
SETTLE_S = 0.03


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and how."""

    bundle: Path
    num_threads: int
    max_model_len: int
    """Tokens; the bundle may allow fewer."""
    runs: int
    command: str
    """The command line, to repeat the measurement."""


def measure(options: BenchOptions, note: Callable[[str], None]) -> Document:
    """Measure everything; blocks for minutes.

    Args:
        options: What to measure.
        note: Reports progress.

    Raises:
        BundleError: The bundle is damaged.
    """
    device = describe_device()  # first: it reads the load before the measurement
    bundle = open_bundle(options.bundle)
    place = (options.bundle, options.num_threads, context_of(bundle, options))
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as state:
        # Before the engine, which uses the settings that the daemon found to be the fastest.
        note("the daemon")
        daemon = measure_daemon(*place, Path(state))
        note("loading the model")
        started_s = time.perf_counter()
        engine = EdgedEngine(*place, Path(state))
        samples: Samples = {"load_s": [time.perf_counter() - started_s]}
        held = read_memory(engine.process_ids())
        samples |= {f"loaded_{name}": [size_bytes] for name, size_bytes in held.items()}

        def take(turn: Turn) -> None:
            note(turn.title)
            time.sleep(SETTLE_S)
            found = turn.figures(answer(engine, turn.do, turn.arguments))
            for name, value in found.items():
                samples.setdefault(name, []).append(value)

        run_turns(Prompts(engine.tokenizer.encode), place[2], options.runs, take)
    return {
        "figures": medians(samples),
        "samples": samples,
        "daemon": daemon,
        **circumstances(bundle, options, device, engine.versions()),
    }


def context_of(bundle: Bundle, options: BenchOptions) -> int:
    """Return the context of the measurement, in tokens."""
    return min(options.max_model_len, bundle.manifest.limits.max_model_len)


def run_turns(
    prompts: Prompts,
    max_model_len: int,
    runs: int,
    take: Callable[[Turn], None],
    end_run: Callable[[], None] = lambda: None,
) -> None:
    """Call ``take`` for all turns of all runs, and ``end_run`` after each run; blocks."""
    take(warm_up(prompts, max_model_len))
    for _ in range(runs):
        for turn in single_turns(prompts, max_model_len):
            take(turn)
        end_run()
    # After all memory was read: batches allocate buffers that are kept.
    for _ in range(runs):
        for turn in batch_turns(prompts):
            take(turn)


def circumstances(
    bundle: Bundle, options: BenchOptions, device: Document, versions: Mapping[str, str]
) -> Document:
    """Return the conditions of the measurement."""
    return {
        "model": {"id": bundle.model_id, "scheme": bundle.manifest.scheme},
        "num_threads": options.num_threads,
        "max_model_len": context_of(bundle, options),
        "runs": options.runs,
        "versions": {"python": platform.python_version(), **versions},
        "device": device,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": options.command,
    }
