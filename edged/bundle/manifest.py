"""The manifest of a model bundle: its fields, its canonical bytes, and its decoder.

Rule: the dataclasses below declare the JSON; changing their fields requires a new ``FORMAT``.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Annotated, Self

from edged.bundle.strict_json import WrongValueError, decode, read_json
from edged.errors import BundleError

FORMAT = 2
MANIFEST = "manifest.json"
MODEL = "model.onnx"
# The same model with further branches, which take adapters; it shares the data file.
ADAPTED_MODEL = "adapted.onnx"
MODEL_DATA = "model.onnx.data"
TOKENIZER = "tokenizer.json"
# Beside them: what the model wrote where it was built (``edged.engine.golden``).
GOLDEN = "golden.json"
# The advice at the end of each error about a damaged bundle.
REPAIR = "copy the bundle again or rebuild it with `edged build`"

_REQUIRED_FILES = {MODEL, TOKENIZER}
_ALLOWED_FILES = {MODEL, ADAPTED_MODEL, MODEL_DATA, TOKENIZER}
# Their integer products are exact, and each row has a scale of its own.
_EXACT_SCHEMES = ("int8-w8a8",)
_TEMPLATE_CHARACTERS = 1 << 16
_STOP_TOKENS = 256
_TOKENIZER_BYTES = 64 << 20
_TOKENIZER_BASE_BYTES = 1 << 20
# Bytes of ``tokenizer.json`` per token: known files have 43 to 134.
_TOKENIZER_TOKEN_BYTES = 256

# A string with its pattern, or a number with its largest value, far above that of any model; the
# smallest is 1.
_Slug = Annotated[str, re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")]
_Sha256 = Annotated[str, re.compile(r"[0-9a-f]{64}")]


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
    """This and the others on the gate's prompts; where the second text was missed, on that."""
    perplexity_ratio: float
    argmax_agreement: float

    @property
    def form(self) -> tuple[str, str, str]:
        """Scheme, scaling and cache type."""
        return self.scheme, self.scaling, self.kv_type


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
    parameters: Annotated[int, 10**13]
    vocab_size: Annotated[int, 1 << 20]
    num_layers: Annotated[int, 1024]
    kv_bytes_per_token: Annotated[int, 1 << 24]
    kv_type: KvType = KvType.FP32


@dataclass(frozen=True, slots=True)
class Source:
    """Where the weights came from."""

    kind: str
    """``wheel``, ``hub``, ``folder`` or ``gguf``."""
    location: str
    revision: str | None
    sha256: _Sha256
    """Of the weights file or files."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The limits of the model's training."""

    max_model_len: Annotated[int, 1 << 24]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and hash of one file of the bundle."""

    size_bytes: int
    sha256: _Sha256


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is known about a model without loading it."""

    format: int
    name: _Slug
    model: ModelFacts
    source: Source
    licence: str
    graph: GraphKind
    scheme: _Slug
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

    @property
    def takes_adapters(self) -> bool:
        """Whether there is a graph that takes adapters."""
        return ADAPTED_MODEL in self.files

    def loaded_bytes(self, *, is_adapted: bool = False) -> int:
        """Return the size of the files that are loaded: of two graphs, one is."""
        unused = MODEL if is_adapted else ADAPTED_MODEL
        return sum(entry.size_bytes for name, entry in self.files.items() if name != unused)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read and check a manifest.

        Raises:
            BundleError: it is not JSON, or a key is missing, unknown or of a wrong type or value.
        """
        try:
            tree = read_json(data)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST}: not valid JSON ({error}); {REPAIR}") from error
        # The version is checked first: with another one, every other error would mislead.
        found = tree.get("format") if isinstance(tree, dict) else None
        if type(found) is int and found != FORMAT:
            raise BundleError(
                f"{MANIFEST}: format {found} is not known, this edged reads format {FORMAT}; "
                "rebuild the bundle with the `edged build` of this version"
            )
        try:
            manifest = decode(cls, tree)
        except WrongValueError as error:
            raise BundleError(f"{MANIFEST}: {error}; {REPAIR}") from error
        _check(manifest)
        return manifest

    def to_json(self) -> bytes:
        """Return the canonical bytes: sorted keys, two spaces, one newline at the end."""
        tree = asdict(self)
        text = json.dumps(tree, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def _check(manifest: Manifest) -> None:
    # What one value alone does not show. Memory is planned with it before the graph is loaded.
    for name in sorted(manifest.files.keys() - _ALLOWED_FILES):
        raise _wrong("files", f"lists {name!r}, which does not belong into a bundle")
    for name in sorted(_REQUIRED_FILES - manifest.files.keys()):
        raise _wrong(f"files.{name}", "is missing")
    vocab_size, ids = manifest.model.vocab_size, manifest.stop_token_ids
    if not 1 <= len(ids) <= _STOP_TOKENS:
        raise _wrong("stop_token_ids", f"must hold from 1 to {_STOP_TOKENS} ids")
    if max(ids) >= vocab_size:
        raise _wrong("stop_token_ids", "holds an id outside the vocabulary")
    most_bytes = min(_TOKENIZER_BASE_BYTES + _TOKENIZER_TOKEN_BYTES * vocab_size, _TOKENIZER_BYTES)
    if (size_bytes := manifest.files[TOKENIZER].size_bytes) > most_bytes:
        problem = f"is {size_bytes}, too much for a model of {vocab_size} tokens"
        raise _wrong(f"files.{TOKENIZER}.size_bytes", problem)
    if (length := len(manifest.chat_template or "")) > _TEMPLATE_CHARACTERS:
        problem = f"has {length} characters, must have {_TEMPLATE_CHARACTERS} at most"
        raise _wrong("chat_template", problem)


def _wrong(key: str, problem: str) -> BundleError:
    return BundleError(f"{MANIFEST}: {key} {problem}; {REPAIR}")
