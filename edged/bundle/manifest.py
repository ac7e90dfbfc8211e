"""The manifest of a model bundle: its fields, its canonical bytes, and its decoder.

Rule: the dataclasses below declare the JSON; changing their fields requires a new ``FORMAT``.
"""

import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, Self, cast, get_args, get_origin

from edged.errors import BundleError


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """How much a bundle may differ from its fp32 reference."""

    mean_kl: float
    """Nats per token, at most."""
    perplexity_ratio: float
    """Quantized over fp32, at most."""
    argmax_agreement: float
    """Fraction of positions with the same most likely token, at least."""


@dataclass(frozen=True, slots=True)
class QualityFigures:
    """A graph compared with its fp32 reference on one text."""

    mean_kl: float
    """Mean over positions of KL(reference || graph), nats."""
    p99_kl: float
    """99th percentile of it."""
    perplexity: float
    reference_perplexity: float
    perplexity_ratio: float
    argmax_agreement: float
    """Fraction of positions with the same most likely token."""
    tokens: int
    """Positions compared: those with a known next token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnseenQuality(QualityFigures):
    """The comparison on a text of other kinds than prompts and answers."""

    limits: QualityLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality(QualityFigures):
    """The comparison at build time, on the gate's text."""

    limits: QualityLimits
    passed: bool
    """Whether every limit is met, those of ``unseen`` included."""
    text: str
    """The text that was used; ``gate`` is the builder's own."""
    unseen: UnseenQuality | None = None


@dataclass(frozen=True, slots=True)
class Try:
    """One form of the model that the build compared with the limits."""

    scheme: str
    scaling: str
    """Of the norms' outputs: ``static`` or ``dynamic``."""
    kv_type: str
    passed: bool
    mean_kl: float
    perplexity_ratio: float
    argmax_agreement: float

    @property
    def form(self) -> tuple[str, str, str]:
        """Scheme, scaling and cache type."""
        return self.scheme, self.scaling, self.kv_type


FORMAT = 2
MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_DATA = "model.onnx.data"
TOKENIZER = "tokenizer.json"

# Integer products are exact, and each row has its own scale.
_REQUIRED_FILES = (MODEL, TOKENIZER)
_ALLOWED_FILES = (MODEL, MODEL_DATA, TOKENIZER)
_EXACT_SCHEMES = ("int8-w8a8",)
# Bytes of ``tokenizer.json`` per token: known files have 43 to 134.
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEMPLATE_CHARACTERS = 1 << 16
_STOP_TOKENS = 256
_TOKENIZER_BYTES = 64 << 20
_TOKENIZER_BASE_BYTES = 1 << 20
_TOKENIZER_TOKEN_BYTES = 256
# The largest value of each, far above that of any model; the smallest is 1.
_RANGES = {
    "model.parameters": 10**13,
    "model.vocab_size": 1 << 20,
    "model.num_layers": 1024,
    "model.kv_bytes_per_token": 1 << 24,
    "limits.max_model_len": 1 << 24,
}
# The advice at the end of each error about a damaged bundle.
REPAIR = "copy the bundle again or rebuild it with `edged build`"


class GraphKind(StrEnum):
    """The inputs and outputs of ``model.onnx``."""

    FUSED = "fused"
    """Grouped attention with an in-place cache, logits of selected rows."""
    PORTABLE = "portable"
    """The exporter's own graph: the whole cache is an input and an output."""


