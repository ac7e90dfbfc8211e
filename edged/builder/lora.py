"""Low-rank adapters on the linears of a model in torch (LoRA, Hu et al. 2021).

A linear's output gets ``scale * B(A(x))`` added to it. Only A and B are trained; B begins at zero,
so an adapter that was not trained changes nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edged.errors import UsageError

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LINEARS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
MAX_RANK = 64


@dataclass(frozen=True, slots=True)
class AdapterForm:
    """Which linears are adapted, and how."""

    rank: int
    alpha: float
    """The scale of what is added is ``alpha / rank``."""
    targets: tuple[str, ...]
    """Names of linears within a layer."""
    layers: tuple[int, ...]
    """Ascending."""

    @property
    def scale(self) -> float:
        """Factor of what is added."""
        return self.alpha / self.rank


class AdaptedLinear(nn.Module):  # type: ignore[misc]
    """A linear with an adapter beside it.

    Args:
        base: Its weights stay as they are.
        form: Of the adapter.
        dropout: Share of the adapter's inputs that are left out while it is trained.
    """

    def __init__(self, base: nn.Linear, form: AdapterForm, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.scale = form.scale
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(torch.empty(form.rank, base.in_features, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, form.rank, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the linear's output with the adapter's added."""
        # What is trained is small, and kept in full precision whatever the model is in.
        added = self.dropout(x.float()) @ self.lora_a.T @ self.lora_b.T
        return self.base(x) + (self.scale * added).to(x.dtype)


def layers_of(model: nn.Module) -> Sequence[nn.Module]:
    """Return the decoder layers.

    Raises:
        UsageError: They are not where the known families have them.
    """
    layers = getattr(getattr(model, "model", None), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UsageError("the layers of this family are not known, so no adapter can be taught")
    return list(layers)


def attach(model: nn.Module, form: AdapterForm, *, seed: int, dropout: float = 0.0) -> None:
    """Put adapters beside the linears; everything else is frozen.

    Raises:
        UsageError: The model has no such linear.
    """
    torch.manual_seed(seed)
    model.requires_grad_(requires_grad=False)
    layers = layers_of(model)
    for index in form.layers:
        if index >= len(layers):
            raise UsageError(f"layer {index} is not in a model of {len(layers)} layers")
        for name in form.targets:
            parent, last = _parent(layers[index], name)
            setattr(parent, last, AdaptedLinear(getattr(parent, last), form, dropout))


def _parent(layer: nn.Module, name: str) -> tuple[nn.Module, str]:
    for path, module in layer.named_modules():
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] == name:
            return layer.get_submodule(path.rpartition(".")[0]), name
    raise UsageError(f"no layer of this model has a linear {name}; see --targets")


def adapters(model: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """Yield the adapted linears with their paths in the model."""
    for path, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            yield path, module


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of A and B by PEFT's names."""
    found = {}
    for path, module in adapters(model):
        found[f"base_model.model.{path}.lora_A.weight"] = module.lora_a.detach().clone()
        found[f"base_model.model.{path}.lora_B.weight"] = module.lora_b.detach().clone()
    return found


def load_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Set A and B.

    Raises:
        UsageError: A tensor is missing, is too much, or has another shape.
    """
    left = dict(state)
    for path, module in adapters(model):
        for kind, parameter in (("A", module.lora_a), ("B", module.lora_b)):
            name = f"base_model.model.{path}.lora_{kind}.weight"
            tensor = left.pop(name, None)
            if tensor is None or tensor.shape != parameter.shape:
                raise UsageError(f"{name}: is missing, or not of {tuple(parameter.shape)}")
            with torch.no_grad():
                parameter.copy_(tensor)
    if left:
        raise UsageError(f"{min(left)}: belongs to nothing that the configuration names")
