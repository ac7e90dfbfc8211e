"""The words in which a decoder is described between reading the export and writing the fused graph.

Rule: plain data. Tensors and weights are named as in the export. Outside attention a decoder
treats each token alone, so every block but ``Attention`` is row-wise: it may be applied to any
subset of the tokens.
"""

from dataclasses import dataclass
from enum import StrEnum

import onnx


class ActivationKind(StrEnum):
    """Activations that one operator computes."""

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
    """Activations it reads; constants are not among them."""
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
    """Constant [H]; where the model uses 1 + w, the export has added it already."""
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation(Block):
    """One elementwise function."""

    kind: ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Block):
    """A row-wise operator that is taken over as it stands."""

    node: onnx.NodeProto


@dataclass(frozen=True, slots=True)
class Rotary:
    """Names of the export's cosine and sine, [1, S, rotary size], in no order."""

    first: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Block):
    """Everything between the query, key and value projections and the output projection.

    ``inputs`` are the query's, key's and value's projections; one name where the export packs them.
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
