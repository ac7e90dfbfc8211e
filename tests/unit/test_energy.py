"""Energy: a figure never stands without its source."""

from edged.daemon.energy import EnergyMeter, add
from edged.protocol.request import Energy, EnergySource

RAPL, MODEL = EnergySource.RAPL, EnergySource.MODEL


def test_the_counter_wins_where_there_is_one() -> None:
    meter = EnergyMeter(watts_per_thread=1.5, num_threads=4)
    assert meter.of_pass(2.0, 10.0, 31.0) == Energy(21.0, RAPL)


def test_without_a_counter_declared_watts_are_multiplied_and_labelled() -> None:
    meter = EnergyMeter(watts_per_thread=1.5, num_threads=4)
    assert meter.of_pass(2.0, None, None) == Energy(12.0, MODEL)
    assert meter.of_pass(2.0, 10.0, None) == Energy(12.0, MODEL)


def test_a_counter_that_wrapped_around_is_no_measurement() -> None:
    assert EnergyMeter(num_threads=4).of_pass(2.0, 10.0, 3.0) is None
    assert EnergyMeter(watts_per_thread=1.0, num_threads=4).of_pass(2.0, 10.0, 3.0) == Energy(
        8.0, MODEL
    )


def test_nothing_declared_and_nothing_measured_is_nothing_said() -> None:
    assert EnergyMeter(num_threads=4).of_pass(2.0, None, None) is None


def test_two_stretches_are_as_sure_as_the_weaker_of_them() -> None:
    measured, reckoned = Energy(1.0, RAPL), Energy(2.0, MODEL)
    assert add(measured, measured) == Energy(2.0, RAPL)
    assert add(measured, reckoned) == Energy(3.0, MODEL)
    assert add(None, reckoned) == add(reckoned, None) == reckoned
    assert add(None, None) is None
