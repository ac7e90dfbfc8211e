"""Admission control: may a request be accepted within its memory and latency budgets?

An accepted request is promised to complete by its deadline; a refusal says what would fit.
"""

from bisect import bisect_right
from dataclasses import dataclass

from edged.errors import ErrorCode
from edged.protocol.request import OnDeadline, Priority, Rejected, Request
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.memory_budget import MemoryBudget, MemorySnapshot, format_mib
from edged.scheduling.schedulability import (
    NOTHING,
    AdmissionTest,
    EdfSchedule,
    Reserve,
    Share,
    Work,
)

# Part of the time until a deadline that a class must leave free, so that a more urgent request
# still fits later. The device is not idle for it: admitted work starts at once.
RESERVE = {
    Priority.INTERACTIVE: Reserve(0.0),
    Priority.NORMAL: Reserve(0.2),
    Priority.BACKGROUND: Reserve(0.3),
}
# When to retry after ``memory_pressure``: another process's peak has passed by then.
MEMORY_RETRY_S = 5.0
MIN_RETRY_S = 0.1


@dataclass(frozen=True, slots=True)
class Resources:
    """What the device has for a request right now."""

    max_model_len: int
    cost: CostEstimate
    memory: MemorySnapshot
    budget: MemoryBudget


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request needs."""

    num_prompt_tokens: int
    """Of its longest prompt, with the chat template."""
    max_tokens: int
    """Of the answer; 0 where none is written."""
    num_other_tokens: int = 0
    """Prompt tokens of its other runs."""
    needed_bytes: int = 0
    """Of keys and values that become resident with it, at positions that no slot has used yet."""


def admit(
    request: Request, demand: Demand, resources: Resources, admission_test: AdmissionTest
) -> int | Rejected:
    """Decide whether a request can be answered within its budgets, all admitted deadlines kept.

    Args:
        request: the request; its deadline is on the clock of the test.
        demand: what it needs.
        resources: what the device has now.
        admission_test: the admitted requests at this time.

    Returns:
        The tokens that the answer may have: as many as it needs, or fewer, cut to the context or
        shortened to meet the deadline.
    """
    num_prompt_tokens, context = demand.num_prompt_tokens, resources.max_model_len
    if num_prompt_tokens >= context:
        return Rejected(
            ErrorCode.PROMPT_TOO_LONG,
            f"the prompt has {num_prompt_tokens} tokens; model.max_model_len is {context}, of which"
            " the answer needs at least 1",
            detail={"prompt_tokens": num_prompt_tokens, "max_model_len": context},
        )
    missing_bytes = resources.budget.missing_bytes(resources.memory, demand.needed_bytes)
    if missing_bytes:
        return Rejected(
            ErrorCode.MEMORY_PRESSURE,
            f"{format_mib(missing_bytes)} of memory are missing; see budget.memory and"
            " budget.min_available",
            retry_after_s=MEMORY_RETRY_S,
            detail={"missing_bytes": missing_bytes},
        )
    max_tokens = min(demand.max_tokens, context - num_prompt_tokens)
    num_prompt_tokens += demand.num_other_tokens
    return _meet_deadline(request, num_prompt_tokens, max_tokens, resources.cost, admission_test)


def refuse_early(
    request: Request, resources: Resources, admission_test: AdmissionTest
) -> Rejected | None:
    """Refuse a request for which even a prompt and an answer of 1 token do not fit.

    That is known before its prompt is tokenized. The arguments are those of ``admit``.
    """
    decision = admit(request, Demand(1, 1), resources, admission_test)
    return decision if isinstance(decision, Rejected) else None


def _meet_deadline(
    request: Request,
    num_prompt_tokens: int,
    max_tokens: int,
    cost: CostEstimate,
    admission_test: AdmissionTest,
) -> int | Rejected:
    reserve = NOTHING if admission_test.is_next else RESERVE[request.priority]

    def alone_s(num_tokens: int) -> float:
        return cost.margin * Work.of(num_prompt_tokens, num_tokens).alone_s(cost)

    def is_in_time(num_tokens: int) -> bool:
        work = Work.of(num_prompt_tokens, num_tokens, request.deadline_s)
        return admission_test.passes(work, alone_s(num_tokens), reserve)

    def fits(num_tokens: int) -> bool:
        if admission_test.over_share_s(request.deadline_s, alone_s(num_tokens)):
            return False
        work = Work.of(num_prompt_tokens, num_tokens, request.deadline_s)
        has_room = admission_test.leaves_room(work, alone_s(num_tokens), reserve)
        return has_room and is_in_time(num_tokens)

    if fits(max_tokens):
        return max_tokens
    # Fewer tokens fit wherever more do, so bisection finds the most that fit.
    fitting = bisect_right(range(1, max_tokens), x=False, key=lambda count: not fits(count))
    if fitting and request.on_deadline is OnDeadline.SHORTEN:
        return fitting
    share = admission_test.share
    if share is not None and is_in_time(max_tokens):
        return _over_share(request, fitting, alone_s(max_tokens), admission_test, share)
    schedule = admission_test.best_schedule(request.deadline_s, reserve)
    return _too_late(request, max_tokens, fitting, schedule, alone_s(max_tokens))


def _over_share(
    request: Request, fitting: int, alone_s: float, admission_test: AdmissionTest, share: Share
) -> Rejected:
    """Refuse what could be answered in time, but only with time that is kept for others."""
    deadline_s, room = request.deadline_s, share.room.beside(RESERVE[request.priority])
    left_s = deadline_s - share.promised.now_s
    over_s = admission_test.over_share_s(deadline_s, alone_s)
    if over_s:
        # Until then it is served its part at least.
        retry_s = over_s / share.part
        reason = f"this client has been promised its share of the next {left_s:.1f} s"
    else:
        schedule = admission_test.best_schedule(deadline_s, room)
        retry_s = alone_s - schedule.capacity_s(deadline_s, room)
        reason = f"what is free of the next {left_s:.1f} s is kept for clients promised less"
    retry_s = max(retry_s, MIN_RETRY_S)
    return Rejected(
        ErrorCode.QUEUE_FULL,
        f"{reason}; retry after {retry_s:.1f} s, or ask for fewer tokens",
        retry_after_s=retry_s,
        detail={"max_tokens": fitting},
    )


def _too_late(
    request: Request, max_tokens: int, fitting: int, schedule: EdfSchedule, alone_s: float
) -> Rejected:
    """Refuse what would miss a deadline, and say how many tokens would fit."""
    left_s = max(request.deadline_s - schedule.now_s, 0.0)
    predicted_s = schedule.demand_s(request.deadline_s) + alone_s
    capacity_s = schedule.capacity_s(request.deadline_s, RESERVE[request.priority])
    # A retry helps if others are in the way, and alone it would fit into its original time.
    helps = schedule.total_s > 0 and alone_s <= request.deadline_s - request.received_s
    is_other = predicted_s <= left_s
    others = ", but an admitted request would miss its deadline" if is_other else ""
    tokens = "1 token is" if max_tokens == 1 else f"{max_tokens} tokens are"
    if max_tokens == 0:  # a decision: nothing is written
        tokens = "the prompt is"
    return Rejected(
        ErrorCode.TIMEOUT,
        f"{tokens} predicted to take {predicted_s:.1f} s, {left_s:.1f} s"
        f" are left{others}; ask for fewer tokens or more time, or allow on_deadline: shorten",
        retry_after_s=max(alone_s - capacity_s, MIN_RETRY_S) if helps else None,
        detail={"predicted_ms": max(1, round(predicted_s * 1000)), "max_tokens": fitting},
    )
