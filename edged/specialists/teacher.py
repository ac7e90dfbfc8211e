"""Distilling: a larger model answers prompts that have no answer, and a head learns from it.

What the teacher thinks of a prompt becomes several examples of it, weighted by probability: what it
was torn between teaches more than its choice alone (Hinton et al. 2015).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edged.errors import UsageError
from edged.specialists.examples import MAX_EXAMPLES, Example
from edged.specialists.head import softmax

Doubles = NDArray[np.float64]

# Below it an answer is no more than noise, and would cost as much as any other.
LEAST_PROBABILITY = 0.05
# Prompts without content: what the teacher says of them is what it says anyway.
CONTENT_FREE = ("N/A", "[MASK]", "")
_SMALLEST_PRIOR = 1e-12


class Teacher(Protocol):
    """A model that chooses one of some labels."""

    def ask(self, example: Example) -> Doubles | None:
        """Return the probability of each label ``[labels]``; None when there is no answer.

        Raises:
            EdgedError: it cannot be asked, or refuses the prompt.
        """


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a teacher thinks of one prompt."""

    example: Example
    probabilities: Doubles
    """``[labels]``, of sum 1."""

    @property
    def margin(self) -> float:
        """How much more probable the best label is than the second."""
        second, best = np.sort(self.probabilities)[-2:]
        return float(best - second)

    def best(self, labels: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Return the most probable labels, best first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(labels[index], float(self.probabilities[index])) for index in order]


def instruction(labels: Sequence[str]) -> str:
    """Return the system message that tells a teacher what to do."""
    return (
        f"Choose the label of the text.\nLabels: {', '.join(labels)}\nAnswer with one label only."
    )


def calibrated(scores: Doubles, prior: Doubles) -> Doubles:
    """Return probabilities ``[options]`` without what a model says whatever the prompt is.

    Contextual calibration (Zhao et al. 2021): some options are likely in themselves, as common
    words or short ones are.

    Args:
        scores: log-likelihoods ``[options]`` behind the prompt.
        prior: log-likelihoods ``[prompts, options]`` behind prompts without content.
    """
    return softmax(scores - np.log(np.maximum(softmax(prior).mean(axis=0), _SMALLEST_PRIOR)))


def ask_all(
    teacher: Teacher, examples: Sequence[Example], note: Callable[[float], None]
) -> tuple[list[Opinion], list[Example]]:
    """Ask about each prompt; return the opinions, and the examples that got no answer."""
    opinions, unanswered = [], []
    for index, example in enumerate(examples):
        probabilities = teacher.ask(example)
        if probabilities is None:
            unanswered.append(example)
        else:
            opinions.append(Opinion(example, probabilities))
        note((index + 1) / len(examples))
    return opinions, unanswered


def taught_by(opinions: Sequence[Opinion], labels: Sequence[str]) -> list[Example]:
    """Return examples weighted by probability; those of one prompt are of one group.

    Raises:
        UsageError: there are too many.
    """
    examples = []
    for opinion in opinions:
        asked = replace(opinion.example, is_open=False)
        for rank, (label, probability) in enumerate(opinion.best(labels, len(labels))):
            if probability >= LEAST_PROBABILITY:
                weight = asked.weight * probability
                examples.append(replace(asked, answer=label, weight=weight, is_measure=rank == 0))
    if len(examples) > MAX_EXAMPLES:
        raise UsageError(
            f"{len(opinions)} prompts have {len(examples)} answers of the teacher; "
            f"{MAX_EXAMPLES} are allowed: use fewer prompts"
        )
    return examples


def to_look_at(opinions: Sequence[Opinion], count: int) -> list[Opinion]:
    """Return the prompts of which the teacher was least sure, the worst first.

    Where it gave a choice and no probabilities, nothing says which these are.
    """
    torn = [opinion for opinion in opinions if opinion.margin < 1]
    return sorted(torn, key=lambda opinion: opinion.margin)[:count]
