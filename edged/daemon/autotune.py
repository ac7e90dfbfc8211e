"""How the model runs fastest on this device: its attention kernel, and the pieces of a prompt.

Both are measured once, at the first start, by a child process, and kept in ``state.folder``. Which
is faster depends on the processor, the model and how it keeps keys and values.

Rule: never needed. What cannot be measured, or kept, costs speed and a line of log, not the start.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edged.bundle.folder import Bundle
from edged.bundle.manifest import GraphKind
from edged.config import MAX_TUNED_CHUNK_TOKENS, Config
from edged.daemon.atomic_file import AtomicFile
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.prepared import device_key, prepared_model
from edged.engine.steps import EngineSettings

_LOG = logging.getLogger(__name__)

# A longer piece would keep a person who asks meanwhile waiting for too long.
FILE_NAME = "tuning.json"
DEFAULT_CHUNK_TOKENS = 64
_CHUNKS = (32, 64, 128, MAX_TUNED_CHUNK_TOKENS)
_MAX_CHUNK_S = 0.1
# For the child; the unit gives a start 3 minutes.
_PROMPT_TOKENS = 256
_ANSWER_TOKENS = 64
_TIMED_STEPS = 8
_LIMIT_S = 60.0

# Loads the model, with attention computed in tiles or not.
Load = Callable[[bool], Graph]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a model is run; by default, as it is fastest on most processors."""

    has_flash: bool | None = None
    """Whether attention is computed in tiles; None leaves it to the engine."""
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS
    """Prompt tokens of one run."""


def fitted_settings(
    config: Config, bundle: Bundle, num_slots: int, room_bytes: int
) -> EngineSettings:
    """Return how a model is run here, its weights as this processor wants them.

    The first time it blocks for seconds.

    Args:
        config: All settings.
        bundle: The model.
        num_slots: Answers made at the same time.
        room_bytes: Memory that may be taken meanwhile.
    """
    model_path = prepared_model(bundle, _prepared_folder(config), room_bytes)
    tuning = known_tuning(config, bundle, model_path)
    return EngineSettings(
        config.model.max_model_len,
        config.model.num_threads,
        config.model.prefill_chunk_tokens or tuning.chunk_tokens,
        num_slots,
        has_flash=tuning.has_flash,
        model_path=model_path,
    )


def _prepared_folder(config: Config) -> Path:
    """Name the folder of the prepared copy: with the state, or beside the model."""
    if config.state.folder is not None:
        return config.state.folder / "prepared"
    path = config.model.path.resolve()
    return path.with_name(f"{path.name}.prepared")


def known_tuning(config: Config, bundle: Bundle, model_path: Path | None) -> Tuning:
    """Return the tuning of a model here, from the file or a measurement; that blocks for seconds.

    Args:
        config: All settings.
        bundle: The model.
        model_path: Its prepared copy, which a child loads without much memory of its own; without
            one nothing is measured.
    """
    folder = config.state.folder
    if folder is None or model_path is None:
        return Tuning()
    file = AtomicFile(folder / FILE_NAME, "state.folder")
    key = f"{device_key(bundle.sha256)}-{config.model.num_threads}"
    tuning = _read(folder / FILE_NAME, key)
    if tuning is None:
        tuning = _measure_apart(config, bundle, model_path)
        if tuning.has_flash is not None:  # else it failed, and is tried again at the next start
            file.write(json.dumps({"key": key, "tuning": asdict(tuning)}).encode())
    return tuning


def measure(load: Load, clock: Callable[[], float] = time.perf_counter) -> Tuning:
    """Time a request with each kernel, then a prompt in pieces of several sizes; blocks.

    Args:
        load: loads the model.
        clock: seconds; for tests.
    """
    kernels = {has_flash: _request_s(load(has_flash), clock) for has_flash in (True, False)}
    has_flash = min(kernels, key=lambda kernel: kernels[kernel])
    graph = load(has_flash)
    pieces = {chunk: _prefill_s(graph, chunk, clock) for chunk in _CHUNKS}
    allowed = [c for c in _CHUNKS if pieces[c] * c / _PROMPT_TOKENS <= _MAX_CHUNK_S]
    chunk_tokens = min(allowed or _CHUNKS[:1], key=lambda chunk: pieces[chunk])
    return Tuning(has_flash, chunk_tokens)


def _request_s(graph: Graph, clock: Callable[[], float]) -> float:
    """Return what a prompt and an answer of common lengths take."""
    prefill_s = _prefill_s(graph, DEFAULT_CHUNK_TOKENS, clock)
    started_s = clock()
    for step in range(_TIMED_STEPS):
        graph.forward(np.array([1]), _PROMPT_TOKENS + step, is_prefill=False)
    return prefill_s + (clock() - started_s) * _ANSWER_TOKENS / _TIMED_STEPS


def _prefill_s(graph: Graph, chunk_tokens: int, clock: Callable[[], float]) -> float:
    """Return what a prompt takes; of two times the quicker, as disturbances only slow it down."""
    token_ids = np.arange(_PROMPT_TOKENS) % graph.vocab_size
    times_s = []
    for _ in range(2):
        started_s = clock()
        for start in range(0, _PROMPT_TOKENS, chunk_tokens):
            graph.forward(token_ids[start : start + chunk_tokens], start)
        times_s.append(clock() - started_s)
    return min(times_s)


def _measure_apart(config: Config, bundle: Bundle, model_path: Path) -> Tuning:
    """Measure in a child process, whose memory is gone with it."""
    _LOG.info("measuring how the model runs fastest on this device, once")
    command = [sys.executable, "-m", __spec__.name, str(model_path)]
    command += ["--fused"] * (bundle.manifest.graph is GraphKind.FUSED)
    if config.model.num_threads is not None:
        command.append(f"--threads={config.model.num_threads}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
        tuning = Tuning(**json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        _LOG.warning("the model is run as on most devices: no measurement: %s", error)
        return Tuning()
    kernel = "in tiles" if tuning.has_flash else "as a whole"
    _LOG.info("attention %s, prompts in pieces of %d tokens", kernel, tuning.chunk_tokens)
    return tuning


def _read(path: Path, key: str) -> Tuning | None:
    try:
        members = json.loads(path.read_bytes())
        return Tuning(**members["tuning"]) if members["key"] == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOG.warning("%s: cannot be read, and is measured anew: %s", path, error)
        return None


def main() -> int:
    """Measure a model and print the tuning as JSON: the child process."""
    parser = argparse.ArgumentParser(prog="tuning")
    parser.add_argument("model", type=Path, help="the graph")
    parser.add_argument("--fused", action="store_true", help="which form it has")
    parser.add_argument("--threads", type=int, help="threads that compute")
    arguments = parser.parse_args()

    def load(has_flash: bool) -> Graph:  # noqa: FBT001 - called with what it is
        return load_graph(
            arguments.model,
            is_fused=arguments.fused,
            max_model_len=_PROMPT_TOKENS + _ANSWER_TOKENS,
            num_threads=arguments.threads,
            has_flash=has_flash,
        )

    print(json.dumps(asdict(measure(load))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
