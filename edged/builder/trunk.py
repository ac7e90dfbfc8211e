"""A model cut where its adapters begin: what lies below is computed once for each row."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edged.builder.lora import layers_of
from edged.builder.writer.rows import Batch


class Trunk:
    """The layers from the first adapted one on, and the kept hidden states that they read.

    Args:
        model: With its adapters.
        first: The first adapted layer.
    """

    def __init__(self, model: Any, first: int) -> None:  # noqa: ANN401 - transformers' class
        layers = layers_of(model)
        self._head = model.lm_head
        self._dtype = self._head.weight.dtype
        self._upper = _part(model.model, layers[first:])
        self._lower = None
        if first:
            self._lower = _part(model.model, layers[:first])
            self._lower.norm = nn.Identity()
        self._kept: dict[int, torch.Tensor] = {}

    def keep(self, batch: Batch) -> None:
        """Compute what lies below for a batch's rows, and keep it in half precision."""
        if self._lower is None or all(index in self._kept for index in batch.indices):
            return
        with torch.inference_mode():
            hidden = _run(self._lower, batch, input_ids=batch.ids)
        for index, row, length in zip(batch.indices, hidden, batch.lengths, strict=True):
            self._kept[index] = row[:length].to(torch.float16)

    def forget(self, batch: Batch) -> None:
        """Release what was kept for a batch's rows."""
        for index in batch.indices:
            self._kept.pop(index, None)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return ``[answer tokens, vocabulary]``, in the order of the batch's targets."""
        if self._lower is None:
            hidden = _run(self._upper, batch, input_ids=batch.ids)
        else:
            width = batch.ids.shape[1]
            rows = [self._kept[index].to(self._dtype) for index in batch.indices]
            padded = [nn.functional.pad(row, (0, 0, 0, width - len(row))) for row in rows]
            hidden = _run(self._upper, batch, inputs_embeds=torch.stack(padded))
        return self._head(hidden[batch.targets >= 0]).float()


def _part(model: Any, layers: Sequence[nn.Module]) -> Any:  # noqa: ANN401
    part = copy.copy(model)
    part._modules = dict(model._modules)  # noqa: SLF001 - so that the parts share their weights
    part.config = copy.copy(model.config)
    part.config.num_hidden_layers = len(layers)
    part.layers = nn.ModuleList(layers)
    return part


def _run(part: Any, batch: Batch, **inputs: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    mask = batch.mask.to(part.embed_tokens.weight.dtype)
    return part(
        attention_mask=mask, position_ids=batch.positions, use_cache=False, **inputs
    ).last_hidden_state
