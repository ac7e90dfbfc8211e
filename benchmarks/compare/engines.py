"""The other engines: names and requirements."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.compare.process import EngineLostError, EngineProcess, Setup
from edged.commands.bench.engine import EdgedEngine

EDGED = "edged"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How to start an engine."""

    adapter: str
    """``module:class``; a call with a ``Setup`` loads the model."""
    needs: str | None
    """The library that the adapter imports."""
    is_file: bool
    """Whether the source is a path."""
    install: str
    """Advice if it is missing."""


ENGINES = {
    "llama.cpp": EngineSpec(
        "benchmarks.compare.llama_cpp:LlamaCppEngine",
        needs="llama_cpp",
        is_file=True,
        install="scripts/setup build broker dev bench (compiles llama.cpp once: minutes)",
    ),
    "openvino": EngineSpec(
        "benchmarks.compare.openvino:OpenVinoEngine",
        needs="openvino_genai",
        is_file=True,
        install="scripts/setup build broker dev bench",
    ),
    "ollama": EngineSpec(
        "benchmarks.compare.ollama:OllamaEngine",
        needs=None,
        is_file=False,
        install="start `ollama serve` and `ollama pull` the model",
    ),
}


def load_edged(setup: Setup) -> EdgedEngine:
    """Load edged's own engine in this process; blocks."""
    place = (setup.num_threads, setup.max_model_len, Path(setup.state))
    return EdgedEngine(Path(setup.source), *place)


def other_setup(edged: Setup, engine: str, source: str) -> Setup:
    """Return the setup of another engine: edged's with another adapter and source."""
    return replace(edged, engine=engine, adapter=ENGINES[engine].adapter, source=source)


def start(setup: Setup) -> EngineProcess:
    """Start an engine in its own process; blocks until its model is loaded.

    Raises:
        EngineLostError: It is not installed, its file is missing, or it cannot load its model.
    """
    known = ENGINES.get(setup.engine)
    if known is None:
        return EngineProcess(setup)
    if known.needs is not None and find_spec(known.needs) is None:
        raise EngineLostError(f"{known.needs} is not installed: {known.install}")
    if known.is_file and not Path(setup.source).exists():
        raise EngineLostError(f"{setup.source}: no such file")
    try:
        return EngineProcess(setup)
    except EngineLostError as error:
        raise EngineLostError(f"{error}; {known.install}") from error
