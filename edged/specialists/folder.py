"""A specialist on disk: ``specialist.json``, and its arrays beside it.

Rule: nothing of a folder is used before it was compared with its description; sizes are bounded
before anything is read. Another's folder may be made to do harm.
"""

import errno
import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from edged.bundle.manifest import TOKENIZER, Manifest
from edged.bundle.plain_file import read_plain
from edged.bundle.strict_json import decode, read_json
from edged.bundle.trust import Trust
from edged.errors import BundleError, BundleUnavailableError, UsageError
from edged.specialists.examples import MAX_FIELDS, MAX_LABEL_CHARACTERS, MAX_LABELS, AnswerKind
from edged.specialists.features import NUM_POOLINGS, Layout
from edged.specialists.gate_examples import GateExamples
from edged.specialists.head import Head, Scaler
from edged.specialists.linear import Linear
from edged.specialists.names import NAME, check_names
from edged.specialists.replacing import read_described, replace_files

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
# Of template, pooling and layers: another one makes other features.
FEATURES_VERSION = 1
DESCRIPTION, ARRAYS = "specialist.json", "arrays.npz"
MAX_DESCRIPTION_BYTES = 1 << 20
MAX_ARRAYS_BYTES = 64 << 20
MAX_DECIMALS = 6
# Features of a token: a model of 32 layers and 4,096 hidden states has as many.
MAX_WIDTH = 1 << 17
# Within these no product of what was read and a prompt's features overflows.
_LARGEST, _SMALLEST_SPREAD = 1e6, 1e-9
# Of the difference of two decimal numbers.
_ROUNDING = 1e-9
REPAIR = "teach it again with `edged teach`"


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
    """One head: what it decides, and from which features."""

    field: str | None
    """Of the JSON answer; None where the answer is not of fields."""
    labels: tuple[str | None, ...]
    """None is "none of these", and the last; there are none of a number."""
    view: tuple[tuple[int, ...], ...]
    """Pooling and layer of each block of features."""
    temperature: float


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of a number, and how sure a prediction on it is."""

    low: float
    high: float
    """The least and the greatest number that was taught."""
    decimals: int
    """Of the numbers that were taught."""
    tolerance: float
    """Difference from the right number up to which an answer counts as right."""
    noise: float
    """Variance of the right number around a prediction that is known exactly."""
    prior: float
    """Variance of the weights."""

    def is_right(self, said: float, right: float) -> bool:
        """Tell whether a number is as near to the right one as is asked for."""
        return abs(said - right) <= self.tolerance + _ROUNDING


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured on examples that were used to choose nothing."""

    accuracy: float
    """Share of answers that are right in every part."""
    low: float
    """95 % interval of it."""
    high: float
    ece: float
    num_examples: int
    precision: float
    """Share of the answers that was to be right, where it is not unsure."""
    answered: float
    """Share of the prompts where it is not."""
    answered_right: float
    """Share of these answers that are right."""
    error: float | None
    """Mean absolute error of a number."""


@dataclass(frozen=True, slots=True)
class Description:
    """Everything that is known of a specialist without its arrays."""

    format: int
    name: Annotated[str, NAME]
    kind: AnswerKind
    base: BaseModel
    num_layers: int
    hidden_size: int
    heads: tuple[HeadDescription, ...]
    """One; of fields one each."""
    scale: Scale | None
    """Of a number."""
    unsure_below: float
    """Least confidence of an answer."""
    unfamiliar_below: float
    """Least familiarity of an answer."""
    result: Result
    arrays_sha256: str
    escalate: str | None = None
    """What an unsure prompt is passed on to: another specialist, or ``model``."""


@dataclass(frozen=True, slots=True)
class TaughtHead:
    """A head with its labels, ready to decide."""

    description: HeadDescription
    scaler: Scaler
    head: Head | Linear
    """Regression where the answers are several labels or a number."""

    @property
    def arrays(self) -> "dict[str, NDArray[Any]]":
        """Everything that was fitted, by name."""
        names = _ARRAYS[type(self.head)]
        return {"mean": self.scaler.mean, "std": self.scaler.std} | {
            name: getattr(self.head, name) for name in names
        }


_ARRAYS = {
    Head: ("projection", "offset", "label_directions"),
    Linear: ("weights", "offset", "known"),
}
# As large as the features are many: half the bytes on disk and in memory.
_HALVED = frozenset(("projection", "weights", "known"))


