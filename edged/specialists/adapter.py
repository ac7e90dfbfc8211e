"""An adapter: low-rank matrices that a specialist adds to products of the resident model.

In the engine's form, which ``edged.builder.adapters`` makes of PEFT's: ``down`` multiplies the
8-bit activations that the product itself reads, ``up`` is fp32 when it runs. A product whose output
is several projections side by side has blocks of equal width; each has an ``up`` of its own.

Rule: nothing of a file is used before it was compared with its description, and the description
with the model; sizes are bounded before anything is read. Another's folder may be made to do harm.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edged.bundle.manifest import TOKENIZER, Manifest
from edged.bundle.plain_file import read_plain
from edged.bundle.strict_json import decode, read_json
from edged.bundle.tensor_file import Tensors, read_tensors, write_tensors
from edged.errors import BundleError, BundleUnavailableError
from edged.specialists.names import NAME, check_names

FORMAT = 1
DESCRIPTION, ARRAYS = "adapter.json", "adapter.safetensors"
MAX_BYTES = 6 << 20
_MAX_DESCRIPTION_BYTES = 1 << 16
# Within it no product of what was read and a prompt's activations overflows.
_LARGEST = 1e4
_FP32_BYTES = 4
_NAMES = ("down", "down_scales", "up", "up_scales")
REPAIR = "make it again with `edged teach`"


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


@dataclass(frozen=True, slots=True)
class AdapterDescription:
    """Everything that is known of an adapter without its arrays."""

    format: int
    name: Annotated[str, NAME]
    base: AdaptedModel
    sha256: str
    """Of ``adapter.safetensors``."""
    size_bytes: Annotated[int, MAX_BYTES]
    mean_kl: float | None
    """Of the adapted int8 model against the adapted fp32 model; None where it was not measured."""


def write_adapter(
    folder: Path, name: str, base: AdaptedModel, parts: Mapping[str, AdapterPart], mean_kl: float
) -> AdapterDescription:
    """Write an adapter's two files into a specialist's folder.

    Raises:
        ValueError: the name is none, or the file would have more than ``MAX_BYTES``.
        OSError: it cannot be written.
    """
    check_names(name, None)
    data = adapter_bytes(parts)
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"the adapter has {len(data)} bytes, more than {MAX_BYTES}; lower its rank"
        )
    digest = hashlib.sha256(data).hexdigest()
    said = AdapterDescription(FORMAT, name, base, digest, len(data), mean_kl)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(data)
    text = json.dumps(asdict(said), indent=2, sort_keys=True, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return said


def adapter_bytes(parts: Mapping[str, AdapterPart]) -> bytes:
    """Return the content of an adapter's file."""
    arrays = {f"{p}.{n}": a for p, part in parts.items() for n, a in part.arrays.items()}
    return write_tensors(arrays, {})


def made_adapter(parts: Mapping[str, AdapterPart]) -> Adapter:
    """Return an adapter that was just made, as ``read_adapter`` would."""
    return Adapter(hashlib.sha256(adapter_bytes(parts)).hexdigest(), parts)


def describe_adapter(folder: Path) -> AdapterDescription:
    """Read the description of an adapter.

    Raises:
        BundleError: it is damaged; it says what to do.
        BundleUnavailableError: it cannot be read now.
    """
    text = _read(folder / DESCRIPTION, _MAX_DESCRIPTION_BYTES)
    try:
        said = decode(AdapterDescription, read_json(text))
        _check(said)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder}: {DESCRIPTION}: {error}; {REPAIR}") from error
    return said


def _check(said: AdapterDescription) -> None:
    if said.format != FORMAT:
        raise ValueError(f"format {said.format} is not known")
    check_names(said.name, None)


def read_adapter(
    folder: Path, base: AdaptedModel, shape: AdapterShape
) -> tuple[AdapterDescription, Adapter]:
    """Read and check an adapter; blocks for milliseconds.

    Args:
        folder: may come from a stranger.
        base: of the bundle.
        shape: of the products that its graph can adapt.

    Raises:
        BundleError: it is damaged, made for another base, or the model takes none; it says what
            to do.
        BundleUnavailableError: a file cannot be read now.
    """
    said = describe_adapter(folder)
    if said.base != base:
        raise BundleError(f"{folder}: made for another model; {REPAIR}, with --model this bundle")
    if not shape:
        raise BundleError(
            f"{folder}: the model's bundle takes no adapters; rebuild it with this version's "
            "`edged build`"
        )
    data = _read(folder / ARRAYS, MAX_BYTES)
    if hashlib.sha256(data).hexdigest() != said.sha256:
        raise BundleError(f"{folder}: {ARRAYS} is not what {DESCRIPTION} says; {REPAIR}")
    try:
        return said, Adapter(said.sha256, _parts(read_tensors(data)[0], shape))
    except ValueError as error:
        raise BundleError(f"{folder}: {ARRAYS}: {error}; {REPAIR}") from error


def _read(path: Path, most: int) -> bytes:
    try:
        return read_plain(path, most)
    except OSError as error:
        raise BundleUnavailableError(f"{path}: cannot be read: {error.strerror}") from error


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
