"""What is measured once for a model on a device, and kept in ``state.folder`` for later starts.

- Its tuning: attention kernel and prefill chunk. Which are the fastest depends on the processor,
  the model and the type of its KV cache; a child process measures it at the first start.
- Its cost: what the latency model expects a token to take.

Rule: a file that is damaged, that belongs to another model, processor or setting, or that cannot
be written costs another measurement, never the start; and a tuning that cannot be measured or kept
costs speed and a line of log.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from edged.bundle.folder import Bundle
from edged.bundle.manifest import GraphKind
from edged.bundle.plain_file import read_plain
from edged.config.keys import Config
from edged.daemon.atomic_file import AtomicFile
from edged.daemon.specialist_folders import needs_adapters
from edged.engine import tuning
from edged.engine.loop import Engine
from edged.engine.prepared import describe_processor, device_key, prepared_model
from edged.engine.steps import EngineSettings
from edged.engine.tuning import CHUNKS, Tuning
from edged.scheduling.latency_model import CostEstimate

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T", bound="DataclassInstance")

# Version of what is measured, and how: another one invalidates all files.
_RECIPE = "2"
COST_FILE, TUNING_FILE = "cost.json", "tuning.json"
_MAX_FILE_BYTES = 4096
_CPUINFO = Path("/proc/cpuinfo")
# For the child; the unit gives a start 3 minutes.
_LIMIT_S = 60.0


def fingerprint(config: Config, bundle: Bundle, cpuinfo: Path = _CPUINFO) -> str:
    """Identify the model, the processor, ONNX Runtime, and the settings that change their speed."""
    settings = config.model
    parts = [
        _RECIPE,
        device_key(bundle.sha256, cpuinfo),
        # Boards with the same cores ("Model" on a Pi) differ in their clock and memory.
        *describe_processor(("Model",), cpuinfo),
        str(len(os.sched_getaffinity(0))),
        str(settings.num_threads),
        str(settings.prefill_chunk_tokens),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def known_cost(config: Config, bundle: Bundle, engine: Engine) -> CostEstimate:
    """Return the latency model's costs of this model here.

    A measurement blocks for 2 s and uses the engine: nothing else may.
    """
    path = config.state.folder and config.state.folder / COST_FILE
    # The chunk is part of the key: it may be one that the tuning has chosen.
    key = f"{fingerprint(config, bundle)}-{engine.chunk_tokens}"
    cost = _load_or_measure(
        path, key, CostEstimate, engine.measure, lambda it: it.chunk_tokens == engine.chunk_tokens
    )
    _LOG.info("prefill %.0f tok/s, decode %.0f tok/s", cost.prefill_tok_s, cost.decode_tok_s)
    return cost


def fitted_settings(
    config: Config, bundle: Bundle, num_slots: int, room_bytes: int
) -> EngineSettings:
    """Return how a model is run here, with its prepared copy; the first time it blocks for seconds.

    The graph that takes adapters is slower and larger, so it is taken only where a specialist
    writes. In a bundle without one, that specialist is left out with its reason.
    Meanwhile a child process takes up to ``room_bytes``.
    """
    path = config.model.path.resolve()
    folder = config.state.folder
    prepared = folder / "prepared" if folder else path.with_name(f"{path.name}.prepared")
    is_adapted = bundle.manifest.takes_adapters and needs_adapters(config.specialists)
    copy = prepared_model(bundle, prepared, room_bytes, is_adapted=is_adapted)
    fastest = known_tuning(config, bundle, copy)
    return EngineSettings(
        config.model.max_model_len,
        config.model.num_threads,
        config.model.prefill_chunk_tokens or fastest.chunk_tokens,
        num_slots,
        has_flash=fastest.has_flash,
        model_path=copy or (bundle.adapted_path if is_adapted else None),
        # Memory is planned for so many, whatever chunk was found to be the fastest.
        batch_tokens=config.model.prefill_chunk_tokens or CHUNKS[-1],
    )


def known_tuning(config: Config, bundle: Bundle, model_path: Path | None) -> Tuning:
    """Return the tuning of a model here, from the file or a measurement; that blocks for seconds.

    ``model_path`` is its prepared copy; without one nothing is measured.
    """
    # A child maps the copy; of the bundle's own graph it would hold all weights a second time.
    if config.state.folder is None or model_path is None:
        return Tuning()
    path, key = config.state.folder / TUNING_FILE, fingerprint(config, bundle)
    try:
        return _load_or_measure(
            path, key, Tuning, lambda: _measure_in_child(config, bundle, model_path), _is_possible
        )
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        _LOG.warning("the model is run as on most devices: no measurement: %s", error)
        return Tuning()


def _is_possible(found: Tuning) -> bool:
    return found.has_flash in (True, False) and found.chunk_tokens in CHUNKS


def _load(path: Path, key: str, kind: type[_T], is_possible: Callable[[_T], bool]) -> _T | None:
    """Return the value in a file; None if it is of another ``key``.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read.
        ValueError: It is damaged; or another of the errors of what is no such JSON.
    """
    members = json.loads(read_plain(path, _MAX_FILE_BYTES))
    if members["key"] != key:
        return None
    value = kind(**members[path.stem])
    if not is_possible(value):
        raise ValueError(f"not possible: {value}")
    return value


def _load_or_measure(
    path: Path | None,
    key: str,
    kind: type[_T],
    measure: Callable[[], _T],
    is_possible: Callable[[_T], bool],
) -> _T:
    """Return the value in a file if it is of this ``key``, or measure it and write the file.

    Without a ``path`` it is measured and not kept.
    """
    if path is None:
        return measure()
    try:
        found = _load(path, key, kind, is_possible)
        if found is not None:
            return found
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        _LOG.warning("%s: cannot be read, and is measured anew: %s", path, error)
    value = measure()
    content = json.dumps({"key": key, path.stem: asdict(value)})
    AtomicFile(path, "state.folder").write(content.encode())
    return value


def _measure_in_child(config: Config, bundle: Bundle, model_path: Path) -> Tuning:
    """Measure in a child process, whose memory is freed with it."""
    _LOG.info("measuring how the model runs fastest on this device, once")
    options = {
        "is_fused": bundle.manifest.graph is GraphKind.FUSED,
        "num_threads": config.model.num_threads,
    }
    command = [sys.executable, "-m", tuning.__spec__.name, str(model_path), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)
    found = Tuning(**json.loads(done.stdout))
    kernel = "in tiles" if found.has_flash else "as a whole"
    _LOG.info("attention %s, prompts in chunks of %d tokens", kernel, found.chunk_tokens)
    return found
