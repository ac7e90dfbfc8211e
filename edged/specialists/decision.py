"""From the features of a prompt to an answer: the label, its probability, or "unsure"."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.specialists.features import Layout
from edged.specialists.folder import TaughtHead


@dataclass(frozen=True, slots=True)
class Decision:
    """What a head says of one prompt."""

    choice: int
    """Index of the most probable label."""
    probabilities: NDArray[np.float64]
    """``[labels]``, of sum 1."""
    familiarity: float
    """How near the prompt is to any of the labels, at most 1."""
    is_unsure: bool
    """Whether the answer is below a threshold."""

    @property
    def confidence(self) -> float:
        """Probability of the choice."""
        return float(self.probabilities[self.choice])


def decide(taught: TaughtHead, layout: Layout, features: NDArray[np.float32]) -> Decision:
    """Return the decision on a prompt with these ``features``, laid out as ``layout`` says."""
    said = taught.description
    view = tuple((pooling, layer) for pooling, layer in said.view)
    scaled = taught.scaler.apply(layout.view(features[None], view))
    probabilities = taught.head.probabilities(scaled)[0]
    familiarity = float(taught.head.familiarity(scaled)[0])
    choice = int(probabilities.argmax())
    is_sure = probabilities[choice] >= said.unsure_below and familiarity >= said.unfamiliar_below
    return Decision(choice, probabilities, familiarity, not is_sure)
