"""The gate: which of the installed specialists a prompt is for, if any.

It is fitted to examples of all of them when they are read. A specialist's prompts are of as many
kinds as it has answers, so each of its answers is a label of the gate, and its probability the sum
of theirs. A prompt that is less familiar than nearly all held-out examples of the specialist that
it is most probably for fits none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edged.specialists.distance import Distances
from edged.specialists.features import Layout
from edged.specialists.folder import Specialist
from edged.specialists.gate_examples import GATE_VIEW, GateExamples
from edged.specialists.head import Doubles, Floats, Integers, Scaler, folds, softmax

# Measured, and not chosen anew for each node: others change shares by a hundredth. The noise is the
# variance of a prompt around its label: above 1, as the scatter fits the examples too closely.
_SHRINKAGE, _NOISE = 0.7, 8.0
_NUM_FOLDS, _SEED = 3, 0
# Held-out examples that may count as fitting none.
_UNFIT_SHARE = 0.05
# Of a cosine, which is 0 for all where there is one label, and of a square of hundreds.
_SMALLEST_SPREAD = 1e-3
# Of all specialists together: they bound the time and the memory of the fit.
_MAX_NUMBERS = 1 << 19
_MAX_LABELS = 256
# While it is fitted, for a byte of its examples, and at most; what is kept is a tenth of that.
_FIT_FACTOR, _MAX_FIT_BYTES = 40, 32 << 20
# Of one specialist: with fewer it has no label that is known in all folds.
_MIN_EXAMPLES = 2


@dataclass(frozen=True, slots=True)
class GateChoice:
    """What the gate says of a prompt."""

    name: str | None
    """Of the specialist for it; None where nothing fits."""
    probabilities: Mapping[str, float]
    """Of each specialist."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is seen of prompts."""

    probabilities: Doubles
    """``[n, specialists]``."""
    familiarity: Doubles
    """``[n, 2]``: both the greater, the more like an example; see ``_Fitted.judge``."""


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Distances to labels that belong to specialists."""

    scaler: Scaler
    distances: Distances
    owners: Integers
    """``[labels]``: the specialist of each."""

    @classmethod
    def of(cls, rows: Floats, labels: Integers, owners: Integers) -> "_Fitted":
        scaler = Scaler.of(rows)
        distances = Distances.of(scaler.apply(rows), labels, len(owners), _SHRINKAGE)
        return cls(scaler, distances, owners)

    def judge(self, rows: Floats) -> _Judged:
        """Judge prompts ``[n, features]``.

        Familiar is what lies in the direction of a label, which tells the more the more labels
        there are, and what is near to one in all directions, which tells the more the fewer.
        """
        near = self.distances.nearness(self.scaler.apply(rows))
        counts = np.bincount(self.owners)
        # All specialists are as likely before anything is read, however many labels they have.
        scores = -0.5 * near.squares / _NOISE - np.log(counts[self.owners])
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        shares = np.add.reduceat(softmax(scores), starts, axis=1)
        return _Judged(shares, np.stack([near.cosine, -near.squares.min(axis=1)], axis=1))


@dataclass(frozen=True, slots=True)
class _Usual:
    """How familiar the examples of one specialist are, where others were fitted to."""

    middle: Doubles
    """``[2]``: medians."""
    spread: Doubles
    """``[2]``: from there down to what nearly all of them reach."""
    least: float
    """What nearly all of them reach in both together."""

    @classmethod
    def of(cls, familiarity: Doubles) -> "_Usual":
        low, middle = np.quantile(familiarity, [_UNFIT_SHARE, 0.5], axis=0)
        usual = cls(middle, np.maximum(middle - low, _SMALLEST_SPREAD), 0.0)
        return replace(usual, least=float(np.quantile(usual.together(familiarity), _UNFIT_SHARE)))

    def together(self, familiarity: Doubles) -> Doubles:
        """Return ``[n]``: both familiarities in one, 0 for what is as familiar as most."""
        return np.asarray(((familiarity - self.middle) / self.spread).sum(axis=1))


@dataclass(frozen=True, slots=True)
class Gate:
    """A fitted gate."""

    names: Sequence[str]
    layout: Layout
    fitted: _Fitted
    usual: Sequence[_Usual]
    """Of each specialist."""

    @property
    def size_bytes(self) -> int:
        """Memory that its arrays take."""
        arrays = *self.fitted.distances.arrays, self.fitted.scaler.mean, self.fitted.scaler.std
        return sum(array.nbytes for array in arrays)

    def choose(self, features: Floats) -> GateChoice:
        """Return the specialist for a prompt; takes less than a millisecond."""
        rows = self.layout.view(features[None], GATE_VIEW)
        judged = self.fitted.judge(rows)
        best = int(judged.probabilities[0].argmax())
        usual = self.usual[best]
        fits = usual.together(judged.familiarity)[0] >= usual.least
        shares = dict(zip(self.names, map(float, judged.probabilities[0]), strict=True))
        return GateChoice(self.names[best] if fits else None, shares)


def fit_bytes(examples_bytes: int) -> int:
    """Return the memory that a fit to so many bytes of examples takes at most."""
    return min(_FIT_FACTOR * examples_bytes, _MAX_FIT_BYTES)


def fitted_gate(specialists: Mapping[str, Specialist]) -> Gate | None:
    """Return the gate for these specialists; blocks for some tenths of a second.

    Returns:
        None where none of them has examples for it.
    """
    kept = {
        name: specialist.gate
        for name, specialist in specialists.items()
        if specialist.gate is not None and len(specialist.gate.labels) >= _MIN_EXAMPLES
    }
    if not kept:
        return None
    layout = specialists[next(iter(kept))].layout
    rows, labels, owners = _joined(list(kept.values()))
    fold = folds(labels.tolist(), list(map(str, range(len(labels)))), _NUM_FOLDS, _SEED)
    familiarity = np.zeros((len(rows), 2))
    for index in np.unique(fold):
        is_inside = fold == index
        part = _Fitted.of(rows[~is_inside], labels[~is_inside], owners)
        familiarity[is_inside] = part.judge(rows[is_inside]).familiarity
    own = [familiarity[owners[labels] == owner] for owner in range(len(kept))]
    return Gate(tuple(kept), layout, _Fitted.of(rows, labels, owners), [*map(_Usual.of, own)])


def _joined(kept: Sequence[GateExamples]) -> tuple[Floats, Integers, Integers]:
    """Return rows and labels of all examples, as many as may be, and the labels' owners."""
    most = max(len(one.labels) for one in kept)
    room = _MAX_NUMBERS // kept[0].features.shape[1]
    while most > _MIN_EXAMPLES and sum(min(len(one.labels), most) for one in kept) > room:
        most -= 1
    labels: list[Integers] = []
    owners: list[int] = []
    for owner, one in enumerate(kept):
        own = _merged(one.labels[:most], max(_MAX_LABELS // len(kept), 1))
        labels.append(own + len(owners))
        owners += [owner] * (int(own.max()) + 1)
    rows = np.concatenate([one.features[:most] for one in kept]).astype(np.float32)
    return rows, np.concatenate(labels), np.array(owners)


def _merged(labels: "np.typing.NDArray[np.int16]", most: int) -> Integers:
    """Return labels from 0 on, at most so many, of two examples each at least."""
    places = np.unique(labels, return_inverse=True)[1].reshape(-1) % most
    rare = np.bincount(places)[places] < _MIN_EXAMPLES
    places[rare] = places[~rare][0] if not rare.all() else 0
    return np.unique(places, return_inverse=True)[1].reshape(-1)
