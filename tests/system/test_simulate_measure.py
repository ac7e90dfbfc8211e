"""The verdict on a measured workload and its simulation."""

from typing import Any

import pytest

from benchmarks.simulate.measure import verdict


def runs(measured: float, late_by_s: float = 0.0) -> dict[str, dict[str, Any]]:
    errors = {"prediction_error_p50": 0.07, "prediction_error_p95": None, "late_by_s": late_by_s}
    return {"measured": {"goodput": measured, **errors}, "simulated": {"goodput": 0.8}}


@pytest.mark.parametrize(
    ("measured", "said"),
    [(0.8, "0.0% apart, within 10%"), (0.73, "8.8% apart, within"), (0.6, "25.0% apart, beyond")],
)
def test_measured_and_simulated_goodput_are_compared(measured: float, said: str) -> None:
    lines = verdict(runs(measured)).splitlines()
    assert said in lines[0]
    assert lines[1] == "the node's predictions were off by 7% (median), - (95th percentile)"
    assert len(lines) == 2


def test_a_late_reply_is_reported() -> None:
    assert verdict(runs(0.8, 0.4)).endswith("the latest reply came 0.40 s after its deadline")
