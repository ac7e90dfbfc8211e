"""An adapter: low-rank matrices that a specialist adds to products of the resident model.

In the engine's form, which ``edged.builder.adapters`` makes of PEFT's: ``down`` multiplies the
8-bit activations that the product itself reads, ``up`` is fp32 when it runs. A product whose output
is several projections side by side has blocks of equal width; each has an ``up`` of its own.

Rule: nothing of a file is used before it was compared with the model. Another's may be made to do
harm.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edged.bundle.manifest import TOKENIZER, Manifest
from edged.bundle.tensor_file import Tensors, read_tensors, write_tensors

MAX_BYTES = 6 << 20
# Where a bundle of static scaling clips. A rotated norm's output is close to normally distributed
# with a mean square of 1, so that is one value in 16,000. SmolLM2-135M, mean KL: 0.0070 with 3.7,
# 0.0067 with 4.0, 0.0079 with 4.4; 0.0059 with each row's own largest value, which takes 240 nodes
# more and 5 % of a decode step.
NORM_PEAK = 4.0
# Of what a step of an activation behind a norm is the 127th part, by the scaling of the norms: of
# that peak, or of each token's own largest value.
_UNITS = {"static": NORM_PEAK, "dynamic": 1.0}
_BEHIND_NORMS = ("qkv_proj", "gate_up_proj")
# Within it no product of what was read and a prompt's activations overflows.
_LARGEST = 1e4
_FP32_BYTES = 4
_NAMES = ("down", "down_scales", "up", "up_scales")


class ProductShape(NamedTuple):
    """The sizes of an adapted product, as the model's graph has them."""

    inputs: int
    inners: int
    """Rows of ``rank`` numbers between ``down`` and ``up``: one for each block, or one for all."""
    blocks: int
    rank: int
    width: int
    """Outputs of a block."""


# By product, such as ``20.attn.qkv_proj``; empty for a model that takes no adapters.
AdapterShape = Mapping[str, ProductShape]


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """What is added to one product: for each block ``x @ down * down_scales @ up * up_scales``."""

    down: NDArray[np.int8]
    """[inputs, inners * rank]"""
    down_scales: NDArray[np.float32]
    """[inners * rank]"""
    up: NDArray[np.int8]
    """[blocks, rank, width]"""
    up_scales: NDArray[np.float32]
    """[blocks, 1, width]"""

    @property
    def arrays(self) -> Tensors:
        """The arrays by name."""
        return {name: getattr(self, name) for name in _NAMES}

    def write_up(self, target: NDArray[np.float32]) -> None:
        """Write ``up`` with all scales into [blocks, rank, width]."""
        np.multiply(self.up, self.up_scales, out=target)
        target *= self.down_scales.reshape(-1, self.up.shape[1], 1)


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """The parts of an adapter that was read and checked, or was just made."""

    key: str
    """SHA-256 of its file: keys and values that two adapters compute have nothing in common."""
    parts: Mapping[str, AdapterPart]

    @property
    def size_bytes(self) -> int:
        """Of its arrays in memory."""
        return sum(a.nbytes for part in self.parts.values() for a in part.arrays.values())

    def scaled(self, factor: float) -> "Adapter":
        """Return it with the products behind norms multiplied, as ``factor_from`` says."""
        if factor == 1.0:
            return self
        parts = {
            name: replace(part, down_scales=part.down_scales * np.float32(factor))
            if name.endswith(_BEHIND_NORMS)
            else part
            for name, part in self.parts.items()
        }
        return Adapter(self.key, parts)

    @property
    def slot_bytes(self) -> int:
        """What a slot of the cache that has it takes beside that."""
        return sum(p.down.nbytes + _FP32_BYTES * p.up.size for p in self.parts.values())


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """The model that an adapter belongs to, whatever machine built it."""

    source: str
    """SHA-256 of the source's weights."""
    tokenizer: str
    """SHA-256 of ``tokenizer.json``."""
    form: str
    """Scheme, scaling of the norms, and type of the cache."""

    @classmethod
    def of(cls, manifest: Manifest) -> "AdaptedModel":
        """Return the base that a bundle is."""
        scaling = manifest.tries[-1].scaling if manifest.tries else "none"
        form = f"{manifest.scheme}/{scaling}/{manifest.model.kv_type}"
        return cls(manifest.source.sha256, manifest.files[TOKENIZER].sha256, form)

    @property
    def plain_form(self) -> str:
        """Scheme and type of the cache, which decide what heads read."""
        _, (_, _, scheme, kv_type) = _divided(self)
        return f"{scheme}/{kv_type}"

    def factor_from(self, taught: "AdaptedModel") -> float | None:
        """Return what adapters of another bundle are multiplied by behind norms to be of this one.

        The gate of a build decides between the scalings of the norms, by a hair with some: an
        adapter is of both. None where it is of another model.
        """
        (own, model), (other, taught_model) = _divided(self), _divided(taught)
        if model != taught_model:
            return None
        if own == other:
            return 1.0
        if own not in _UNITS or other not in _UNITS:
            return None
        return _UNITS[own] / _UNITS[other]


