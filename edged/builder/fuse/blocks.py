"""The intermediate representation between the export and the fused graph: a list of blocks.

Tensors and weights have the names of the export.

Rule: every block but ``Attention`` is token-wise, so it may be applied to any subset of the tokens.
"""

from dataclasses import dataclass
from enum import StrEnum

import onnx


class ActivationKind(StrEnum):
    """Activations that a single operator computes."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One step of the decoder."""

    scope: str
    """Module path, such as ``model.layers.0.mlp.up_proj``."""
    inputs: tuple[str, ...]
    """Activations it reads, without constants."""
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Block):
    """Rows of a table, by token id."""

    weight: str
    """Initializer [V, H]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Block):
    """x W + b."""

    weight: str
    """Constant [K, N]."""
    bias: str | None
    """Constant [N]."""
    width: int
    """N."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm(Block):
    """Root mean square norm over the last axis."""

    weight: str
    """Constant [H]; where the model uses 1 + w, the export holds the sum."""
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Block):
    """One elementwise function."""

    kind: ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Block):
    """A token-wise operator that is copied unchanged."""

    node: onnx.NodeProto


@dataclass(frozen=True, slots=True)
class Rotary:
    """Names of the export's cosine and sine, [1, S, rotary size], in either order."""

    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Block):
    """Everything between the query, key and value projections and the output projection.

    ``inputs`` are the projections of query, key and value; one name where the export packs them.
    """

    layer: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    softcap: float
    """0 for none."""
    window: int | None
    """Tokens that a query sees, itself included; None for all."""
    rotary: Rotary | None
    """None for a layer without positions."""
    query_norm: Norm | None
    """Per head, before the rotation."""
    key_norm: Norm | None