class KvType(StrEnum):
    """The number type of the KV cache."""

    FP32 = "fp32"
    INT8 = "int8"
    """A quarter of the memory; a fused graph only."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The figures by which memory is planned before the model is loaded."""

    family: str
    parameters: int
    vocab_size: int
    num_layers: int
    kv_bytes_per_token: int
    kv_type: KvType = KvType.FP32


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from."""

    kind: str
    """``wheel``, ``hub``, ``folder`` or ``gguf``."""
    location: str
    revision: str | None
    sha256: str
    """Of the weights file or files."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The limits of the model's training."""

    max_model_len: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and hash of one file of the bundle."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is known about a model without loading it."""

    format: int
    name: str
    model: ModelFacts
    source: Source
    licence: str
    graph: GraphKind
    scheme: str
    limits: ModelLimits
    stop_token_ids: tuple[int, ...]
    chat_template: str | None
    """Jinja source; None for a model that only continues plain text."""
    bos_token: str | None
    eos_token: str | None
    add_bos_token: bool
    """Whether plain text gets ``bos_token`` in front; unused with a chat template."""
    quality: Quality
    tools: dict[str, str]
    files: dict[str, FileEntry]
    kernels: dict[str, str] = field(default_factory=dict)
    """For each machine (``x86_64``, ``aarch64``) the CPU flag without which the scheme is slow."""
    tries: tuple[Try, ...] = ()
    """The forms that the build tried, the cheapest first; the last one is this bundle."""

    @property
    def is_exact(self) -> bool:
        """Whether a token's result has the same bits whatever the batch."""
        return self.graph is GraphKind.FUSED and self.scheme in _EXACT_SCHEMES

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read and check a manifest.

        Raises:
            BundleError: it is not JSON, or a key is missing, unknown or of a wrong type or value.
        """
        try:
            tree = json.loads(data, object_pairs_hook=unique_keys, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST}: not valid JSON ({error}); {REPAIR}") from error
        # The version is checked first: with another one, every other error would mislead.
        found = tree.get("format") if isinstance(tree, dict) else None
        if type(found) is int and found != FORMAT:
            raise BundleError(
                f"{MANIFEST}: format {found} is not known, this edged reads format {FORMAT}; "
                "rebuild the bundle with the `edged build` of this version"
            )
        manifest = cast("Self", _decode(cls, tree, ""))
        _check(manifest)
        return manifest

    def to_json(self) -> bytes:
        """Return the canonical bytes: sorted keys, two spaces, one newline at the end."""
        text = json.dumps(
            asdict(self), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
        )
        return (text + "\n").encode()


def _check(manifest: Manifest) -> None:
    for key, value, pattern in (
        ("name", manifest.name, _SLUG),
        ("scheme", manifest.scheme, _SLUG),
        ("source.sha256", manifest.source.sha256, _SHA256),
        *((f"files.{n}.sha256", f.sha256, _SHA256) for n, f in manifest.files.items()),
    ):
        if not pattern.fullmatch(value):
            raise _wrong(key, f"must match {pattern.pattern}")
    if unknown := sorted(set(manifest.files) - set(_ALLOWED_FILES)):
        raise _wrong("files", f"lists {unknown[0]!r}, which does not belong into a bundle")
    if missing := sorted(set(_REQUIRED_FILES) - set(manifest.files)):
        raise _wrong(f"files.{missing[0]}", "is missing")
    _check_sizes(manifest)
    if max(manifest.stop_token_ids, default=-1) >= manifest.model.vocab_size:
        raise _wrong("stop_token_ids", "holds an id outside the vocabulary")


def _check_sizes(manifest: Manifest) -> None:
    # Memory is planned with these before the graph is loaded.
    for key, largest in _RANGES.items():
        section, name = key.split(".")
        value = getattr(getattr(manifest, section), name)
        if not 1 <= value <= largest:
            raise _wrong(key, f"is {value}, must be from 1 to {largest}")
    if not 1 <= len(manifest.stop_token_ids) <= _STOP_TOKENS:
        raise _wrong("stop_token_ids", f"must hold from 1 to {_STOP_TOKENS} ids")
    largest = _TOKENIZER_BASE_BYTES + _TOKENIZER_TOKEN_BYTES * manifest.model.vocab_size
    size_bytes = manifest.files[TOKENIZER].size_bytes
    if size_bytes > min(largest, _TOKENIZER_BYTES):
        problem = f"is {size_bytes}, too much for a model of {manifest.model.vocab_size} tokens"
        raise _wrong(f"files.{TOKENIZER}.size_bytes", problem)
    length = len(manifest.chat_template or "")
    if length > _TEMPLATE_CHARACTERS:
        problem = f"has {length} characters, must have {_TEMPLATE_CHARACTERS} at most"
        raise _wrong("chat_template", problem)


def _wrong(key: str, problem: str) -> BundleError:
    return BundleError(f"{MANIFEST}: {key} {problem}; {REPAIR}")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; a hook for ``json.loads``.

    Raises:
        ValueError: a key is there twice, and readers could disagree which one counts.
    """
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return tree


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _decode(kind: object, value: object, path: str) -> object:
    # ``kind`` is any annotation of the dataclasses above; ``path`` names the value in errors.
    if isinstance(kind, UnionType):
        return None if value is None else _decode(get_args(kind)[0], value, path)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise _wrong(path, "must be a list")
        return tuple(
            _decode(get_args(kind)[0], item, f"{path}[{i}]") for i, item in enumerate(value)
        )
    if get_origin(kind) is dict:
        item_kind = get_args(kind)[1]
        return {k: _decode(item_kind, v, f"{path}.{k}") for k, v in _object(value, path).items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    return _decode_scalar(kind, value, path)


def _decode_dataclass(kind: type, value: object, path: str) -> object:
    tree = _object(value, path)
    prefix = f"{path}." if path else ""
    declared = {item.name: item.type for item in fields(kind)}
    for key in tree:
        if key not in declared:
            raise _wrong(prefix + key, "is not a known key")
    for key in declared:
        if key not in tree:
            raise _wrong(prefix + key, "is missing")
    return kind(**{k: _decode(t, tree[k], prefix + k) for k, t in declared.items()})


def _object(value: object, path: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _wrong(path or "the top level", "must be an object")
    return value


def _decode_scalar(kind: object, value: object, path: str) -> object:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if not isinstance(value, str) or value not in list(kind):
            raise _wrong(path, f"must be one of {', '.join(kind)}")
        return kind(value)
    if kind is int:
        if type(value) is not int or value < 0:
            raise _wrong(path, "must be a whole number of at least 0")
    elif kind is float:
        if type(value) not in {int, float} or not math.isfinite(cast("float", value)):
            raise _wrong(path, "must be a finite number")
        return float(cast("float", value))
    elif type(value) is not kind:
        raise _wrong(path, "must be true or false" if kind is bool else "must be a string")
    return value
