"""Metrics: every end counted once, under the right name."""

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edged.errors import ErrorCode
from edged.node.metrics import WINDOW, Count, Metrics, RollingSamples
from edged.protocol.request import Answer, FinishReason, Rejected


def test_a_new_node_has_counted_nothing_and_measured_nothing() -> None:
    assert Metrics().snapshot() == {
        **dict.fromkeys(map(str, Count), 0),
        "refused_by_code": {},
        "dropped_by_reason": {},
        "unsure_share": None,
        "agreement_share": None,
        "ttft_p50_s": None,
        "ttft_p95_s": None,
        "decode_tok_s": None,
        "energy_j": None,
        "prediction_error_p50": None,
        "prediction_error_p95": None,
    }


@pytest.mark.parametrize(
    ("outcome", "counted"),
    [
        (Answer("x", FinishReason.STOP), {"served"}),
        (Answer("x", FinishReason.CANCELLED), {"served", "cancelled"}),
        (Answer("x", FinishReason.STOP, detail={"specialist": "lamp"}), {"served", "decided"}),
        (
            Answer("x", FinishReason.UNSURE, detail={"specialist": "lamp"}),
            {"served", "decided", "unsure"},
        ),
        (
            Answer("x", FinishReason.STOP, detail={"specialist": None, "escalated_from": "lamp"}),
            {"served", "decided", "escalated"},
        ),
        (
            Answer("x", FinishReason.STOP, detail={"specialist": "lamp", "escalated_to": "attic"}),
            {"served", "decided", "escalated"},
        ),
        (Rejected(ErrorCode.CANCELLED, ""), {"cancelled"}),
        (Rejected(ErrorCode.TIMEOUT, ""), {"expired"}),
        (Rejected(ErrorCode.INTERNAL, ""), {"refused"}),
    ],
)
def test_an_outcome_is_counted_by_how_it_ended(
    outcome: Answer | Rejected, counted: set[str]
) -> None:
    metrics = Metrics()
    metrics.count_outcome(outcome)
    snapshot = metrics.snapshot()
    assert {str(what) for what in Count if snapshot[what] == 1} == counted
    assert sum(snapshot[what] for what in Count) == len(counted)


def test_of_several_questions_each_to_a_specialist_is_a_decision() -> None:
    metrics = Metrics()
    parts = {
        "a": {"text": "on", "choice": 0, "specialist": "lamp", "finish_reason": "stop"},
        "b": {"text": "3", "json": 3, "specialist": "heat", "finish_reason": "unsure"},
        "c": {"text": "yes", "choice": 1, "calibrated": False, "finish_reason": "stop"},
        "d": {"finish_reason": "deadline"},
    }
    metrics.count_outcome(Answer("{}", FinishReason.UNSURE, {}, detail={"answers": parts}))
    snapshot = metrics.snapshot()
    assert (snapshot["served"], snapshot["decided"], snapshot["unsure"]) == (1, 2, 1)


def test_shares_are_of_what_was_decided_and_of_what_could_be_compared() -> None:
    metrics = Metrics()
    for reason in (FinishReason.STOP, FinishReason.STOP, FinishReason.UNSURE):
        metrics.count_outcome(Answer("x", reason, detail={"specialist": "lamp"}))
    for is_agreed in (True, False, False, False, None):
        metrics.count_correction(is_agreed=is_agreed)
    snapshot = metrics.snapshot()
    assert (snapshot["unsure_share"], snapshot["agreement_share"]) == (0.333, 0.25)
    assert (snapshot["corrections"], snapshot["corrections_compared"]) == (5, 4)


def test_refusals_and_drops_are_kept_apart_by_cause() -> None:
    metrics = Metrics()
    metrics.count_refused(ErrorCode.QUEUE_FULL)
    metrics.count_refused(ErrorCode.BAD_REQUEST)
    metrics.count_refused(ErrorCode.QUEUE_FULL)
    metrics.count_dropped("retained")
    metrics.count(Count.IGNORED_KEYS, 3)
    metrics.count(Count.CONNECTS)
    assert metrics.snapshot()["connects"] == 1
    snapshot = metrics.snapshot()
    assert snapshot["refused_by_code"] == {"bad_request": 1, "queue_full": 2}
    assert snapshot["dropped_by_reason"] == {"retained": 1}
    assert (snapshot["refused"], snapshot["dropped"], snapshot["ignored_keys"]) == (3, 1, 3)


def test_speed_and_time_to_first_token_are_percentiles() -> None:
    metrics = Metrics()
    for ms in range(1, 101):
        metrics.ttft_s.add(ms / 1000)
    for num_tokens in (10, 20, 90):
        metrics.observe_decode(num_tokens, 2.0)
    metrics.observe_decode(0, 1.0)
    metrics.observe_decode(5, 0.0)
    snapshot = metrics.snapshot()
    assert (snapshot["ttft_p50_s"], snapshot["ttft_p95_s"]) == (0.05, 0.095)
    assert snapshot["decode_tok_s"] == 10.0
    for _ in range(4):
        metrics.observe_decode(1, 0.5)
    assert metrics.snapshot()["decode_tok_s"] == 2.0


def test_percentiles_forget_what_is_long_past() -> None:
    samples = RollingSamples()
    samples.add(1e9)
    for _ in range(WINDOW):
        samples.add(1.0)
    assert samples.percentile(100) == 1.0


@settings(deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=300), st.floats(0, 100))
@example([math.nan, 1.0], 50.0)
def test_a_percentile_is_a_value_that_was_measured(values: list[float], percent: float) -> None:
    samples = RollingSamples()
    for value in values:
        samples.add(value)
    found = samples.percentile(percent)
    kept = [value for value in values if math.isfinite(value)][-WINDOW:]
    if not kept:
        assert found is None
        return
    assert found in kept
    assert found is not None
    assert sum(value <= found for value in kept) >= percent / 100 * len(kept) - 1e-9
