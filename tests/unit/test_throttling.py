"""When a device is spared: hot, or low on battery, with a distance between begin and end."""

from dataclasses import replace
from typing import Any

import pytest

from edged.node.throttling import DeviceReading, Throttling
from tests.fakes import LIMITS, Bench


def reason(throttling: Throttling, **reading: Any) -> str | None:  # noqa: ANN401
    return throttling.reason(DeviceReading(**reading))


def test_a_hot_device_is_spared_until_it_has_cooled_down() -> None:
    throttling = Throttling(80.0, None)
    seen = [reason(throttling, temperature_c=c) is not None for c in (79, 80, 76, 75, 74, 79, 81)]
    assert seen == [False, True, True, True, False, False, True]
    assert reason(throttling, temperature_c=82.4) == (
        "the device is hot (82 °C; see budget.max_temperature_c)"
    )


def test_a_low_battery_counts_off_mains_only() -> None:
    throttling = Throttling(None, 0.3)
    assert reason(throttling, battery=0.2, on_mains=True) is None
    seen = [
        reason(throttling, battery=share, on_mains=False) is not None
        for share in (0.3, 0.29, 0.34, 0.35)
    ]
    assert seen == [False, True, True, False]


@pytest.mark.parametrize("limits", [(None, None), (80.0, 0.3)])
def test_what_is_not_told_or_not_limited_is_no_reason(
    limits: tuple[float | None, float | None],
) -> None:
    assert reason(Throttling(*limits)) is None
    assert reason(Throttling(None, None), temperature_c=120.0, battery=0.01, on_mains=False) is None


def test_background_work_is_held_back_first() -> None:
    bench = Bench(limits=replace(LIMITS, max_temperature_c=80.0))
    bench.device = DeviceReading(temperature_c=85.0)
    for priority in ("background", "normal"):
        bench.deliver({"id": priority, "prompt": "x", "max_tokens": 5, "priority": priority})
    (reply,) = bench.transport.replies
    error = reply.json["error"]
    assert (reply.json["id"], error["code"]) == ("background", "queue_full")
    assert error["message"] == (
        "the device is hot (85 °C; see budget.max_temperature_c); background work is held back"
    )
    assert error["retry_after_ms"] == 30_000
    assert len(bench.worker.jobs) == 1
    bench.device = DeviceReading(temperature_c=60.0)
    bench.clock.advance(1.0)
    bench.deliver({"id": "later", "prompt": "x", "max_tokens": 5, "priority": "background"})
    assert len(bench.transport.replies) == 1