@dataclass(frozen=True, slots=True)
class Specialist:
    """A specialist that was read and checked, or was just taught."""

    description: Description
    heads: tuple[TaughtHead, ...]
    gate: GateExamples | None
    """None when the gate was fitted."""

    def info(self) -> dict[str, Any]:
        """Describe it, for ``info``."""
        said = self.description
        if said.kind is AnswerKind.FIELDS:
            answers: dict[str, Any] = {
                "fields": {str(head.field): list(head.labels) for head in said.heads}
            }
        elif said.scale is not None:
            answers = {"minimum": said.scale.low, "maximum": said.scale.high}
        else:
            answers = {"labels": list(said.heads[0].labels)}
        return {
            "name": said.name,
            "kind": str(said.kind),
            **answers,
            "accuracy": round(said.result.accuracy, 4),
            "size_bytes": self.size_bytes,
        }

    @property
    def layout(self) -> Layout:
        """The features that it reads."""
        return Layout(self.description.num_layers, self.description.hidden_size)

    @property
    def size_bytes(self) -> int:
        """Of its arrays in memory."""
        arrays = (array for one in self.heads for array in one.arrays.values())
        gate_bytes = 0 if self.gate is None else self.gate.nbytes
        return gate_bytes + sum(array.nbytes for array in arrays)


def write_specialist(folder: Path, specialist: Specialist) -> None:
    """Write a folder; what was in it stays whole where that fails.

    Raises:
        UsageError: it could not be read again, because its numbers are too large.
        OSError: it cannot be written.
    """
    said, files = specialist.description, files_of(specialist)
    try:
        _check_scale(said)
        _unpacked(files[ARRAYS], said)
    except ValueError as error:
        raise UsageError(f"{folder}: {error}; give numbers in a larger unit") from error
    replace_files(folder, files)


def files_of(specialist: Specialist) -> dict[str, bytes]:
    """Return the files of its folder; the description, the last, gets the hash of the arrays."""
    arrays = {} if specialist.gate is None else specialist.gate.arrays
    for index, one in enumerate(specialist.heads):
        for name, array in one.arrays.items():
            kind = np.float16 if name in _HALVED else np.float32
            with np.errstate(over="ignore"):
                arrays[f"{index}.{name}"] = array.astype(kind)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    tree = asdict(replace(specialist.description, arrays_sha256=hashlib.sha256(data).hexdigest()))
    text = json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return {ARRAYS: data, DESCRIPTION: f"{text}\n".encode()}


