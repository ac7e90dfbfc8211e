"""Rows of tokens that a writer is trained on, and the batches that they make."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

IGNORED = -100
_UNSEEN = -1e9
# In small models a token's attention to so many others takes about as long as a layer's products.
_ATTENTION_TOKENS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue in tokens, or several that begin alike; what is learned is the answers."""

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]
    """For each token; the end of an answer belongs to it."""
    num_before: int = 0
    """Tokens before the first word of the dialogue itself: those of the template."""
    starts: tuple[int, ...] = ()
    """Of several dialogues: where each goes on behind what is common to all. None sees another."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.is_answer) or not any(self.is_answer[1:]):
            raise ValueError("a row must have an answer behind its first token")

    @property
    def num_dialogues(self) -> int:
        """How many it holds."""
        return len(self.starts) or 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about one length, padded at their ends."""

    indices: tuple[int, ...]
    """Of its rows."""
    lengths: tuple[int, ...]
    """Of its rows, in tokens."""
    ids: torch.Tensor
    """``[rows, tokens]``."""
    mask: torch.Tensor
    """``[rows, 1, tokens, tokens]``: 0 where a token sees another, else far below it."""
    positions: torch.Tensor
    """``[rows, tokens]``"""
    targets: torch.Tensor
    """``[rows, tokens]``: the token that follows, where it belongs to an answer."""


def joined(rows: Sequence[Row], most_dialogues: int, seed: int) -> list[Row]:
    """Return rows with several dialogues that begin alike, so that the beginning is read once.

    Which ones are together is left to chance. Were they alike, the batches would differ more from
    each other than examples do, and less would be learned from as many steps.

    Args:
        rows: Of a dialogue each.
        most_dialogues: Of a row.
        seed: Of the choice.
    """
    order = list(rows)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    by_beginning: dict[tuple[int, ...], list[Row]] = {}
    for row in order:
        by_beginning.setdefault(row.ids[: row.num_before], []).append(row)
    groups: list[list[Row]] = []
    for beginning, alike in by_beginning.items():
        left = 0
        for row in alike:
            num_own = len(row.ids) - len(beginning)
            if num_own > left or len(groups[-1]) == most_dialogues:
                groups.append([])
                left = _own_tokens(len(beginning))
            groups[-1].append(row)
            left -= num_own
    return [_as_one(group) for group in groups]


def _own_tokens(num_before: int) -> int:
    """Return how many tokens a row may have behind what its dialogues begin with.

    With n of them in a row, a dialogue costs its share of the beginning, 1/n, and attention to the
    others, which grows with n: the sum is least at about this.
    """
    return math.isqrt(num_before * (num_before + _ATTENTION_TOKENS))


def _as_one(group: Sequence[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    common = group[0].num_before
    ids, is_answer = list(group[0].ids[:common]), list(group[0].is_answer[:common])
    starts = []
    for row in group:
        starts.append(len(ids))
        ids += row.ids[common:]
        is_answer += row.is_answer[common:]
    return Row(tuple(ids), tuple(is_answer), common, tuple(starts))


def batch_of(rows: Sequence[Row], indices: Sequence[int], pad_id: int) -> Batch:
    """Return these rows as one batch."""
    chosen = [rows[index] for index in indices]
    width = max(len(row.ids) for row in chosen)
    ids = torch.full((len(chosen), width), pad_id)
    sees = torch.ones((len(chosen), 1, width, width), dtype=torch.bool).tril()
    positions = torch.arange(width).repeat(len(chosen), 1)
    targets = torch.full((len(chosen), width), IGNORED)
    for place, row in enumerate(chosen):
        length = len(row.ids)
        ids[place, :length] = torch.tensor(row.ids)
        for start, end in pairwise((*row.starts, length)):
            sees[place, 0, end:, start:end] = False
            positions[place, start:end] = torch.arange(row.starts[0], row.starts[0] + end - start)
        following = torch.tensor(row.ids[1:])
        is_answer = torch.tensor(row.is_answer[1:])
        targets[place, : length - 1] = torch.where(is_answer, following, IGNORED)
    lengths = tuple(len(row.ids) for row in chosen)
    mask = torch.zeros(sees.shape).masked_fill(~sees, _UNSEEN)
    return Batch(tuple(indices), lengths, ids, mask, positions, targets)


def batches(rows: Sequence[Row], chosen: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Return rows of like lengths together, in an order that the seed decides.

    Args:
        rows: All.
        chosen: Which of them.
        size: Dialogues of a batch.
        seed: Of the order.
    """
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    order = list(chosen)
    rng.shuffle(order)
    order.sort(key=lambda index: len(rows[index].ids))
    made: list[list[int]] = []
    left = 0
    for index in order:
        if left <= 0:
            made.append([])
            left = size
        made[-1].append(index)
        left -= rows[index].num_dialogues
    rng.shuffle(made)
    return made
