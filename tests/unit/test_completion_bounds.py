"""Answers at the same time: how long they take at most, in whatever order the engine goes."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulate.engine import step_s
from edged.scheduling.latency_model import CostEstimate
from edged.scheduling.schedulability import NOTHING, Batch, Work, completion_bounds
from tests.examples import num_examples

COST = CostEstimate(
    prefill_token_s=0.01,
    decode_token_s=0.1,
    prefill_pair_s=1e-5,
    decode_pair_s=1e-4,
    decode_row_s=0.02,
    run_s=0.05,
    chunk_tokens=32,
    margin=1.0,
)
works = st.lists(
    st.builds(Work, st.integers(0, 200), st.integers(0, 60), st.integers(0, 300)),
    min_size=1,
    max_size=4,
).map(lambda all_: [work for work in all_ if work.num_prefill or work.num_decode])


def after_a_piece(work: Work) -> tuple[Work, float]:
    """Compute a piece of a prompt; return what is left and the time it took."""
    count = min(work.num_prefill, COST.chunk_tokens)
    seconds = COST.prefill_s(count, work.context)
    left = work._replace(num_prefill=work.num_prefill - count, context=work.context + count)
    return left, seconds


def after_a_run(work: Work) -> Work:
    return work._replace(num_decode=work.num_decode - 1, context=work.context + 1)


def is_left(work: Work) -> bool:
    return bool(work.num_prefill or work.num_decode)


def steps(left: dict[int, Work], rng: random.Random) -> float:
    """Let the engine do a piece of a prompt, and a token of each answer past its prompt."""
    taken_s = 0.0
    prefilling = [i for i, work in left.items() if work.num_prefill]
    if prefilling:
        chosen = rng.choice(prefilling)
        left[chosen], seconds = after_a_piece(left[chosen])
        taken_s += seconds
    decoding = [i for i, work in left.items() if not work.num_prefill and work.num_decode]
    if decoding:
        taken_s += step_s(COST, [left[i].context for i in decoding])
        left.update({i: after_a_run(left[i]) for i in decoding})
    return taken_s


@settings(deadline=None, max_examples=num_examples(1500))
@given(works, st.randoms(use_true_random=False))
def test_nobody_ends_after_its_bound_and_no_bound_ever_rises(
    made: list[Work], rng: random.Random
) -> None:
    left = dict(enumerate(made))
    ends = dict(enumerate(completion_bounds(COST, made)))
    now_s = 0.0
    while left:
        now_s += steps(left, rng)
        left = {i: work for i, work in left.items() if is_left(work)}
        assert all(now_s <= ends[i] + 1e-9 for i in ends)
        ends = {
            i: now_s + end_s
            for i, end_s in zip(left, completion_bounds(COST, [*left.values()]), strict=True)
            if now_s + end_s <= ends[i] + 1e-9 or pytest.fail(f"{i} rises")
        }
        assert list(ends) == list(left)


def test_one_alone_takes_what_it_costs() -> None:
    work = Work.of(100, 21)
    alone_s = COST.prefill_s(100) + COST.decode_s(20, 100)
    assert completion_bounds(COST, [work]) == [pytest.approx(alone_s)]
    assert work.alone_s(COST) == pytest.approx(alone_s)
    assert Work.of(100, 1).num_decode == Work.of(100, 0).num_decode == 0


def test_company_costs_a_row_and_not_a_run() -> None:
    cost = replace(COST, decode_pair_s=0.0)
    one, two = completion_bounds(cost, [Work(0, 10), Work(0, 30)])
    assert one == pytest.approx(10 * 0.12)
    assert two == pytest.approx(30 * 0.1 + 10 * 0.02)


def test_who_decodes_waits_for_the_prompt_of_a_new_one() -> None:
    """The new one has 4 pieces, and the other one up to 5 runs before its last."""
    cost = replace(COST, decode_pair_s=0.0)
    first, new = completion_bounds(cost, [Work(0, 50), Work(128, 1)])
    prompt_s = cost.prefill_s(128)
    assert first == pytest.approx(prompt_s + 50 * 0.1 + 0.02)
    assert new == pytest.approx(prompt_s + 5 * 0.1 + 0.1 + 6 * 0.02)


def test_a_company_is_stretched_by_the_margin_and_ends_at_its_deadlines() -> None:
    cost = replace(COST, margin=1.2, decode_pair_s=0.0)
    batch = Batch(100.0, cost, [Work(0, 10, deadline_s=102.0), Work(0, 30, deadline_s=103.0)])
    assert batch.completions_s == [pytest.approx(1.2 * 1.2), pytest.approx(1.2 * 3.2)]
    assert batch.misses_deadline == [False, True]
    assert batch.makespan_s == 3.0
    assert Batch(100.0, cost).makespan_s == 0.0


def test_one_more_is_kept_out_if_it_makes_somebody_late() -> None:
    cost = replace(COST, decode_pair_s=0.0)
    first = Work(0, 10, deadline_s=1.1)
    batch = Batch(0.0, cost, [first])

    def keeps(batch: Batch, num_tokens: int, deadline_s: float) -> bool:
        return batch.can_add(Work(0, num_tokens, deadline_s=deadline_s), [], NOTHING)

    assert not keeps(batch, 10, 9.0)
    assert keeps(batch, 5, 9.0)
    assert not keeps(batch, 5, 0.55)
    # Who is late anyway is nobody's fault.
    assert keeps(Batch(0.5, cost, [first]), 10, 9.0)
    assert keeps(batch, 5, 0.4)
