"""``edged plan``: print the memory a model needs on this device, without loading it.

Rule: the figures are those of the daemon's own check at its start.
"""

import argparse
import importlib
import json
from collections.abc import Iterator
from typing import Any

from edged.bundle.folder import Bundle, open_bundle
from edged.config.keys import Config
from edged.daemon import memory
from edged.daemon.invocation import add_config_arguments, read_config
from edged.daemon.memory_plan import divide_memory, refusal
from edged.errors import ExitCode
from edged.scheduling.memory_budget import MemoryPlan, MemorySnapshot

_MIB = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: those of ``edged run``, and overrides for the plan."""
    add_config_arguments(parser)
    parser.add_argument(
        "--context", metavar="N", help="tokens of prompt and answer; overrides model.max_model_len"
    )
    parser.add_argument(
        "--slots", metavar="K", help="requests answered at the same time; overrides model.num_slots"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, in bytes")


def main(arguments: argparse.Namespace) -> int:
    """Print the plan; return 78 when it can never fit, 75 when it does not fit at the moment.

    Raises:
        UsageError: If neither a configuration nor a model is given.
        EdgedError: If a setting is wrong, or the folder holds no model.
    """
    own = {"model.max_model_len": arguments.context, "model.num_slots": arguments.slots}
    config = read_config(arguments, own)
    bundle = open_bundle(config.model.path, verify=False)
    figures = make_figures(config, bundle, process_snapshot())
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        print("\n".join(as_lines(figures)))
    problem = figures["problem"]
    return ExitCode.OK if problem is None else refusal(config, bundle, problem).exit_code


def process_snapshot() -> MemorySnapshot:
    """Read memory as the daemon does before it loads a model, with its imports loaded."""
    importlib.import_module("edged.daemon.run")
    return memory.snapshot()


def make_figures(config: Config, bundle: Bundle, held: MemorySnapshot) -> dict[str, Any]:
    """Return the plan, the device's memory, and what does not fit; sizes in bytes."""
    reservation = divide_memory(config, bundle, held)
    plan, budget, manifest = reservation.plan, reservation.budget, bundle.manifest
    return {
        "model": bundle.model_id,
        "max_model_len": min(config.model.max_model_len, manifest.limits.max_model_len),
        "num_slots": reservation.num_slots,
        "kv_bytes_per_token": manifest.model.kv_bytes_per_token,
        **_parts(plan),
        "total_bytes": plan.total_bytes,
        "device": {
            "total_bytes": memory.total_bytes(),
            "available_bytes": held.available_bytes,
            "cgroup_bytes": reservation.limits.cgroup_bytes,
            "budget_bytes": budget.limit_bytes,
            "min_available_bytes": budget.min_available_bytes,
        },
        "problem": reservation.problem,
    }


def _parts(plan: MemoryPlan) -> dict[str, int]:
    return {
        "weights_bytes": plan.weights_bytes,
        "kv_bytes": plan.kv_bytes,
        # Keys and values of earlier prompts stay in the slots they were computed in.
        "prefix_cache_bytes": 0,
        "working_bytes": plan.working_bytes,
        "process_bytes": plan.process_bytes,
        "specialists_bytes": plan.specialists_bytes,
        "serving_bytes": plan.serving_bytes,
    }


def as_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yield the plan as text."""
    slots = "slot" if figures["num_slots"] == 1 else "slots"
    head = f"{figures['model']}, context {figures['max_model_len']}"
    yield f"{head}, {figures['num_slots']} {slots}"
    rows = (
        ("weights", "weights_bytes", "mapped from disk if a prepared copy can be made"),
        ("keys and values", "kv_bytes", f"{figures['kv_bytes_per_token']} bytes a token"),
        ("prefix cache", "prefix_cache_bytes", "earlier prompts stay in the slots"),
        ("working memory", "working_bytes", "activations, tokenizer, grammars"),
        ("process", "process_bytes", "the interpreter and its libraries"),
        ("specialists", "specialists_bytes", "what was taught to the model"),
        ("requests", "serving_bytes", "a full queue, sessions, replies to send again"),
        ("total", "total_bytes", ""),
    )
    for title, key, note in rows:
        if key == "specialists_bytes" and not figures[key]:
            continue
        yield f"  {title:<16} {figures[key] / _MIB:6.0f} MiB  {note}".rstrip()
    device = figures["device"]
    cgroup = device["cgroup_bytes"]
    limit = "no control group limit" if cgroup is None else f"limited to {cgroup >> 20} MiB"
    yield (
        f"device: {device['available_bytes'] >> 20} MiB available of"
        f" {device['total_bytes'] >> 20}, {limit}; budget {device['budget_bytes'] >> 20} MiB"
    )
    yield "it fits" if figures["problem"] is None else f"it does not fit: {figures['problem']}"
