"""Energy: a figure never stands without its source."""

from edged.daemon.energy import EnergyMeter, account, add
from edged.engine.decoding import ForwardPass
from edged.engine.steps import Prefilled
from edged.node.generation import Generation
from edged.protocol.request import Energy, EnergySource
from tests.fakes import FakeSequence
from tests.make_request import make_request

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


def test_of_one_run_for_several_prompts_each_waited_for_all_and_has_its_share_of_the_energy() -> (
    None
):
    runs = [Generation(key, [1] * 9, make_request(), 16, None) for key in range(3)]
    for run in runs:
        run.decoding = FakeSequence(iter(()), 9)
    outcomes = {run.decoding: [Prefilled(9, 4, 11)] for run in runs[:2] if run.decoding}
    account(ForwardPass(outcomes), 0.5, Energy(3.0, RAPL), runs)
    assert [run.spent.prefill_s for run in runs] == [0.5, 0.5, 0.0]
    assert [run.spent.num_coprefilled_tokens for run in runs] == [11, 11, 0]
    assert [run.energy for run in runs] == [Energy(1.5, RAPL)] * 2 + [None]
