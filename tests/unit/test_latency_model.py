"""The latency model: fitted to a few runs, then corrected by finished requests."""

import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulate.engine import step_s
from edged.scheduling.latency_fit import MeasuredRun, fit_cost
from edged.scheduling.latency_model import (
    MAX_MARGIN,
    CostEstimate,
    LatencyModel,
    RequestTimings,
)
from edged.scheduling.schedulability import Work

TRUE = CostEstimate(
    prefill_token_s=5e-3,
    decode_token_s=20e-3,
    prefill_pair_s=4e-6,
    decode_pair_s=6e-6,
    run_s=40e-3,
    decode_row_s=1e-3,
)


def measured(
    cost: CostEstimate = TRUE, num_prompt: int = 100, num_output: int = 40, factor: float = 1.0
) -> RequestTimings:
    prefill_s = factor * cost.prefill_s(num_prompt)
    decode_s = factor * cost.decode_s(num_output - 1, num_prompt)
    return RequestTimings(num_prompt, 0, prefill_s, num_output - 1, decode_s)


def test_a_long_prompt_costs_more_than_its_tokens() -> None:
    cost = CostEstimate(0.01, 0.1, prefill_pair_s=1e-5, run_s=0.05, chunk_tokens=100)
    assert cost.prefill_s(50) == pytest.approx(0.05 + 0.5 + 1e-5 * 1250)
    assert cost.prefill_s(1000) == pytest.approx(10 * 0.05 + 10 + 1e-5 * 500_000)
    assert cost.prefill_s(500, num_cached=500) == pytest.approx(0.25 + 5 + 1e-5 * 375_000)
    assert Work.of(50, 1).alone_s(cost) == cost.prefill_s(50)
    assert cost.prefill_tok_s == pytest.approx(100 / cost.prefill_s(100))


def test_tokens_cost_more_the_more_there_are() -> None:
    cost = CostEstimate(0.01, 0.1, decode_pair_s=1e-3)
    assert cost.decode_s(1, 0) == pytest.approx(0.1005)
    assert cost.decode_s(10, 100) == pytest.approx(1 + 1e-3 * 1050)
    assert cost.decode_tok_s == 10


def test_one_run_of_several_sequences_costs_a_row_for_each_further_one() -> None:
    cost = CostEstimate(0.01, 0.1, decode_pair_s=1e-3, decode_row_s=0.004)
    assert step_s(cost, [100]) == pytest.approx(cost.decode_s(1, 100))
    assert step_s(cost, [100, 0, 50]) == pytest.approx(0.1 + 2 * 0.004 + 1e-3 * 151.5)


