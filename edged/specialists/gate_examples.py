"""What a specialist's folder keeps of its examples for the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edged.specialists.features import TOPIC, Layout, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edged.specialists.head import Floats, Integers

# What the gate reads: the same of all specialists, whatever their heads read.
GATE_VIEW: View = ((TOPIC, 3),)
MAX_GATE_EXAMPLES = 512
MAX_GATE_BYTES = 2 << 20
FEATURES, LABELS = "gate", "gate_labels"


@dataclass(frozen=True, slots=True)
class GateExamples:
    """Examples of one specialist."""

    features: "NDArray[np.float16]"
    """``[n, features]``, in ``GATE_VIEW``."""
    labels: "NDArray[np.int16]"
    """``[n]``: those with one number have the same answer, or similar ones."""

    @classmethod
    def of(cls, layout: Layout, features: "Floats", labels: "Integers") -> "GateExamples":
        """Return what the gate reads of examples with these ``features``."""
        most = float(np.finfo(np.float16).max)
        rows = layout.view(features, GATE_VIEW).clip(-most, most).astype(np.float16)
        return cls(rows, labels.astype(np.int16))

    @classmethod
    def read(cls, arrays: Mapping[str, Any], hidden_size: int) -> "GateExamples":
        """Return what a folder's arrays hold.

        Raises:
            ValueError: They are of a wrong shape or type, too large or not finite.
            KeyError: One is missing.
        """
        features, labels = arrays[FEATURES], arrays[LABELS]
        width = len(GATE_VIEW) * hidden_size
        num_rows = len(features) if features.ndim else 0
        is_small = features.nbytes <= MAX_GATE_BYTES and num_rows <= MAX_GATE_EXAMPLES
        if features.dtype != np.float16 or features.shape != (num_rows, width) or not is_small:
            most = f"at most {MAX_GATE_EXAMPLES} rows of {width} halves"
            raise ValueError(f"{FEATURES} is not {most}")
        if not np.isfinite(features).all():
            raise ValueError(f"{FEATURES} has numbers that are not finite")
        if labels.dtype != np.int16 or labels.shape != (num_rows,):
            raise ValueError(f"{LABELS} is not {num_rows} integers of 16 bits")
        return cls(features, labels)

    @property
    def arrays(self) -> "dict[str, NDArray[Any]]":
        """What a folder holds."""
        return {FEATURES: self.features, LABELS: self.labels}

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.features.nbytes + self.labels.nbytes


def max_gate_examples(layout: Layout) -> int:
    """Return how many examples a folder keeps."""
    width = len(GATE_VIEW) * layout.hidden_size * np.dtype(np.float16).itemsize
    return min(MAX_GATE_EXAMPLES, MAX_GATE_BYTES // width)
