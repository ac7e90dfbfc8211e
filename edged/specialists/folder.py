"""A specialist on disk: ``specialist.json``, and its arrays beside it.

Rule: nothing of a folder is used before it was compared with its description; sizes are bounded
before anything is read.
"""

import hashlib
import io
import json
import math
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edged.bundle.manifest import TOKENIZER, Manifest
from edged.bundle.strict_json import decode, read_json
from edged.errors import BundleError, BundleUnavailableError
from edged.specialists.features import NUM_POOLINGS, Layout, View
from edged.specialists.head import Head, Scaler

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
# Of template, pooling and layers: another one makes other features.
FEATURES_VERSION = 1
DESCRIPTION, ARRAYS = "specialist.json", "arrays.npz"
MAX_DESCRIPTION_BYTES = 1 << 20
MAX_ARRAYS_BYTES = 64 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_REPAIR = "teach it again with `edged teach`"


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model that a specialist belongs to, whatever machine built it."""

    source: str
    """SHA-256 of the source's weights."""
    tokenizer: str
    """SHA-256 of ``tokenizer.json``."""
    form: str
    """Scheme and type of the cache."""
    features: int
    """``FEATURES_VERSION``."""

    @classmethod
    def of(cls, manifest: Manifest) -> "BaseModel":
        """Return the base that a bundle is."""
        form = f"{manifest.scheme}/{manifest.model.kv_type}"
        tokenizer = manifest.files[TOKENIZER].sha256
        return cls(manifest.source.sha256, tokenizer, form, FEATURES_VERSION)


@dataclass(frozen=True, slots=True)
class HeadDescription:
    """One head: what it decides, and when it is unsure."""

    field: str | None
    """Of the JSON answer; None where the answer is the label."""
    labels: tuple[str, ...]
    view: tuple[tuple[int, ...], ...]
    """Pooling and layer of each block of features."""
    temperature: float
    unsure_below: float
    """Least confidence of an answer."""
    unfamiliar_below: float
    """Least familiarity of an answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on examples that were held out."""

    accuracy: float
    low: float
    """95 % interval of it."""
    high: float
    ece: float
    num_examples: int


@dataclass(frozen=True, slots=True)
class Description:
    """Everything that is known of a specialist without its arrays."""

    format: int
    name: str
    base: BaseModel
    num_layers: int
    hidden_size: int
    heads: tuple[HeadDescription, ...]
    result: Result
    arrays_sha256: str


@dataclass(frozen=True, slots=True)
class TaughtHead:
    """A head with its labels and thresholds, ready to decide."""

    description: HeadDescription
    scaler: Scaler
    head: Head


@dataclass(frozen=True, slots=True)
class Specialist:
    """A specialist that was read and checked."""

    description: Description
    heads: tuple[TaughtHead, ...]
    size_bytes: int
    """Of its arrays in memory."""

    @property
    def layout(self) -> Layout:
        """The features that it reads."""
        return Layout(self.description.num_layers, self.description.hidden_size)


def write_specialist(folder: Path, description: Description, heads: list[TaughtHead]) -> None:
    """Write a folder; ``description`` gets the hash of the arrays.

    Raises:
        OSError: it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for index, one in enumerate(heads):
        arrays[f"{index}.mean"], arrays[f"{index}.std"] = one.scaler.mean, one.scaler.std
        arrays[f"{index}.projection"] = one.head.projection.astype(np.float16)
        for name in ("offset", "means", "variances"):
            arrays[f"{index}.{name}"] = getattr(one.head, name)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    tree = asdict(description) | {"arrays_sha256": hashlib.sha256(data).hexdigest()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ARRAYS).write_bytes(data)
    text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_specialist(folder: Path, base: BaseModel) -> Specialist:
    """Read and check a folder; blocks for milliseconds.

    Raises:
        BundleError: it is damaged, or taught to another base; it says what to do.
        BundleUnavailableError: a file cannot be read now.
    """
    text = _read(folder / DESCRIPTION, MAX_DESCRIPTION_BYTES)
    try:
        description = decode(Description, read_json(text))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder}: {DESCRIPTION}: {error}; {_REPAIR}") from error
    if description.format != FORMAT:
        raise BundleError(f"{folder}: format {description.format} is not known; {_REPAIR}")
    if not _NAME.fullmatch(description.name):
        raise BundleError(f"{folder}: name must match {_NAME.pattern}; {_REPAIR}")
    if description.base != base:
        raise BundleError(f"{folder}: taught to another model; {_REPAIR}, with --model this bundle")
    data = _read(folder / ARRAYS, MAX_ARRAYS_BYTES)
    if hashlib.sha256(data).hexdigest() != description.arrays_sha256:
        raise BundleError(f"{folder}: {ARRAYS} is not what {DESCRIPTION} says; {_REPAIR}")
    try:
        heads = _heads(data, description)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder}: {ARRAYS}: {error}; {_REPAIR}") from error
    return Specialist(description, heads, len(data))


def _heads(data: bytes, description: Description) -> tuple[TaughtHead, ...]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(info.file_size for info in packed.infolist()) > MAX_ARRAYS_BYTES:
            raise ValueError(f"unpacks to more than {MAX_ARRAYS_BYTES} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        found = enumerate(description.heads)
        return tuple(_head(arrays, index, one, description) for index, one in found)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BundleUnavailableError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > most:
        raise BundleError(f"{path}: larger than {most} bytes; {_REPAIR}")
    return data


def _head(
    arrays: Any,  # noqa: ANN401 - numpy's file
    index: int,
    one: HeadDescription,
    description: Description,
) -> TaughtHead:
    view: View = tuple((block[0], block[1]) for block in one.view if len(block) == 2)  # noqa: PLR2004
    is_known = all(p < NUM_POOLINGS and layer < description.num_layers for p, layer in view)
    if len(view) != len(one.view) or not view or not is_known:
        raise ValueError(f"heads[{index}].view names what there is not")
    num_features = len(view) * description.hidden_size
    num_labels, projection = len(one.labels), arrays[f"{index}.projection"]
    num_directions = projection.shape[-1]
    shapes = {
        "mean": (num_features,),
        "std": (num_features,),
        "projection": (num_features, num_directions),
        "offset": (num_directions,),
        "means": (num_labels, num_directions),
        "variances": (num_labels, num_directions),
    }
    found = {name: np.asarray(arrays[f"{index}.{name}"], np.float32) for name in shapes}
    for name, shape in shapes.items():
        if found[name].shape != shape or not np.isfinite(found[name]).all():
            raise ValueError(f"{index}.{name} is not {shape} finite numbers")
    if min(found["std"].min(), found["variances"].min(), one.temperature) <= 0:
        raise ValueError(f"heads[{index}] has a spread that is not above 0")
    scaler = Scaler(found.pop("mean"), found.pop("std"))
    if not math.isfinite(one.temperature):
        raise ValueError(f"heads[{index}].temperature must be finite")
    return TaughtHead(one, scaler, Head(**found, temperature=one.temperature))
