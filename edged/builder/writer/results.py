"""What was measured of a writer: whether 8 bits lose too much, and what its confidence means."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edged.errors import BuildError
from edged.specialists.folder import Result
from edged.specialists.measures import calibration_error, interval
from edged.specialists.training import probability_scale, unsure_below
from edged.specialists.writer import WriterDescription
from edged.specialists.written import Written, num_right

_SHOWN = 5
# Of fewer answers that are kept apart, a share says little, and chance decides.
FEWEST_MEASURED = 30
# How much of the accuracy in full precision may be lost; of few answers, how many.
_MOST_LOST, _FEW_LOST = 0.01, 3
# What probabilities of answers meant where more were kept apart (``benchmarks.writers``).
_USUAL_SLOPE, _USUAL_SHIFT = 5.0, 3.0
# Below it an answer is more likely wrong than right: unsure, where the precision is not measured.
_EVEN_ODDS = 0.5


def compare_exact(exact: Sequence[Written], served: Sequence[Written]) -> None:
    """Refuse an adapter that answers worse in 8 bits.

    Raises:
        BuildError: It loses more than a point and more than one of them, of few three.
    """
    before, after, count = num_right(exact), num_right(served), len(served)
    least = _FEW_LOST if count < FEWEST_MEASURED else 1
    if before - after > max(_MOST_LOST * count, least):
        raise BuildError(
            f"{after} of {count} held-out answers are right in 8 bits, {before} in full precision:"
            " train with a lower --rate or --rank, or with more examples"
        )


def calibrated(
    description: WriterDescription, held_out: Sequence[Written], arguments: argparse.Namespace
) -> WriterDescription:
    """Return the description with what probabilities of answers mean, and from where on."""
    if len(held_out) < FEWEST_MEASURED:
        description = replace(description, slope=_USUAL_SLOPE, shift=_USUAL_SHIFT)
        threshold = _EVEN_ODDS
        print(
            f"{len(held_out)} answers are kept apart, too few to tell from where on"
            f" {arguments.precision:.0%} are right: unsure is what is more likely wrong than right"
        )
    else:
        is_right = np.array([one.is_right for one in held_out])
        description = scaled(description, [one.log_probability for one in held_out], is_right)
        confidence = np.array([description.confidence(one.log_probability) for one in held_out])
        threshold = unsure_below(confidence, is_right, arguments.precision)
    description = replace(description, unsure_below=threshold)
    return replace(description, result=result_of(held_out, description, arguments))


def result_of(
    written: Sequence[Written], description: WriterDescription, arguments: argparse.Namespace
) -> Result:
    """Return the figures of what was answered, and print what was wrong."""
    for one in [one for one in written if not one.is_right][:_SHOWN]:
        turn = one.asked.dialogue
        said = one.asked.messages[-1].content[-80:]
        print(f"{turn.place}: {one.text!r} for {one.asked.text!r}: {said!r}")
    is_right = [one.is_right for one in written]
    return summed(description, [w.log_probability for w in written], is_right, arguments.precision)


def scaled(
    description: WriterDescription, log_probabilities: Sequence[float], is_right: NDArray[np.bool_]
) -> WriterDescription:
    """Return the description with what probabilities of answers mean."""
    slope, shift = probability_scale(np.array(log_probabilities), is_right)
    return replace(description, slope=slope, shift=shift)


def summed(
    description: WriterDescription,
    log_probabilities: Sequence[float],
    is_right: Sequence[bool],
    precision: float,
) -> Result:
    """Return the figures of answers; ``precision`` is what was aimed at."""
    confidence = [description.confidence(one) for one in log_probabilities]
    is_answered = [one >= description.unsure_below for one in confidence]
    answered_right = [one for one, known in zip(is_right, is_answered, strict=True) if known]
    return Result(
        *(float(np.mean(is_right)), *interval(sum(is_right), len(is_right))),
        *(calibration_error(confidence, is_right), len(is_right), precision),
        float(np.mean(is_answered)),
        float(np.mean(answered_right)) if answered_right else 0.0,
        None,
    )