@pytest.mark.parametrize(
    "wrong",
    [{"run_s": -1.0}, {"prefill_token_s": 0.0}, {"margin": math.inf}, {"decode_row_s": 1.1}],
)
def test_a_cost_is_never_negative_nor_infinite(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a cost"):
        CostEstimate(**({"prefill_token_s": 1.0, "decode_token_s": 1.0} | wrong))


def test_the_fit_finds_the_costs_behind_a_few_noisy_runs() -> None:
    rng = random.Random(3)

    def run(count: int, context: int) -> MeasuredRun:
        pairs = count * (context + count / 2)
        exact = TRUE.decode_s(1, context) if count == 1 else 0.04 + 5e-3 * count + 4e-6 * pairs
        return MeasuredRun(count, context, exact * rng.uniform(1.0, 1.05))

    prefills = [run(n, 0) for n in (8, 16, 32, 64, 128)] + [run(128, c) for c in (128, 256, 512)]
    cost = fit_cost(prefills, [run(1, 640), run(1, 8)], 128)
    for prompt, output in ((20, 10), (128, 60), (600, 60), (1200, 100)):
        expected = Work.of(prompt, output).alone_s(TRUE)
        assert Work.of(prompt, output).alone_s(cost) == pytest.approx(expected, rel=0.1)


def test_one_run_is_enough_for_the_cost_of_tokens() -> None:
    cost = fit_cost([MeasuredRun(8, 0, 0.8)], [MeasuredRun(1, 8, 0.2)], 64)
    assert cost.prefill_s(8) == pytest.approx(0.8, rel=0.05)
    assert cost.decode_s(1, 8) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(("true", "found"), [(0.04, 0.04), (0.15, 0.15), (-0.1, 0.0), (3.0, 1.0)])
def test_a_further_row_is_measured_between_nothing_and_a_run(true: float, found: float) -> None:
    """In tokens; with runs that say what cannot be, the nearest that can is taken."""
    alone = [MeasuredRun(1, 8, 0.02), MeasuredRun(1, 600, 0.0205)]
    rows = [MeasuredRun(1, 8, 0.02 * (1 + (count - 1) * true), count) for count in (2, 4)]
    cost = fit_cost([MeasuredRun(128, 0, 0.8)], [*alone, *rows], 128)
    assert cost.decode_row_s == pytest.approx(found * 0.02, rel=0.15, abs=2e-4)
    assert fit_cost([MeasuredRun(128, 0, 0.8)], alone, 128).decode_row_s == 0.0


def test_a_throttled_device_is_followed_within_three_requests() -> None:
    model = LatencyModel(TRUE)
    for _ in range(20):
        model.observe(measured())
    errors = [model.observe(measured(factor=2.0)) for _ in range(5)]
    assert errors[0] == pytest.approx(0.5)
    assert errors[3:] == [pytest.approx(0.0, abs=0.01)] * 2
    assert model.current.decode_tok_s == pytest.approx(TRUE.decode_tok_s / 2, rel=0.01)
    for _ in range(3):
        model.observe(measured(factor=1.0))
    assert model.current.decode_tok_s == pytest.approx(TRUE.decode_tok_s, rel=0.01)


def test_a_batched_request_corrects_the_model_as_well() -> None:
    model = LatencyModel(TRUE)
    contexts = [300, 40, 90]
    for _ in range(5):
        steps_s = sum(step_s(TRUE, [100 + n, *contexts]) for n in range(39))
        beside = (39 * len(contexts), 39 * sum(contexts) + 39 * len(contexts) // 2)
        seen = RequestTimings(100, 0, 2 * TRUE.prefill_s(100), 39, 2 * steps_s, *beside)
        error = model.observe(seen)
    assert error == pytest.approx(0.0, abs=0.01)
    assert model.current.decode_tok_s == pytest.approx(TRUE.decode_tok_s / 2, rel=0.01)
    assert model.current.decode_row_s == pytest.approx(2e-3, rel=0.01)


def test_a_prompt_read_beside_others_corrects_the_model_as_well() -> None:
    """Three others of 60 tokens, and 10 of padding, after 100 cached ones."""
    model = LatencyModel(TRUE)
    run_s = TRUE.run_s + 240 * TRUE.prefill_token_s + 4 * 60 * (100 + 30) * TRUE.prefill_pair_s
    for _ in range(5):
        model.observe(RequestTimings(50, 100, 2 * run_s, num_coprefilled_tokens=190))
    assert model.current.prefill_tok_s == pytest.approx(TRUE.prefill_tok_s / 2, rel=0.01)


def test_two_stalls_in_five_requests_change_no_cost() -> None:
    model = LatencyModel(TRUE)
    for factor in (1.0, 1.0, 30.0, 1.0, 40.0):
        model.observe(measured(factor=factor))
    assert model.current.prefill_s(500) == pytest.approx(TRUE.prefill_s(500))
    assert model.current.decode_s(50, 500) == pytest.approx(TRUE.decode_s(50, 500))


def test_a_stall_of_the_first_request_changes_no_cost_and_a_slower_device_is_followed() -> None:
    """Else a node that was busy when it started would refuse what it has time for, for ever."""
    model = LatencyModel(TRUE)
    model.observe(measured(factor=7.5))
    assert model.current.prefill_s(500) == pytest.approx(TRUE.prefill_s(500))
    assert model.current.decode_s(50, 500) == pytest.approx(TRUE.decode_s(50, 500))
    for _ in range(2):
        model.observe(measured(factor=7.5))
    assert model.current.decode_s(50, 500) == pytest.approx(7.5 * TRUE.decode_s(50, 500))


def test_predictions_are_within_ten_percent_on_a_noisy_device() -> None:
    rng, model = random.Random(0), LatencyModel(TRUE.scaled(1.6, 0.7, 1.1))
    errors = []
    for _ in range(300):
        prompt, output, noise = rng.randint(20, 1500), rng.randint(8, 120), rng.gauss(1, 0.06)
        error = model.observe(measured(num_prompt=prompt, num_output=output, factor=noise))
        assert error is not None
        errors.append(error)
    errors = sorted(errors[5:])
    assert statistics.median(errors) < 0.10
    assert errors[int(0.95 * len(errors))] < 0.25


def test_the_margin_is_as_wide_as_requests_have_been_off() -> None:
    calm, rough = LatencyModel(TRUE), LatencyModel(TRUE)
    rng = random.Random(1)
    for _ in range(64):
        calm.observe(measured(factor=rng.uniform(0.99, 1.01)))
        rough.observe(measured(factor=rng.choice((0.8, 1.0, 1.0, 1.3))))
    assert calm.current.margin < 1.05
    assert 1.25 < rough.current.margin <= MAX_MARGIN


def test_a_request_too_short_to_tell_corrects_nothing() -> None:
    model = LatencyModel(TRUE)
    assert model.observe(RequestTimings(4, 0, 9.0, 2, 9.0)) is None
    assert model.observe(RequestTimings(0, 0, 0.0, 0, 0.0)) is None
    assert model.current == TRUE


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            RequestTimings,
            st.integers(0, 10**6),
            st.integers(0, 10**6),
            st.floats() | st.sampled_from([0.0, 1e-300]),
            st.integers(0, 10**6),
            st.floats() | st.sampled_from([0.0, 1e-300]),
            st.integers(0, 10**6),
            st.integers(0, 10**9),
        ),
        max_size=100,
    )
)
def test_no_observation_breaks_the_costs(seen: list[RequestTimings]) -> None:
    model = LatencyModel(TRUE)
    for one in seen:
        model.observe(one)
    assert 0 < Work.of(1000, 1000).alone_s(model.current) < math.inf
    assert 1 <= model.current.margin <= MAX_MARGIN
