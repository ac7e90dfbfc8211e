"""The memory budget of this process, and whether the model fits before a byte of it is loaded.

Rule: a model that does not fit stops the start, with the keys that would help.
"""

import logging
import math
from dataclasses import dataclass, replace

from edged.bundle.folder import Bundle
from edged.bundle.manifest import TOKENIZER, GraphKind, KvType, Manifest
from edged.config.keys import Config
from edged.daemon import memory
from edged.daemon.memory import KernelLimits
from edged.daemon.specialist_folders import needs_adapters, planned_bytes
from edged.daemon.warm_prefixes import planned_tokens
from edged.engine.tuning import CHUNKS
from edged.errors import ConfigError, UnavailableError
from edged.node.ledger import REPLAY_BYTES, deliveries_bytes, request_bytes
from edged.node.sessions import MAX_SESSION_BYTES
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan, MemorySnapshot, check_plan

_LOG = logging.getLogger(__name__)

# Measured on x86-64 with SmolLM2-135M in each scheme and form, after prompts that fill the context
# (tests/system/model/test_memory_plan.py); the vocabulary's share on one of 152,000 tokens too.
# Code that is first run by a request, what the heaps keep, and 6 MiB to spare, so that a budget
# that is just enough causes no memory pressure.
_LIBRARY_BYTES = 24 << 20
# The nodes of a layer, as ONNX Runtime holds them.
_LAYER_BYTES = 350 << 10
# The same of the prefill branch, which only a graph with an int8 cache has.
_PREFILL_BRANCH_BYTES = 250 << 10
# The same of the branches that take adapters, from the first adapted layer on, for each layer.
_ADAPTED_BRANCHES_BYTES = 800 << 10
# A token in the tables of tokenizer and grammar.
_VOCABULARY_BYTES = 560
# Of ``tokenizer.json``, while it is read: 13 to 16, more than is kept of it.
_TOKENIZER_COPIES = 16
# For a token of a prefill chunk and each unit of width; the width is that of a square layer.
_ACTIVATION_BYTES = 40
# Of the weights' size: by how much the kernels' own layout is larger, with the table of a tied
# embedding held in both layouts; that of int8-w8a8 is as large as the weights.
_PREPACKED_SHARE = 0.37
_LOGIT_BYTES = 4
# Past and present of the running answer, and the copies that the graph makes of them.
_PORTABLE_CACHE_COPIES = 2.7
# Rows for all tokens of a chunk, where a fused graph makes one.
_PORTABLE_LOGITS_COPIES = 2.5

# The process before a model is loaded: interpreter and libraries, rounded up.
PROCESS_BYTES = 72 << 20
# A fifth answer at the same time costs each of the others more than it gains.
DEFAULT_SLOTS = 4
# Without a configured budget: of what is free now, the rest is for other processes' growth …
_FREE_SHARE = 0.8
# … and of a kernel limit, so that edged refuses a request before the kernel kills it.
_LIMIT_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class MemoryReservation:
    """The memory that the process may take, and how it is divided."""

    budget: MemoryBudget
    limits: KernelLimits
    plan: MemoryPlan
    """What is held as long as the process lives."""
    num_slots: int
    """Answers decoded at the same time, each with a KV cache of its own."""
    problem: str | None = None
    """What does not fit, and which key to change; None when all fits."""


def reserve_memory(config: Config, bundle: Bundle) -> MemoryReservation:
    """Decide the budget and check that the model fits into it.

    Raises:
        ConfigError: If it can never fit; the message names the keys that would help.
        UnavailableError: If it does not fit beside the other processes' memory now.
    """
    reservation = divide_memory(config, bundle, memory.snapshot())
    if reservation.problem is not None:
        error = refusal(config, bundle, reservation.problem)
        raise error
    is_controller_on = memory.is_memory_controller_on()
    for line in warnings(reservation.budget, reservation.limits, is_controller_on=is_controller_on):
        _LOG.warning(line)
    return reservation


def divide_memory(config: Config, bundle: Bundle, held: MemorySnapshot) -> MemoryReservation:
    """Decide budget and slots, and check whether the model fits beside what is ``held``."""
    limits = memory.kernel_limits()
    budget = decide_budget(config, limits, held)
    max_model_len = min(config.model.max_model_len, bundle.manifest.limits.max_model_len)
    # As many slots as fit, where their number is not configured.
    fewest, most = config.model.num_slots or 1, config.model.num_slots or DEFAULT_SLOTS
    for num_slots in range(most, fewest - 1, -1):
        plan = plan_memory(config, bundle, held, num_slots)
        problem = check_plan(plan, budget, held.available_bytes, max_model_len)
        if problem is None:
            break
    return MemoryReservation(budget, limits, plan, num_slots, problem)


def decide_budget(config: Config, limits: KernelLimits, held: MemorySnapshot) -> MemoryBudget:
    """Return the configured budget, or one made of the kernel's limits and the free memory."""
    limit_bytes = config.budget.memory_bytes
    if limit_bytes is None:
        choices = [int((held.rss_bytes + held.available_bytes) * _FREE_SHARE)]
        for limit in (limits.cgroup_bytes, limits.data_bytes):
            choices += [] if limit is None else [int(limit * _LIMIT_SHARE)]
        limit_bytes = min(choices)
    return MemoryBudget(limit_bytes, config.budget.min_available_bytes)


def lasting_problem(
    config: Config, bundle: Bundle, process_bytes: int = PROCESS_BYTES
) -> str | None:
    """Return what would not fit if nothing else ran on this device; None when all would."""
    alone = MemorySnapshot(process_bytes, memory.total_bytes())
    return divide_memory(config, bundle, alone).problem