def _divided(model: AdaptedModel) -> tuple[str, tuple[str, ...]]:
    """Return the scaling of the norms, and everything else."""
    scheme, _, rest = model.form.partition("/")
    scaling, _, kv_type = rest.partition("/")
    return scaling, (model.source, model.tokenizer, scheme, kv_type)


def adapter_bytes(parts: Mapping[str, AdapterPart]) -> bytes:
    """Return the content of an adapter's file."""
    arrays = {f"{p}.{n}": a for p, part in parts.items() for n, a in part.arrays.items()}
    return write_tensors(arrays, {})


def made_adapter(parts: Mapping[str, AdapterPart]) -> Adapter:
    """Return an adapter that was just made, as ``read_adapter`` would."""
    return Adapter(hashlib.sha256(adapter_bytes(parts)).hexdigest(), parts)


def read_adapter(data: bytes, shape: AdapterShape) -> Adapter:
    """Read an adapter from the content of its file.

    Args:
        data: may come from a stranger.
        shape: of the products that the model's graph can adapt.

    Raises:
        ValueError: it is damaged, or made for another model.
    """
    return Adapter(hashlib.sha256(data).hexdigest(), _parts(read_tensors(data)[0], shape))


def _parts(arrays: Tensors, shape: AdapterShape) -> dict[str, AdapterPart]:
    products = sorted({name.rpartition(".")[0] for name in arrays})
    names = {f"{product}.{name}" for product in products for name in _NAMES}
    if names != arrays.keys() or not products:
        raise ValueError(f"must have {', '.join(_NAMES)} of each product, and nothing else")
    parts = {}
    for product in products:
        sizes = shape.get(product)
        if sizes is None:
            raise ValueError(f"{product} is no product that this model's bundle adapts")
        inputs, inners, blocks, rank, width = sizes
        wanted_shapes = (
            (np.int8, (inputs, inners * rank)),
            (np.float32, (inners * rank,)),
            (np.int8, (blocks, rank, width)),
            (np.float32, (blocks, 1, width)),
        )
        found = zip(_NAMES, wanted_shapes, strict=True)
        parts[product] = AdapterPart(
            *(_checked(arrays, f"{product}.{name}", *wanted) for name, wanted in found)
        )
    return parts


def _checked(arrays: Tensors, name: str, kind: type, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - of the kind that was asked for
    found = arrays[name]
    if found.shape != shape or found.dtype != kind:
        raise ValueError(f"{name} is not {shape} of {kind.__name__}")
    # Of an array with a NaN the largest is NaN, which is not below anything.
    if found.dtype != np.int8 and not float(np.abs(found).max(initial=0.0)) <= _LARGEST:
        raise ValueError(f"{name} has numbers that are not finite, or larger than {_LARGEST:g}")
    return found
