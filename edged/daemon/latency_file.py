"""Keep the price list of a device over restarts, so that it is measured once.

Rule: a list belongs to one model on one device; for any other it is measured anew. A file that is
damaged or cannot be written costs a measurement, never a start.
"""

import dataclasses
import hashlib
import json
import logging
import os
import platform
from pathlib import Path

from edged.config import Config
from edged.daemon.atomic_file import AtomicFile
from edged.daemon.loader import ResidentModel
from edged.engine.prepared import describe_processor
from edged.scheduling.latency_model import CostEstimate, read_cost

_LOG = logging.getLogger(__name__)

# What a list has that those of an older edged lack; they are measured anew.
FILE_NAME = "cost.json"
_FORM = "rows"
_CPUINFO = Path("/proc/cpuinfo")


def known_cost(config: Config, model: ResidentModel) -> CostEstimate:
    """Return the price list of this model here, from the file or a measurement.

    A measurement blocks for 2 s and uses the engine: nothing else may.
    """
    if model.cost is not None:
        return model.cost
    folder = config.state.folder
    file = AtomicFile(None if folder is None else folder / FILE_NAME, "state.folder")
    key = cost_key(config, model.bundle.model_id)
    cost = _read(file.path, key)
    if cost is None or cost.chunk_tokens != model.engine.chunk_tokens:
        cost = model.engine.measure()
        file.write(json.dumps({"key": key, "cost": dataclasses.asdict(cost)}).encode())
    _LOG.info("prefill %.0f tok/s, decode %.0f tok/s", cost.prefill_tok_s, cost.decode_tok_s)
    return cost


def cost_key(config: Config, model_id: str, cpuinfo: Path = _CPUINFO) -> str:
    """Name what a price list depends on: the model, the processor, and how they are used."""
    # "model name" on x86, "CPU part" on Arm; a Pi names its board in "Model".
    processor = describe_processor(("model name", "CPU part", "Model"), cpuinfo)
    settings = config.model
    parts = [
        _FORM,
        model_id,
        platform.machine(),
        *processor,
        str(len(os.sched_getaffinity(0))),
        str(settings.num_threads),
        str(settings.prefill_chunk_tokens),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _read(path: Path | None, key: str) -> CostEstimate | None:
    if path is None:
        return None
    try:
        members = json.loads(path.read_bytes())
        return read_cost(members["cost"]) if members["key"] == key else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        _LOG.warning("%s: cannot be read, and is measured anew: %s", path, error)
        return None
