"""Train the adapters of a writer: the loop, its checkpoints, and when it ends.

The loss is taken on the tokens of answers only. A checkpoint is written whole or not at all, and a
run that goes on from one takes the same steps as one that was never ended.
"""

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from edged.builder.lora import load_state, state_of
from edged.builder.trunk import Trunk
from edged.builder.writer.results import FEWEST_MEASURED
from edged.builder.writer.rows import Batch, Row, batch_of, batches

Clock = Callable[[], float]
State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast is trained."""

    epochs: int = 6
    rate: float = 1.5e-3
    batch_rows: int = 16
    warm_up: float = 0.15
    """Share of the steps up to the highest rate."""
    patience: int = 2
    """Epochs without anything better on the held-out examples, after which it ends."""
    fewest_apart: int = FEWEST_MEASURED
    """Of fewer held-out rows, chance would choose the best epoch, so the last one counts."""
    seed: int = 0
    save_every_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the examples came to."""

    number: int
    loss: float
    """Mean over its steps, of a token."""
    held_out_loss: float
    """Of an example."""
    held_out_exact: float
    """Share of the held-out rows of which each answer's every token is the most probable."""


@dataclass(slots=True)
class _Progress:
    """Everything that a checkpoint holds beside the optimizer."""

    step: int = 0
    loss: float = 0.0
    """Sum over the steps of this epoch."""
    epochs: list[Epoch] = field(default_factory=list)
    best: State = field(default_factory=dict)


class Trainer:
    """Trains the adapters of a model on rows.

    Args:
        trunk: The model with its adapters.
        model: The same, for its adapters' numbers.
        rows: To learn from, and then the held-out ones.
        num_held_out: How many of them, at the end.
        course: How.
        checkpoint: Where it is kept what was done; None keeps nothing.
        fingerprint: Of all that decides the steps; a checkpoint of another one is not used.
    """

    def __init__(  # noqa: PLR0913 - each is one thing
        self,
        model: Any,  # noqa: ANN401 - transformers' class
        trunk: Trunk,
        rows: Sequence[Row],
        num_held_out: int,
        course: Course,
        *,
        checkpoint: Path | None = None,
        fingerprint: str = "",
        pad_id: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._model, self._trunk, self._rows = model, trunk, rows
        self._course, self._pad_id, self._clock = course, pad_id, clock
        self._checkpoint, self._fingerprint = checkpoint, fingerprint
        self._taught = range(len(rows) - num_held_out)
        self._held_out = range(len(rows) - num_held_out, len(rows))
        self._chooses_epoch = num_held_out >= course.fewest_apart
        self._parameters = [one for one in model.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=course.rate, weight_decay=0.0)
        # Rows hold one dialogue or several, so how many batches they make depends on their order.
        self._orders = [
            batches(rows, self._taught, course.batch_rows, course.seed + epoch)
            for epoch in range(course.epochs)
        ]
        self._ends = list(accumulate(len(order) for order in self._orders))
        self.num_steps = self._ends[-1]
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, course.rate, self.num_steps + 1, pct_start=course.warm_up
        )
        self._progress = _Progress()

    def run(self, note: Callable[[float, Epoch | None], None]) -> list[Epoch]:
        """Train, and leave the best adapters in the model.

        Args:
            note: Called after each step with the share that is done, and the epoch if one ended.
        """
        self._resume()
        saved_s = self._clock()
        while self._progress.step < self.num_steps and not self._is_over():
            epoch = bisect_right(self._ends, self._progress.step)
            order = self._orders[epoch]
            index = self._progress.step - self._ends[epoch] + len(order)
            self._step(batch_of(self._rows, order[index], self._pad_id))
            ended = self._end_epoch(len(order)) if index + 1 == len(order) else None
            if self._clock() - saved_s >= self._course.save_every_s:
                self._save()
                saved_s = self._clock()
            note(self._progress.step / self.num_steps, ended)
        if self._progress.best:
            load_state(self._model, self._progress.best)
        return self._progress.epochs

    def forget(self) -> None:
        """Remove the checkpoint: its work is done."""
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)

    def _step(self, batch: Batch) -> None:
        self._trunk.keep(batch)
        targets = batch.targets[batch.targets >= 0]
        loss = cross_entropy(self._trunk.logits(batch), targets)
        loss.backward()
        if self._course.epochs == 1:
            self._trunk.forget(batch)  # no later epoch reads it
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        self._progress.step += 1
        self._progress.loss += loss.item()

    def _end_epoch(self, num_steps: int) -> Epoch:
        held_out_loss, exact = self._measure()
        number = len(self._progress.epochs) + 1
        loss = self._progress.loss / num_steps
        ended = Epoch(number, loss, held_out_loss, exact)
        self._progress.loss = 0.0
        if self._is_better(ended):
            self._progress.best = state_of(self._model)
        self._progress.epochs.append(ended)
        return ended

    def _is_better(self, one: Epoch) -> bool:
        best = max(self._progress.epochs, key=_merit, default=None)
        return best is None or not self._chooses_epoch or _merit(one) >= _merit(best)

    def _is_over(self) -> bool:
        epochs = self._progress.epochs
        if not self._chooses_epoch or not epochs:
            return False
        best = max(epochs, key=lambda one: (_merit(one), one.number))
        return len(epochs) - best.number >= self._course.patience

    def _measure(self) -> tuple[float, float]:
        """Return the loss of a held-out example, and the share that is exactly right."""
        if not self._held_out:
            return 0.0, 0.0
        loss, right = 0.0, 0
        for indices in batches(self._rows, self._held_out, self._course.batch_rows, 0):
            batch = batch_of(self._rows, indices, self._pad_id)
            self._trunk.keep(batch)
            with torch.inference_mode():
                logits = self._trunk.logits(batch)
            targets = batch.targets[batch.targets >= 0]
            loss += float(cross_entropy(logits, targets, reduction="sum"))
            wrong = torch.zeros(len(indices), dtype=torch.bool)
            row_of = (batch.targets >= 0).nonzero()[:, 0]
            wrong[row_of[logits.argmax(-1) != targets]] = True
            right += int((~wrong).sum())
        return loss / len(self._held_out), right / len(self._held_out)

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        made = {
            "fingerprint": self._fingerprint,
            "step": self._progress.step,
            "loss": self._progress.loss,
            "epochs": [asdict(one) for one in self._progress.epochs],
            "best": self._progress.best,
            "adapters": state_of(self._model),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self._checkpoint.with_name(self._checkpoint.name + ".new")
        with partial.open("wb") as file:
            torch.save(made, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._checkpoint)

    def _resume(self) -> None:
        if self._checkpoint is None or not self._checkpoint.is_file():
            return
        try:
            kept: Mapping[str, Any] = torch.load(self._checkpoint, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError):
            return  # not one of ours; it will be replaced
        if kept.get("fingerprint") != self._fingerprint:
            return
        load_state(self._model, kept["adapters"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self._schedule.load_state_dict(kept["schedule"])
        epochs = [Epoch(**one) for one in kept["epochs"]]
        self._progress = _Progress(kept["step"], kept["loss"], epochs, kept["best"])


def _merit(one: Epoch) -> tuple[float, float]:
    return one.held_out_exact, -one.held_out_loss
