"""Compare the predictions of two graphs: KL divergence, perplexity, equal most likely tokens.

Rule: both graphs get the same tokens (teacher forcing), and all sums are in float64.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edged.builder.progress import Activity
from edged.bundle.manifest import QualityFigures
from edged.engine.graph import Graph
from edged.errors import BuildError

_CHUNK_TOKENS = 128
# Logits converted to float64 at a time: 16 MiB.
_SLICE_ELEMENTS = 1 << 21
# Close to the largest exponent of e in float64; keeps the perplexity finite.
_EXPONENT_MAX = 700.0


def compare(
    reference: Graph,
    candidate: Graph,
    sequences: Sequence[Sequence[int]],
    activity: Activity | None = None,
) -> QualityFigures:
    """Run both graphs over ``sequences``; blocks for up to minutes.

    A prefix that all sequences share, such as a system prompt, is run and counted once.

    Args:
        reference: what is right.
        candidate: what is compared with it.
        sequences: token ids.
        activity: receives the progress.

    Raises:
        BuildError: there is nothing to compare, or a logit is NaN or infinite.
    """
    marked = [(ids, [True] * len(ids)) for ids in sequences]
    return compare_marked(reference, candidate, marked, activity)[0]


def compare_marked(
    reference: Graph,
    candidate: Graph,
    sequences: Sequence[tuple[Sequence[int], Sequence[bool]]],
    activity: Activity | None = None,
) -> tuple[QualityFigures, QualityFigures]:
    """Run both graphs over token ids of which some are marked; otherwise as ``compare``.

    Sequences in which no token behind the first one is marked are left out.

    Returns:
        The figures over the predictions of marked tokens, and over all.

    Raises:
        BuildError: as there.
    """
    marked = [(ids, np.asarray(marks, bool)) for ids, marks in sequences if any(marks[1:])]
    scored = [ids for ids, _ in marked]
    if not scored:
        raise BuildError("nothing to compare: the text has fewer than two tokens")
    shared = min(shared_length(scored), min(map(len, scored)) - 2) if len(scored) > 1 else 0
    total = sum(len(sequence) - 1 - shared for sequence in scored) + shared
    chosen, others, num_run = _Sums(), _Sums(), 0
    for index, (sequence, marks) in enumerate(marked):
        ids = np.asarray(sequence, np.int64)
        for start in range(shared if index else 0, len(ids) - 1, _CHUNK_TOKENS):
            inputs = ids[start : min(start + _CHUNK_TOKENS, len(ids) - 1)]
            following = slice(start + 1, start + 1 + len(inputs))
            expected = reference.forward(inputs, start, all_rows=True)
            found = candidate.forward(inputs, start, all_rows=True)
            for sums, rows in ((chosen, marks[following]), (others, ~marks[following])):
                sums.add(expected[rows], found[rows], ids[following][rows])
            num_run += len(inputs)
            if activity is not None:
                activity.update(num_run, total)
    return chosen.result(), chosen.with_others(others).result()


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return the length of the prefix that all sequences share."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


@dataclass(slots=True)
class _Sums:
    """Running totals over positions."""

    tokens: int = 0
    agreed: int = 0
    reference_nll: float = 0.0
    candidate_nll: float = 0.0
    divergences: list[NDArray[np.float64]] = field(default_factory=list)

    def add(
        self,
        reference: NDArray[np.float32],
        candidate: NDArray[np.float32],
        targets: NDArray[np.int64],
    ) -> None:
        step = max(1, _SLICE_ELEMENTS // reference.shape[1])
        for start in range(0, len(targets), step):
            rows = slice(start, start + step)
            self._add_slice(reference[rows], candidate[rows], targets[rows])

    def _add_slice(
        self,
        reference: NDArray[np.float32],
        candidate: NDArray[np.float32],
        targets: NDArray[np.int64],
    ) -> None:
        if not np.isfinite(reference).all():
            raise BuildError("the reference graph computes logits that are no numbers")
        if not np.isfinite(candidate).all():
            raise BuildError("the quantized graph computes logits that are no numbers")
        self.agreed += int((reference.argmax(axis=1) == candidate.argmax(axis=1)).sum())
        log_p, log_q = _log_softmax(reference), _log_softmax(candidate)
        columns = np.arange(len(targets)), targets
        self.reference_nll -= float(log_p[columns].sum())
        self.candidate_nll -= float(log_q[columns].sum())
        self.tokens += len(targets)
        log_q -= log_p
        np.exp(log_p, out=log_p)
        self.divergences.append(-np.einsum("rv,rv->r", log_p, log_q))

    def with_others(self, others: "_Sums") -> "_Sums":
        return _Sums(
            self.tokens + others.tokens,
            self.agreed + others.agreed,
            self.reference_nll + others.reference_nll,
            self.candidate_nll + others.candidate_nll,
            self.divergences + others.divergences,
        )

    def result(self) -> QualityFigures:
        divergences = np.concatenate(self.divergences)
        reference, candidate = self.reference_nll / self.tokens, self.candidate_nll / self.tokens
        return QualityFigures(
            mean_kl=float(divergences.mean()),
            p99_kl=float(np.quantile(divergences, 0.99)),
            perplexity=_exp(candidate),
            reference_perplexity=_exp(reference),
            perplexity_ratio=_exp(candidate - reference),
            argmax_agreement=self.agreed / self.tokens,
            tokens=self.tokens,
        )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _exp(exponent: float) -> float:
    return float(np.exp(min(exponent, _EXPONENT_MAX)))
