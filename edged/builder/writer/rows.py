"""Rows of tokens that a writer is trained on, and the batches that they make."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import torch

IGNORED = -100


# A row of several dialogues: its tokens at most, and the least share that all begin with.
_JOINED_TOKENS, _COMMON_SHARE = 1024, 0.4


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue in tokens, or several that begin alike; what is learned is the answers."""

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]
    """For each token; the end of an answer belongs to it."""
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
    """``[rows, 1, tokens, tokens]``: which token sees which."""
    positions: torch.Tensor
    """``[rows, tokens]``"""
    targets: torch.Tensor
    """``[rows, tokens]``: the token that follows, where it belongs to an answer."""


def joined(rows: Sequence[Row], most_dialogues: int) -> list[Row]:
    """Return rows of which those that begin alike are one, so that this is read once."""
    groups: list[list[Row]] = []
    common = 0
    for row in sorted(rows, key=lambda one: one.ids):
        group = groups[-1] if groups else []
        shared = min(common, _num_common(group[0], row)) if group else 0
        size = len(row.ids) + sum(len(one.ids) - shared for one in group)
        is_alike = shared >= _COMMON_SHARE * len(row.ids) and size <= _JOINED_TOKENS
        if is_alike and len(group) < most_dialogues:
            group.append(row)
            common = shared
        else:
            groups.append([row])
            common = len(row.ids)
    return [_as_one(group) for group in groups]


def _num_common(one: Row, other: Row) -> int:
    """Return how many tokens both begin with; none of them is of an answer."""
    pairs = zip(one.ids, other.ids, one.is_answer, other.is_answer, strict=False)
    alike = takewhile(lambda pair: pair[0] == pair[1] and not (pair[2] or pair[3]), pairs)
    return sum(1 for _ in alike)


def _as_one(group: Sequence[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    common = min(_num_common(group[0], row) for row in group[1:])
    ids, is_answer = list(group[0].ids[:common]), list(group[0].is_answer[:common])
    starts = []
    for row in group:
        starts.append(len(ids))
        ids += row.ids[common:]
        is_answer += row.is_answer[common:]
    return Row(tuple(ids), tuple(is_answer), tuple(starts))


def batch_of(rows: Sequence[Row], indices: Sequence[int], pad_id: int) -> Batch:
    """Return these rows as one batch."""
    chosen = [rows[index] for index in indices]
    width = max(len(row.ids) for row in chosen)
    ids = torch.full((len(chosen), width), pad_id)
    mask = torch.ones((len(chosen), 1, width, width), dtype=torch.bool).tril()
    positions = torch.arange(width).repeat(len(chosen), 1)
    targets = torch.full((len(chosen), width), IGNORED)
    for place, row in enumerate(chosen):
        length = len(row.ids)
        ids[place, :length] = torch.tensor(row.ids)
        for start, end in pairwise((*row.starts, length)):
            mask[place, 0, end:, start:end] = False
            positions[place, start:end] = torch.arange(row.starts[0], row.starts[0] + end - start)
        following = torch.tensor(row.ids[1:])
        is_answer = torch.tensor(row.is_answer[1:])
        targets[place, : length - 1] = torch.where(is_answer, following, IGNORED)
    lengths = tuple(len(row.ids) for row in chosen)
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
