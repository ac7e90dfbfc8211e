"""The memory budget of the process, one reading of memory, and the plan of what it will hold."""

import math
from dataclasses import dataclass

# A shorter context is no useful advice: the chat template and a question hardly fit.
_MIN_MODEL_LEN = 128
_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class MemorySnapshot:
    """One reading of memory."""

    rss_bytes: int
    """Resident memory of this process."""
    available_bytes: int
    """What the device can still give without swapping."""
    stall_share: float = 0.0
    """Share of the last 10 s in which some process waited for memory (the kernel's PSI)."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """Limits of the memory that this process may take."""

    limit_bytes: int
    """Resident memory in all."""
    min_available_bytes: int = 0
    """Available memory to leave to the rest of the device."""

    def missing_bytes(self, memory: MemorySnapshot, needed_bytes: int) -> int:
        """Return by how much ``needed_bytes`` more exceed the budget; 0 when they fit."""
        over_limit = memory.rss_bytes + needed_bytes - self.limit_bytes
        under_floor = self.min_available_bytes + needed_bytes - memory.available_bytes
        return max(0, over_limit, under_floor)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory that the whole process will hold, reserved before the model is loaded."""

    weights_bytes: int
    kv_bytes: int
    process_bytes: int
    """The interpreter and its libraries: resident before anything is loaded."""
    working_bytes: int
    """Activations, logits, the tokenizer, the grammar."""
    specialists_bytes: int = 0
    serving_bytes: int = 0
    """Requests, deliveries, sessions and replies: the ledger has an account for each of them."""

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        parts = self.weights_bytes, self.kv_bytes, self.process_bytes, self.working_bytes
        return sum(parts) + self.specialists_bytes + self.serving_bytes


def check_plan(
    plan: MemoryPlan, budget: MemoryBudget, available_bytes: int, max_model_len: int
) -> str | None:
    """Return what does not fit and which key to change; None when all fits.

    Of the plan, ``process_bytes`` are resident, and ``kv_bytes`` are for ``max_model_len`` tokens.
    """
    resident = MemorySnapshot(plan.process_bytes, available_bytes)
    missing_bytes = budget.missing_bytes(resident, plan.total_bytes - plan.process_bytes)
    if not missing_bytes:
        return None
    key, advice = _key_to_change(plan, budget, missing_bytes)
    fitting = max_model_len * max(plan.kv_bytes - missing_bytes, 0) // max(plan.kv_bytes, 1)
    smaller = f"set model.max_model_len to {fitting} or less"
    advice += f", or {smaller if fitting >= _MIN_MODEL_LEN else 'use a smaller model'}"
    parts = {
        "weights": plan.weights_bytes,
        "KV cache": plan.kv_bytes,
        "working memory": plan.working_bytes,
        "process": plan.process_bytes,
        "specialists": plan.specialists_bytes,
        "requests": plan.serving_bytes,
    }
    listed = ", ".join(f"{name} {format_mib(size)}" for name, size in parts.items() if size)
    return (
        f"{key}: {format_mib(missing_bytes)} short of {format_mib(plan.total_bytes)}"
        f" ({listed}); {advice}"
    )


def _key_to_change(plan: MemoryPlan, budget: MemoryBudget, missing_bytes: int) -> tuple[str, str]:
    if plan.total_bytes - budget.limit_bytes == missing_bytes:
        return "budget.memory", f"raise it to {math.ceil(plan.total_bytes / _MIB)}M"
    floor = (budget.min_available_bytes - missing_bytes) // _MIB
    lower = f", or lower it to {floor}M" if floor >= 0 else ""
    return "budget.min_available", f"free memory{lower}"


def format_mib(size_bytes: int) -> str:
    """Format a size in MiB, rounded up."""
    return f"{math.ceil(size_bytes / _MIB)} MiB"
