"""Check the model: intact files, memory, correct computation on this processor."""

import time
from collections.abc import Iterator

import numpy as np

from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import GraphKind, Manifest
from edged.bundle.signature import SignatureError
from edged.commands.doctor.finding import Finding, failure, good, warning
from edged.commands.staging import checked_name
from edged.config.keys import Config
from edged.daemon import memory
from edged.daemon.invocation import configured_trust
from edged.daemon.memory_plan import divide_memory, plan_memory
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.errors import BundleError
from edged.scheduling.memory_budget import MemoryPlan

_MIB = 1 << 20
# Run as one prompt, in chunks and one by one.
SELF_TEST_TOKENS = 48
_CHUNK_TOKENS = 16
# Root mean square, in standard deviations of the logits. Rounding alone was measured at up to 0.21
# (8-bit kernels for one row round differently from those for many); unrelated ones differ by 1.4.
_LARGEST_DIFFERENCE = 0.5


def open_model(config: Config) -> tuple[Bundle | None, Finding]:
    """Compare every file of the model with the manifest; blocks while it reads."""
    started_s = time.monotonic()
    try:
        bundle = open_bundle(config.model.path, trust=configured_trust(config.security))
    except SignatureError as error:
        return None, failure("model", str(error), "sign the bundle, or install the signer's key")
    except BundleError as error:
        return None, failure("model", str(error), "copy the bundle to this device again")
    took_s = time.monotonic() - started_s
    if not bundle.manifest.quality.passed:
        return bundle, warning(
            "model",
            f"{bundle.model_id} is intact, but missed the quality gate when it was built",
            "build it again with another scheme, or measure it on your own text: `edged verify`",
        )
    size_bytes = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    said = f"{bundle.model_id}: all files are intact"
    return bundle, good("model", said, size_bytes=size_bytes, read_s=round(took_s, 2))


def check_specialists(config: Config, manifest: Manifest) -> Iterator[Finding]:
    """Read what was taught, which the service leaves out where it cannot be used."""
    names: set[str] = set()
    for folder in config.specialists:
        check = f"specialist {folder}"
        try:
            name = checked_name(folder, configured_trust(config.security), manifest)
        except (BundleError, OSError) as error:
            yield failure(check, str(error), "correct it, then: systemctl reload edged")
            continue
        if name in names:
            yield failure(check, f"the name {name} is taken", "teach it with another --name")
        else:
            yield good(check, f"{name} is intact, and made for this model")
        names.add(name)


def check_memory(config: Config, bundle: Bundle, resident_bytes: int) -> Finding:
    """Compare the memory plan with the budget and with the device's memory.

    Args:
        config: All settings.
        bundle: The model.
        resident_bytes: Memory of the running service, which it would free.
    """
    held = memory.snapshot()
    available_bytes = held.available_bytes + resident_bytes
    held = type(held)(held.rss_bytes, available_bytes)
    reservation = divide_memory(config, bundle, held)
    plan, budget, problem = reservation.plan, reservation.budget, reservation.problem
    figures = {
        "plan_bytes": plan.total_bytes,
        "weights_bytes": plan.weights_bytes,
        "kv_bytes": plan.kv_bytes,
        "working_bytes": plan.working_bytes,
        "budget_bytes": budget.limit_bytes,
        "available_bytes": available_bytes,
    }
    if problem is not None:
        said, _, advice = problem.partition("; ")
        return failure("memory", said, advice, **figures)
    said = f"{_mib(plan)} of a budget of {budget.limit_bytes // _MIB} MiB"
    return good("memory", said, **figures)


def check_attention(config: Config, bundle: Bundle) -> Iterator[Finding]:
    """Load the model and compute one text in three ways that must agree; blocks."""
    # A kernel that is wrong on some processor usually is so for one input shape only.
    manifest = bundle.manifest
    plan = plan_memory(config, bundle, memory.snapshot(), num_slots=1)
    needed_bytes = plan.total_bytes - plan.process_bytes + config.budget.min_available_bytes
    if needed_bytes > memory.available_bytes():
        yield warning(
            "attention",
            f"skipped: it needs {needed_bytes // _MIB} MiB in addition to the running programs",
            "stop the service for it: systemctl stop edged; edged doctor; systemctl start edged",
        )
        return
    try:
        graph = load_graph(
            bundle.model_path,
            is_fused=manifest.graph is GraphKind.FUSED,
            max_model_len=min(config.model.max_model_len, manifest.limits.max_model_len),
            num_threads=config.model.num_threads,
        )
    except BundleError as error:
        yield failure("attention", str(error), "build the bundle again with this version of edged")
        return
    difference = _difference(graph)
    if difference > _LARGEST_DIFFERENCE:
        yield failure(
            "attention",
            f"one prompt, chunks and single tokens give different results: {difference:.2f}"
            " standard deviations",
            "do not use it on this processor; report the processor and the model",
            difference=difference,
        )
    else:
        said = "one prompt, chunks and single tokens give the same result"
        yield good("attention", said, difference=difference)


def _difference(graph: Graph) -> float:
    """Return the largest difference of the last logits, in their standard deviations."""
    tokens = np.random.default_rng(7).integers(0, graph.vocab_size, SELF_TEST_TOKENS)
    logits = []
    for size in (SELF_TEST_TOKENS, _CHUNK_TOKENS, 1):
        for start in range(0, SELF_TEST_TOKENS, size):
            # One by one is the decode branch, which may use other kernels.
            row = graph.forward(tokens[start : start + size], start, is_prefill=size > 1)
        logits.append(row[0].astype(np.float64))
        graph.release()
    whole, *others = logits
    deviation = float(whole.std()) or 1.0
    worst = max(float(np.sqrt(np.mean((other - whole) ** 2))) for other in others) / deviation
    return worst if np.isfinite(worst) else float("inf")


def _mib(plan: MemoryPlan) -> str:
    return (
        f"{plan.total_bytes // _MIB} MiB (weights {plan.weights_bytes // _MIB}, KV cache"
        f" {plan.kv_bytes // _MIB}, working {plan.working_bytes // _MIB})"
    )
