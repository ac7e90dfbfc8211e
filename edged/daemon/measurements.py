"""What is measured once for a model on a device, and kept in ``state.folder`` for later starts.

Rule: a file that is damaged, that belongs to another model, processor or setting, or that cannot
be written costs another measurement, never the start.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edged.bundle.folder import Bundle
from edged.config.keys import Config
from edged.daemon.atomic_file import AtomicFile
from edged.engine.loop import Engine
from edged.engine.prepared import describe_processor, device_key
from edged.scheduling.latency_model import CostEstimate, read_cost

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T", bound="DataclassInstance")

# Version of what is measured, and how: another one invalidates all files.
_RECIPE = "2"
COST_FILE = "cost.json"
_CPUINFO = Path("/proc/cpuinfo")


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


def load_or_measure(
    path: Path | None, key: str, parse: Callable[[Any], _T], measure: Callable[[], _T]
) -> _T:
    """Return the value in a file, or measure it and write the file.

    Args:
        path: The file; None measures without keeping it.
        key: What the value must have been measured for.
        parse: Makes the value from the members that ``dataclasses.asdict`` gives.
        measure: Called if need be; what it raises is passed on, and nothing is kept.
    """
    if path is None:
        return measure()
    try:
        members = json.loads(path.read_bytes())
        if members["key"] == key:
            return parse(members[path.stem])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOG.warning("%s: cannot be read, and is measured anew: %s", path, error)
    value = measure()
    content = json.dumps({"key": key, path.stem: asdict(value)})
    AtomicFile(path, "state.folder").write(content.encode())
    return value


def known_cost(config: Config, bundle: Bundle, engine: Engine) -> CostEstimate:
    """Return the latency model's costs of this model here.

    A measurement blocks for 2 s and uses the engine: nothing else may.
    """
    path = config.state.folder and config.state.folder / COST_FILE
    # The chunk is part of the key: it may be one that autotune has chosen.
    key = f"{fingerprint(config, bundle)}-{engine.chunk_tokens}"
    cost = load_or_measure(path, key, read_cost, engine.measure)
    _LOG.info("prefill %.0f tok/s, decode %.0f tok/s", cost.prefill_tok_s, cost.decode_tok_s)
    return cost
