"""A whole measurement of a bundle on this machine: from its folder to a document."""

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
    single_turns,
    together_turns,
    warm_up,
)
from edged.commands.bench.usage import read_memory

# Before each turn: threads that spin for work that may follow have gone to sleep.
SETTLE_S = 0.03


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be measured."""

    bundle: Path
    num_threads: int
    max_model_len: int
    """Tokens; the bundle may allow fewer."""
    runs: int
    command: str
    """The command line, for those who want to repeat it."""


def measure(question: Question, note: Callable[[str], None]) -> Document:
    """Measure everything; blocks for minutes.

    Args:
        question: What to measure.
        note: Tells a person what happens now.

    Raises:
        BundleError: The bundle is damaged.
    """
    device = describe_device()  # first: it tells how busy the machine was before us
    bundle = open_bundle(question.bundle)
    place = (question.bundle, question.num_threads, context_of(bundle, question))
    with tempfile.TemporaryDirectory(prefix="edged-bench-") as state:
        # Before the engine, which is run as the daemon has found it to run fastest here.
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

        run_turns(Prompts(engine.tokenizer.encode), place[2], question.runs, take)
    return {
        "figures": medians(samples),
        "samples": samples,
        "daemon": daemon,
        **circumstances(bundle, question, device, engine.versions()),
    }


def context_of(bundle: Bundle, question: Question) -> int:
    """Return the tokens of context that are measured."""
    return min(question.max_model_len, bundle.manifest.limits.max_model_len)


def run_turns(
    prompts: Prompts,
    max_model_len: int,
    runs: int,
    take: Callable[[Turn], None],
    end_run: Callable[[], None] = lambda: None,
) -> None:
    """Have all turns of all runs taken, and ``end_run`` called after each run; blocks."""
    take(warm_up(prompts, max_model_len))
    for _ in range(runs):
        for turn in single_turns(prompts, max_model_len):
            take(turn)
        end_run()
    # After all the memory was read: batches grow buffers that stay.
    for _ in range(runs):
        for turn in together_turns(prompts):
            take(turn)


def circumstances(
    bundle: Bundle, question: Question, device: Document, versions: Mapping[str, str]
) -> Document:
    """Return what a reader needs to judge and to repeat the figures."""
    return {
        "model": {"id": bundle.model_id, "scheme": bundle.manifest.scheme},
        "num_threads": question.num_threads,
        "max_model_len": context_of(bundle, question),
        "runs": question.runs,
        "versions": {"python": platform.python_version(), **versions},
        "device": device,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": question.command,
    }
