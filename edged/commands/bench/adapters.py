"""The engines that can be measured: what each is called, what it needs, how it is driven.

Rule: an adapter takes token ids and reports token ids; it is imported in the engine's own process.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

EDGED = "edged"

OnToken = Callable[[int], None]
"""Called at once for each token of an answer."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What an engine is started with; the same for all but the source."""

    engine: str
    """A key of ``KNOWN``."""
    source: str
    """The bundle's folder, a GGUF file, or a model's name."""
    bundle: str
    """The bundle's folder, whose token ids all engines are given."""
    vocab_size: int
    num_threads: int
    max_model_len: int
    state: str
    """A folder where edged keeps what it makes for this device."""


class Adapter(Protocol):
    """One engine, loaded with one model."""

    def versions(self) -> dict[str, str]:
        """Return the versions of what computes."""
        ...

    def generate(self, prompt: Sequence[int], count: int, on_token: OnToken) -> None:
        """Answer with exactly ``count`` greedy tokens, stop tokens included; blocks.

        What the engine caches of earlier prompts is used, as it would be in service.
        """
        ...

    def together(self, prompts: Sequence[Sequence[int]], steps: int) -> float | None:
        """Answer prompts of one length at the same time; blocks.

        Returns:
            The seconds that ``steps`` tokens of each took after their first; None where the engine
            takes one prompt at a time.
        """
        ...

    def process_ids(self) -> list[int]:
        """Return the processes whose memory and CPU time are the engine's."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """An engine that can be measured."""

    adapter: str
    """``module:class``; called with a ``Setup``, it loads the model."""
    is_file: bool
    """Whether the source is a path."""
    install: str
    """What to do when it is missing."""


KNOWN = {
    EDGED: Known("edged.commands.bench.edged_engine:EdgedEngine", is_file=True, install=""),
    "llama.cpp": Known(
        "edged.commands.bench.llama_cpp_engine:LlamaCppEngine",
        is_file=True,
        install="pip install 'edged[bench]' (compiles llama.cpp once: minutes)",
    ),
    "openvino": Known(
        "edged.commands.bench.openvino_engine:OpenVinoEngine",
        is_file=True,
        install="pip install 'edged[bench]'",
    ),
    "ollama": Known(
        "edged.commands.bench.ollama_engine:OllamaEngine",
        is_file=False,
        install="start `ollama serve` and `ollama pull` the model",
    ),
}


def load_adapter(setup: Setup, target: str | None = None) -> Adapter:
    """Import an engine's adapter and load its model; blocks.

    Args:
        setup: what to load.
        target: the adapter, ``module:class``; None takes the engine's own.

    Raises:
        ModuleNotFoundError: the engine is not installed.
    """
    module, _, name = (target or KNOWN[setup.engine].adapter).partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)(setup)
    return adapter