def read_specialist(
    folder: Path, base: BaseModel, layout: Layout | None = None, trust: Trust | None = None
) -> Specialist:
    """Read and check a folder; blocks for milliseconds.

    Args:
        folder: May come from a stranger.
        base: Of the bundle.
        layout: Of the features that its graph gives; None where that is not known yet.
        trust: Who must have signed it; None where nobody must.

    Raises:
        BundleError: it is damaged, not signed, or taught to another base; it says what to do.
        BundleUnavailableError: a file cannot be read now.
    """
    text = _read(folder / DESCRIPTION, MAX_DESCRIPTION_BYTES)
    try:
        description = decode(Description, read_json(text))
        _check(description)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder}: {DESCRIPTION}: {error}; {REPAIR}") from error
    if description.base != base:
        raise BundleError(f"{folder}: taught to another model; {REPAIR}, with --model this bundle")
    said = Layout(description.num_layers, description.hidden_size)
    if layout is not None and said != layout:
        raise BundleError(f"{folder}: reads {said}, the model gives {layout}; {REPAIR}")
    data = _read(folder / ARRAYS, MAX_ARRAYS_BYTES, description.arrays_sha256)
    if hashlib.sha256(data).hexdigest() != description.arrays_sha256:
        raise BundleError(f"{folder}: {ARRAYS} is not what {DESCRIPTION} says; {REPAIR}")
    if trust is not None:
        trust.check_read(folder, {DESCRIPTION: text, ARRAYS: data})
    try:
        return _unpacked(data, description)
    except (ValueError, KeyError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise BundleError(f"{folder}: {ARRAYS}: {error}; {REPAIR}") from error


def _read(path: Path, most: int, sha256: str | None = None) -> bytes:
    try:
        return read_plain(path, most) if sha256 is None else read_described(path, most, sha256)
    except OSError as error:
        problem = f"{path}: cannot be read: {error.strerror}"
        if error.errno in (errno.EFBIG, errno.ELOOP, errno.EINVAL):
            raise BundleError(f"{problem}; {REPAIR}") from error
        raise BundleUnavailableError(problem) from error


def _check(description: Description) -> None:
    # What the types of the description do not say.
    if description.format != FORMAT:
        raise ValueError(f"format {description.format} is not known")
    check_names(description.name, description.escalate)
    if not 0 < description.hidden_size * description.num_layers <= MAX_WIDTH:
        raise ValueError(f"{description.num_layers} layers of {description.hidden_size} features")
    _check_fields(description)
    for index, head in enumerate(description.heads):
        if problem := _problem(head, description):
            raise ValueError(f"heads[{index}].{problem}")
    _check_scale(description)


def _check_scale(description: Description) -> None:
    scale = description.scale
    if (scale is None) is (description.kind is AnswerKind.NUMBER):
        raise ValueError("scale must be there for a number, and only then")
    if scale is not None and not _is_scale(scale):
        raise ValueError("scale is none")


def _check_fields(description: Description) -> None:
    fields = [head.field for head in description.heads]
    has_fields = description.kind is AnswerKind.FIELDS
    if not 0 < len(fields) <= (MAX_FIELDS if has_fields else 1):
        raise ValueError(f"heads has {len(fields)} entries")
    if len(set(fields)) != len(fields) or any((field is None) is has_fields for field in fields):
        raise ValueError("heads must have a field each, and only where the answers are of fields")


def _is_scale(scale: Scale) -> bool:
    is_range = -_LARGEST <= scale.low < scale.high <= _LARGEST
    is_spread = 0 < min(scale.noise, scale.prior) <= max(scale.noise, scale.prior) <= _LARGEST**2
    return is_range and is_spread and scale.tolerance >= 0 and scale.decimals <= MAX_DECIMALS


def _problem(head: HeadDescription, description: Description) -> str | None:
    """Return what is wrong with the description of a head."""
    labels, kind = head.labels, description.kind
    least = {AnswerKind.NUMBER: 0, AnswerKind.LABELS: 1}.get(kind, 2)
    if not least <= len(labels) <= (0 if kind is AnswerKind.NUMBER else MAX_LABELS):
        return f"labels has {len(labels)} entries"
    is_text = all(0 < len(one) <= MAX_LABEL_CHARACTERS for one in labels if one is not None)
    has_none_inside = None in (labels if kind is AnswerKind.LABELS else labels[:-1])
    if not is_text or has_none_inside or len(set(labels)) != len(labels):
        return "labels must be different texts, and null the last"
    is_known = all(
        len(block) == 2 and block[0] < NUM_POOLINGS and block[1] < description.num_layers  # noqa: PLR2004
        for block in head.view
    )
    if not head.view or not is_known:
        return "view names what there is not"
    if not _SMALLEST_SPREAD <= head.temperature <= _LARGEST:
        return "temperature must be above 0"
    return None


def _unpacked(data: bytes, description: Description) -> Specialist:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        if sum(info.file_size for info in packed.infolist()) > MAX_ARRAYS_BYTES:
            raise ValueError(f"unpacks to more than {MAX_ARRAYS_BYTES} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        found = enumerate(description.heads)
        heads = tuple(_head(arrays, f"{index}.", one, description) for index, one in found)
        gate = GateExamples.read(arrays, description.hidden_size)
    return Specialist(description, heads, gate)


def _head(
    arrays: Any,  # noqa: ANN401 - numpy's file
    prefix: str,
    one: HeadDescription,
    description: Description,
) -> TaughtHead:
    num_features = len(one.view) * description.hidden_size
    is_linear = description.kind in {AnswerKind.LABELS, AnswerKind.NUMBER}
    # How many directions there are is for the array to say; that it is a matrix is checked below.
    directions = sum(arrays[prefix + ("known" if is_linear else "projection")].shape[1:])
    num_labels = len(one.labels) or 1
    shapes: dict[str, tuple[int, ...]] = {"mean": (num_features,), "std": (num_features,)}
    if is_linear:
        shapes |= {"weights": (num_features, num_labels), "offset": (num_labels,)}
        shapes |= {"known": (num_features, directions)}
    else:
        shapes |= {"projection": (num_features, directions), "offset": (directions,)}
        shapes |= {"label_directions": (num_labels, directions)}
    found = {name: _array(arrays, prefix + name, shape) for name, shape in shapes.items()}
    if found["std"].min(initial=1.0) < _SMALLEST_SPREAD:
        raise ValueError(f"{prefix}std must be above 0")
    scaler = Scaler(found.pop("mean"), found.pop("std"))
    if is_linear:
        return TaughtHead(one, scaler, Linear(**found))
    return TaughtHead(one, scaler, Head(**found, temperature=one.temperature))


def _array(arrays: Any, name: str, shape: tuple[int, ...]) -> Any:  # noqa: ANN401 - numpy's file
    found = arrays[name]
    kind = np.float16 if name.partition(".")[2] in _HALVED else np.float32
    if found.shape != shape or found.dtype != kind:
        raise ValueError(f"{name} is not {shape} of {kind.__name__}")
    # Of an array with a NaN the largest is NaN, which is not below anything.
    if not float(np.abs(found).max(initial=0.0)) <= _LARGEST:
        raise ValueError(f"{name} has numbers that are not finite, or larger than {_LARGEST:g}")
    return found
