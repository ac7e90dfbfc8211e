"""Memory and latency budgets: may this request be started, and for how many tokens?

Rule: the time, memory readings and the price list are arguments. What is admitted is promised;
every refusal says what would have fitted.
"""

from bisect import bisect_right
from dataclasses import dataclass, replace

from edged.errors import ErrorCode
from edged.protocol.request import OnDeadline, Priority, Rejected, Request
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot, format_mib
from edged.scheduling.schedulability import AdmissionTest, BatchMember, EdfSchedule, Work

RESERVE = {Priority.INTERACTIVE: 0.0, Priority.NORMAL: 0.2, Priority.BACKGROUND: 0.3}
"""Share of the time until a deadline that is promised to nobody of this class, so that a person who
asks later still finds room. The device is not idle for it: what is promised runs at once."""
MEMORY_RETRY_S = 5.0
"""When to come back after ``memory_pressure``: long enough for a neighbour's peak to pass."""

_MIN_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Resources:
    """What the device has for a request right now."""

    max_model_len: int
    cost: CostEstimate
    memory: MemorySnapshot
    budget: MemoryBudget


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that fits its budgets."""

    request: Request
    num_prompt_tokens: int
    max_tokens: int
    """The request's own, or fewer: cut to the context, or shortened to meet the deadline."""
    predicted_s: float
    """From now to the end of the answer, at most."""


def admit(
    request: Request,
    num_prompt_tokens: int,
    resources: Resources,
    admission_test: AdmissionTest,
    *,
    needed_bytes: int = 0,
) -> Admitted | Rejected:
    """Decide whether a request can be answered inside its budgets, and all promises still kept.

    Args:
        request: the request; its deadline and the admission_test are of one clock.
        num_prompt_tokens: length of the prompt with its template, in tokens.
        resources: what there is.
        admission_test: what is promised already, and the time now.
        needed_bytes: memory the request needs beyond what is resident; the KV cache and the
            working memory are reserved at start, so this is the grammar's tables and little else.
    """
    context = resources.max_model_len
    if num_prompt_tokens >= context:
        return Rejected(
            ErrorCode.PROMPT_TOO_LONG,
            f"the prompt has {num_prompt_tokens} tokens; model.max_model_len is {context}, of which"
            " the answer needs at least 1",
            detail={"prompt_tokens": num_prompt_tokens, "max_model_len": context},
        )
    missing_bytes = resources.budget.missing_bytes(resources.memory, needed_bytes)
    if missing_bytes:
        return Rejected(
            ErrorCode.MEMORY_PRESSURE,
            f"{format_mib(missing_bytes)} of memory are missing; see budget.memory and"
            " budget.min_available",
            retry_after_s=MEMORY_RETRY_S,
            detail={"missing_bytes": missing_bytes},
        )
    max_tokens = min(request.max_tokens, context - num_prompt_tokens)
    return _meet_deadline(request, num_prompt_tokens, max_tokens, resources.cost, admission_test)


def refuse_early(
    request: Request, resources: Resources, admission_test: AdmissionTest
) -> Rejected | None:
    """Refuse what has no room for any prompt and any answer, before its tokens are counted.

    Args:
        request: the request; its deadline and the admission_test are of one clock.
        resources: what there is.
        admission_test: what is promised already, and the time now.
    """
    decision = admit(replace(request, max_tokens=1), 1, resources, admission_test)
    return decision if isinstance(decision, Rejected) else None


def _meet_deadline(
    request: Request,
    num_prompt_tokens: int,
    max_tokens: int,
    cost: CostEstimate,
    admission_test: AdmissionTest,
) -> Admitted | Rejected:
    reserve = RESERVE[request.priority]

    def try_admit(max_tokens: int) -> Admitted | None:
        work = Work.of(num_prompt_tokens, max_tokens)
        member = BatchMember(work, request.deadline_s)
        completion_s = admission_test.completion_s(
            member, cost.margin * work.alone_s(cost), reserve
        )
        return (
            None
            if completion_s is None
            else Admitted(request, num_prompt_tokens, max_tokens, completion_s)
        )

    whole = try_admit(max_tokens)
    if whole is not None:
        return whole
    # Fewer tokens fit wherever more do; so count those before the first that do not.
    fitting = bisect_right(
        range(1, max_tokens), x=False, key=lambda count: try_admit(count) is None
    )
    shorter = try_admit(fitting) if fitting else None
    if shorter is not None and request.on_deadline is OnDeadline.SHORTEN:
        return shorter
    schedule = admission_test.best_schedule(request.deadline_s, reserve)
    alone_s = cost.margin * cost.service_s(num_prompt_tokens, max_tokens)
    completion_s = schedule.demand_s(request.deadline_s) + alone_s
    late = Admitted(request, num_prompt_tokens, max_tokens, completion_s)
    return _too_late(late, fitting, schedule, alone_s)


def _too_late(full: Admitted, fitting: int, schedule: EdfSchedule, alone_s: float) -> Rejected:
    """Refuse a promise that cannot be kept, and say what could be promised instead."""
    request = full.request
    left_s = max(request.deadline_s - schedule.now_s, 0.0)
    capacity_s = schedule.capacity_s(request.deadline_s, RESERVE[request.priority])
    helps = schedule.total_s > 0 and alone_s <= request.deadline_s - request.received_s
    # What breaks may be another request's promise: then this one alone would still be in time.
    others = ", or breaks what is promised to others" if full.predicted_s <= left_s else ""
    tokens = "1 token is" if full.max_tokens == 1 else f"{full.max_tokens} tokens are"
    return Rejected(
        ErrorCode.TIMEOUT,
        f"{tokens} predicted to take {full.predicted_s:.1f} s, {left_s:.1f} s"
        f" are left{others}; ask for fewer tokens or more time, or allow on_deadline: shorten",
        retry_after_s=max(alone_s - capacity_s, _MIN_RETRY_S) if helps else None,
        detail={"predicted_ms": round(full.predicted_s * 1000), "max_tokens": fitting},
    )