def refusal(config: Config, bundle: Bundle, problem: str) -> ConfigError | UnavailableError:
    """Return the error for what does not fit: a lasting one, or one that may end by itself."""
    # A failed attempt may have left the process larger than it was.
    process_bytes = min(PROCESS_BYTES, memory.rss_bytes())
    if lasting_problem(config, bundle, process_bytes) is not None:
        return ConfigError(problem)
    return UnavailableError(f"{problem}; if nothing else ran here, it would fit")


def plan_memory(config: Config, bundle: Bundle, held: MemorySnapshot, num_slots: int) -> MemoryPlan:
    """Add up what the process will hold with this model; only its manifest is read."""
    manifest = bundle.manifest
    max_model_len = min(config.model.max_model_len, manifest.limits.max_model_len)
    slot_bytes = max_model_len * manifest.model.kv_bytes_per_token
    prefix_bytes = planned_tokens(config) * manifest.model.kv_bytes_per_token
    # Which chunk is the fastest is measured later, when the memory is taken already.
    chunk_tokens = min(config.model.prefill_chunk_tokens or CHUNKS[-1], max_model_len)
    is_adapted = manifest.takes_adapters and needs_adapters(config.specialists)
    weights_bytes = manifest.loaded_bytes(is_adapted=is_adapted)
    working_bytes = _working_bytes(manifest, chunk_tokens, num_slots)
    working_bytes += manifest.model.num_layers * _ADAPTED_BRANCHES_BYTES * is_adapted
    if manifest.graph is GraphKind.PORTABLE:
        working_bytes += round(_PORTABLE_CACHE_COPIES * slot_bytes)
    kv_bytes = num_slots * slot_bytes + prefix_bytes
    # The tokenizer is read when nothing is in the cache yet.
    reading_bytes = _LIBRARY_BYTES + _TOKENIZER_COPIES * manifest.files[TOKENIZER].size_bytes
    return MemoryPlan(
        weights_bytes=weights_bytes,
        kv_bytes=kv_bytes,
        process_bytes=held.rss_bytes,
        working_bytes=max(working_bytes, reading_bytes - kv_bytes),
        specialists_bytes=planned_bytes(config.specialists, num_slots),
        serving_bytes=_serving_bytes(config, max_model_len, num_slots),
    )


def _serving_bytes(config: Config, max_model_len: int, num_slots: int) -> int:
    """Add up what is held for clients at most, beside the model."""
    payload_bytes, max_requests = config.request.max_payload_bytes, config.queue.size + num_slots
    parts = (
        REPLAY_BYTES,
        config.sessions.count * MAX_SESSION_BYTES,
        deliveries_bytes(payload_bytes, max_requests),
        max_requests * request_bytes(payload_bytes, max_model_len),
    )
    return sum(parts)


def prefix_room(config: Config, bundle: Bundle, reservation: MemoryReservation) -> int:
    """Return how many tokens of prefixes fit: those planned for, and what the budget has left."""
    free_bytes = reservation.budget.limit_bytes - reservation.plan.total_bytes
    return planned_tokens(config) + free_bytes // bundle.manifest.model.kv_bytes_per_token


def with_prefixes(
    config: Config, bundle: Bundle, reservation: MemoryReservation, num_tokens: int
) -> MemoryReservation:
    """Return the reservation with prefixes of so many tokens, in place of the estimate."""
    num_more, plan = num_tokens - planned_tokens(config), reservation.plan
    more_bytes = num_more * bundle.manifest.model.kv_bytes_per_token
    return replace(reservation, plan=replace(plan, kv_bytes=plan.kv_bytes + more_bytes))


def _working_bytes(manifest: Manifest, chunk_tokens: int, num_slots: int) -> int:
    """Add up what a loaded model holds beside its weights and its cache."""
    facts = manifest.model
    layer_bytes = _LAYER_BYTES
    if facts.kv_type is KvType.INT8:
        layer_bytes += _PREFILL_BRANCH_BYTES
    width = math.sqrt(facts.parameters / max(facts.num_layers, 1))
    num_rows: float = num_slots
    if manifest.graph is GraphKind.PORTABLE:
        num_rows = _PORTABLE_LOGITS_COPIES * chunk_tokens
    share = 0.0 if manifest.scheme == "int8-w8a8" else _PREPACKED_SHARE
    parts = (
        _LIBRARY_BYTES,
        layer_bytes * facts.num_layers,
        _VOCABULARY_BYTES * facts.vocab_size,
        _ACTIVATION_BYTES * width * chunk_tokens,
        _LOGIT_BYTES * facts.vocab_size * num_rows,
        share * manifest.loaded_bytes(),
    )
    return round(sum(parts))


def warnings(budget: MemoryBudget, limits: KernelLimits, *, is_controller_on: bool) -> list[str]:
    """Return where budget and kernel do not agree, and what the operator can do."""
    limit_mib = budget.limit_bytes >> 20
    lines = []
    if limits.cgroup_bytes is not None and limits.cgroup_bytes < budget.limit_bytes:
        lines.append(
            f"budget.memory: {limit_mib} MiB is more than the {limits.cgroup_bytes >> 20} MiB at"
            " which the kernel kills; lower it, or raise MemoryMax= in the unit"
        )
    if not is_controller_on:
        lines.append(
            "budget.memory: this kernel cannot enforce it; add `cgroup_enable=memory"
            " cgroup_memory=1` to the line in /boot/firmware/cmdline.txt and reboot"
        )
    elif not limits.is_enforced(budget.limit_bytes):
        lines.append(
            f"budget.memory: {limit_mib} MiB is kept by edged alone; set MemoryMax={limit_mib}M in"
            " the unit to have the kernel enforce it"
        )
    return lines
