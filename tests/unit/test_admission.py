"""Admission: what fits its budgets is let in, what does not is told what would."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edged.errors import ErrorCode
from edged.protocol.request import OnDeadline, Priority, Rejected
from edged.scheduling.admission import RESERVE, Demand, Resources, admit, refuse_early
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.memory_budget import MemoryBudget, MemoryPlan, MemorySnapshot, check_plan
from edged.scheduling.schedulability import AdmissionTest, Commitment, EdfSchedule
from tests.make_request import make_request

MIB = 1024**2
COST = CostEstimate(prefill_token_s=0.01, decode_token_s=0.1, run_s=0.5, chunk_tokens=4096)
"""With 100 prompt tokens 1.5 s to the first token, and 0.1 s for each that follows."""
AMPLE = Resources(
    max_model_len=1000,
    cost=COST,
    memory=MemorySnapshot(rss_bytes=300 * MIB, available_bytes=500 * MIB),
    budget=MemoryBudget(limit_bytes=400 * MIB, min_available_bytes=64 * MIB),
)


def decide(
    num_prompt_tokens: int = 100,
    *,
    resources: Resources = AMPLE,
    backlog_s: float = 0.0,
    now_s: float = 0.0,
    needed_bytes: int = 0,
    commitments: Sequence[Commitment] = (),
    **request: Any,  # noqa: ANN401 - as make_request takes them
) -> int | Rejected:
    asked = make_request(**request)
    return admit(
        asked,
        Demand(num_prompt_tokens, asked.max_tokens, needed_bytes=needed_bytes),
        resources,
        AdmissionTest(
            [EdfSchedule(now_s, commitments, blocking_s=backlog_s)],
            is_next=not (commitments or backlog_s),  # an idle device
        ),
    )


def rejected(decision: int | Rejected, code: ErrorCode) -> Rejected:
    assert isinstance(decision, Rejected)
    assert decision.code is code
    return decision


def admitted(decision: int | Rejected) -> int:
    assert isinstance(decision, int)
    return decision


def test_what_fits_within_the_predicted_time_is_admitted() -> None:
    needed_s = 2.0 + 1.1 * (1.5 + 4.9)
    ask = partial(decide, 100, max_tokens=50, backlog_s=2.0, priority=Priority.INTERACTIVE)
    assert admitted(ask(deadline_s=needed_s + 0.01)) == 50
    assert isinstance(ask(deadline_s=needed_s - 0.01), Rejected)


def test_a_prompt_without_room_for_one_token_is_refused_with_both_counts() -> None:
    assert isinstance(decide(999), int)
    refusal = rejected(decide(1000), ErrorCode.PROMPT_TOO_LONG)
    assert refusal.detail == {"prompt_tokens": 1000, "max_model_len": 1000}
    assert "1000" in refusal.message
    assert refusal.retry_after_s is None


def test_tokens_are_cut_to_the_context() -> None:
    assert admitted(decide(990, max_tokens=50, deadline_s=60.0)) == 10


@pytest.mark.parametrize(
    ("rss_mib", "available_mib", "needed_mib", "missing_mib"),
    [(400, 64, 0, 0), (399, 65, 1, 0), (400, 500, 1, 1), (100, 63, 0, 1), (450, 64, 0, 50)],
)
def test_memory_is_refused_over_the_budget_or_under_the_floor(
    rss_mib: int, available_mib: int, needed_mib: int, missing_mib: int
) -> None:
    memory = MemorySnapshot(rss_mib * MIB, available_mib * MIB)
    decision = decide(resources=replace(AMPLE, memory=memory), needed_bytes=needed_mib * MIB)
    if not missing_mib:
        assert isinstance(decision, int)
        return
    refusal = rejected(decision, ErrorCode.MEMORY_PRESSURE)
    assert refusal.detail == {"missing_bytes": missing_mib * MIB}
    assert refusal.message.startswith(f"{missing_mib} MiB of memory are missing; see budget.")
    assert refusal.retry_after_s == 5.0


def test_too_many_tokens_for_the_deadline_are_refused_with_those_that_fit() -> None:
    refusal = rejected(decide(100, deadline_s=5.55, max_tokens=128), ErrorCode.TIMEOUT)
    assert refusal.detail == {"predicted_ms": 15620, "max_tokens": 36}
    assert refusal.message.startswith("128 tokens are predicted to take 15.6 s, 5.5 s are left;")
    assert admitted(decide(100, deadline_s=5.55, max_tokens=36)) == 36
    assert isinstance(decide(100, deadline_s=5.55, max_tokens=37), Rejected)


def test_a_request_that_allows_it_is_shortened() -> None:
    decision = decide(100, deadline_s=5.55, max_tokens=128, on_deadline=OnDeadline.SHORTEN)
    assert admitted(decision) == 36


@pytest.mark.parametrize("deadline_s", [-1.0, 0.0, 1.0])
def test_no_time_for_one_token_is_a_timeout_even_shortened(deadline_s: float) -> None:
    decision = decide(deadline_s=deadline_s, received_s=-30.0, on_deadline=OnDeadline.SHORTEN)
    refusal = rejected(decision, ErrorCode.TIMEOUT)
    assert refusal.detail["max_tokens"] == 0
    assert f"{max(deadline_s, 0.0):.1f} s are left" in refusal.message


def test_waiting_is_advised_only_where_it_helps() -> None:
    # Alone it takes 15.62 s; of 20 s a normal request can be promised 16 s.
    wait = rejected(decide(deadline_s=20.0, backlog_s=15.0), ErrorCode.TIMEOUT)
    assert wait.retry_after_s == pytest.approx(15.62 - 1.0)
    hopeless = rejected(decide(deadline_s=10.0, backlog_s=15.0), ErrorCode.TIMEOUT)
    assert hopeless.retry_after_s is None
    late = rejected(decide(deadline_s=20.0, now_s=19.0), ErrorCode.TIMEOUT)
    assert late.retry_after_s is None
    nearly = decide(received_s=100.0, now_s=100.0, deadline_s=119.5, backlog_s=0.0001)
    assert rejected(nearly, ErrorCode.TIMEOUT).retry_after_s == 0.1


def test_an_admitted_deadline_is_not_missed_for_a_new_request() -> None:
    """Alone there would be time enough; but it would go first, and what waits would be late."""
    tight = [Commitment(20.0, 18.0)]
    early = decide(deadline_s=15.0, max_tokens=40, commitments=tight, priority=Priority.INTERACTIVE)
    refusal = rejected(early, ErrorCode.TIMEOUT)
    assert "an admitted request would miss its deadline" in refusal.message
    assert refusal.detail["max_tokens"] == 4
    fits = decide(deadline_s=15.0, max_tokens=4, commitments=tight, priority=Priority.INTERACTIVE)
    assert isinstance(fits, int)


def test_what_has_no_room_for_one_token_is_refused_before_its_prompt_is_counted() -> None:
    def refused(deadline_s: float) -> Rejected | None:
        admission_test = AdmissionTest([EdfSchedule(3.0, blocking_s=1.0)])
        return refuse_early(make_request(deadline_s=deadline_s), AMPLE, admission_test)

    # One token takes 0.56 s after 1 s of other work, within 80 % of the time.
    assert refused(3.0 + 1.6 / 0.8) is None
    refusal = refused(3.0 + 1.5 / 0.8)
    assert refusal is not None
    assert (refusal.code, refusal.detail["max_tokens"]) == (ErrorCode.TIMEOUT, 0)


@pytest.mark.parametrize("priority", Priority)
def test_the_less_urgent_leave_room_for_who_asks_later(priority: Priority) -> None:
    """120 tokens take 14.74 s; with 1 s of work ahead, that must fit into a share of the time."""
    needed_s = 1.0 + 1.1 * (1.5 + 11.9)
    share = 1 - RESERVE[priority].part

    def ask(deadline_s: float) -> int | Rejected:
        return decide(deadline_s=deadline_s, max_tokens=120, backlog_s=1.0, priority=priority)

    assert isinstance(ask(needed_s / share + 0.01), int)
    assert isinstance(ask(needed_s / share - 0.01), Rejected)
    idle = decide(deadline_s=needed_s - 0.99, max_tokens=120, priority=priority)
    assert isinstance(idle, int)


@settings(deadline=None)
@given(
    num_prompt_tokens=st.integers(0, 1200),
    max_tokens=st.integers(1, 2000),
    deadline_s=st.floats(-5, 100),
    backlog_s=st.floats(0, 50),
    on_deadline=st.sampled_from(OnDeadline),
)
def test_an_admitted_request_meets_its_deadline_and_its_context(
    num_prompt_tokens: int,
    max_tokens: int,
    deadline_s: float,
    backlog_s: float,
    on_deadline: OnDeadline,
) -> None:
    decision = decide(
        num_prompt_tokens,
        backlog_s=backlog_s,
        deadline_s=deadline_s,
        max_tokens=max_tokens,
        on_deadline=on_deadline,
    )
    if isinstance(decision, Rejected):
        assert decision.retry_after_s is None or decision.retry_after_s > 0
        assert decision.detail.get("max_tokens", 0) < max_tokens
        return
    assert 1 <= decision <= max_tokens
    assert decision + num_prompt_tokens <= AMPLE.max_model_len
    alone_s = COST.prefill_s(num_prompt_tokens) + COST.decode_s(decision - 1, num_prompt_tokens)
    assert backlog_s + COST.margin * alone_s <= deadline_s + 1e-9


PLAN = MemoryPlan(
    weights_bytes=150 * MIB, kv_bytes=90 * MIB, process_bytes=60 * MIB, working_bytes=40 * MIB
)


def test_a_plan_that_fits_has_no_complaint() -> None:
    assert PLAN.total_bytes == 340 * MIB
    assert check_plan(PLAN, MemoryBudget(340 * MIB, 20 * MIB), 300 * MIB, 2048) is None


def test_a_plan_over_the_budget_names_the_context_that_would_fit() -> None:
    budget = MemoryBudget(310 * MIB)
    said = check_plan(PLAN, budget, 4096 * MIB, 2048)
    assert said is not None
    assert said.startswith("budget.memory: 30 MiB short of 340 MiB (weights 150 MiB, KV cache 90")
    assert said.endswith("; raise it to 340M, or set model.max_model_len to 1365 or less")
    smaller = replace(PLAN, kv_bytes=PLAN.kv_bytes * 1365 // 2048)
    assert check_plan(smaller, budget, 4096 * MIB, 1365) is None


def test_a_plan_that_no_context_saves_asks_for_a_smaller_model() -> None:
    said = check_plan(PLAN, MemoryBudget(200 * MIB), 4096 * MIB, 2048)
    assert said is not None
    assert said.endswith("; raise it to 340M, or use a smaller model")


def test_a_plan_that_starves_the_device_names_the_floor() -> None:
    budget = MemoryBudget(340 * MIB, 64 * MIB)
    said = check_plan(PLAN, budget, 300 * MIB, 2048)
    assert said is not None
    assert said.startswith("budget.min_available: 44 MiB short")
    assert "free memory, or lower it to 20M, or set model.max_model_len to" in said
    assert check_plan(PLAN, replace(budget, min_available_bytes=20 * MIB), 300 * MIB, 2048) is None
    without_floor = check_plan(PLAN, budget, 200 * MIB, 2048)
    assert without_floor is not None
    assert without_floor.endswith("; free memory, or use a smaller model")


def test_a_plan_without_a_cache_has_no_context_to_advise() -> None:
    said = check_plan(replace(PLAN, kv_bytes=0), MemoryBudget(100 * MIB), 4096 * MIB, 2048)
    assert said is not None
    assert said.endswith("or use a smaller model")
