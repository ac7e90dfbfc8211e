"""Rows of tokens that a writer is trained on, and the batches that they make."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Row:
    """One dialogue in tokens; what is learned is the answers, with the end of each."""

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]
    """For each token."""

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.is_answer) or not any(self.is_answer[1:]):
            raise ValueError("a row must have an answer behind its first token")


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of about one length, padded at their ends."""

    indices: tuple[int, ...]
    """Of its rows."""
    ids: torch.Tensor
    """``[rows, tokens]``."""
    mask: torch.Tensor
    """``[rows, tokens]``: 1 where there is a token."""
    targets: torch.Tensor
    """``[rows, tokens]``: the token that follows, where it belongs to an answer."""


def batch_of(rows: Sequence[Row], indices: Sequence[int], pad_id: int) -> Batch:
    """Return these rows as one batch."""
    chosen = [rows[index] for index in indices]
    width = max(len(row.ids) for row in chosen)
    ids = torch.full((len(chosen), width), pad_id)
    mask = torch.zeros((len(chosen), width), dtype=torch.long)
    targets = torch.full((len(chosen), width), IGNORED)
    for position, row in enumerate(chosen):
        length = len(row.ids)
        ids[position, :length] = torch.tensor(row.ids)
        mask[position, :length] = 1
        following = torch.tensor(row.ids[1:])
        is_answer = torch.tensor(row.is_answer[1:])
        targets[position, : length - 1] = torch.where(is_answer, following, IGNORED)
    return Batch(tuple(indices), ids, mask, targets)


def batches(rows: Sequence[Row], chosen: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Return rows of like lengths together, in an order that the seed decides."""
    rng = random.Random(seed)  # noqa: S311 - an order, not a secret
    order = list(chosen)
    rng.shuffle(order)
    order.sort(key=lambda index: len(rows[index].ids))
    made = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(made)
    return made
