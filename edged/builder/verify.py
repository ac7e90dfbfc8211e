"""Prove what quantization cost: a bundle against the fp32 reference of the same source.

The reference is the fused fp32 graph when there is one, because it is several times faster and
``fuse`` has compared its logits with the export's; otherwise it is the export itself. ``edged
verify`` always takes the export, so a second look does not rest on ``fuse``.

Rule: the limits are the recipe's; nothing here is lenient for a family or a scheme.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers

from edged.builder.export import find_export
from edged.builder.gate import TOKENS_MIN, Sequences, gate_sequences
from edged.builder.measure import Comparison, compare
from edged.builder.onnx_files import read_graph
from edged.builder.progress import Progress
from edged.bundle import MODEL, Bundle, GraphKind, Quality, QualityLimits, open_bundle
from edged.engine import Graph, load_graph
from edged.errors import BuildError
from edged.tokenizer import Tokenizer

GATE_TEXT = "gate"
"""What a manifest calls the gate's own text."""
_WINDOW_TOKENS = 512
_GATE_MODEL_LEN = 1024
"""Room for the longest of the gate's prompts in any tokenizer."""
_FUSED_INPUT = "seqlens_k"


def run_gate(
    bundle: Bundle,
    reference_folder: Path,
    cache: Path,
    progress: Progress,
    limits: QualityLimits | None = None,
) -> Quality:
    """Compare a bundle with a reference on the gate's text; blocks for minutes.

    Args:
        bundle: what was quantized; its own quality entry is not looked at.
        reference_folder: holds the fp32 ``model.onnx``, fused or exported.
        cache: the build cache.
        progress: told of each step.
        limits: None takes those in the bundle's manifest.

    Raises:
        BuildError: the reference cannot be read, or nothing can be compared.
        BundleError: a graph or the tokenizer cannot be loaded.
    """
    limit = bundle.manifest.limits.max_model_len
    with progress.step("Load the fp32 reference"):
        reference = _load_reference(reference_folder, min(limit, _GATE_MODEL_LEN))
    with progress.step("Answer the gate's prompts in fp32") as step:
        sequences = gate_sequences(bundle, reference, cache, step)
    result = _compare(bundle, reference, sequences, progress)
    return judge(result, limits or bundle.manifest.quality.limits, GATE_TEXT)


def verify_bundle(
    folder: Path,
    reference_folder: Path | None,
    text_file: Path | None,
    cache: Path,
    progress: Progress,
) -> Quality:
    """Repeat the measurement on any text; blocks for minutes.

    Args:
        folder: the bundle.
        reference_folder: an fp32 export; None looks for the source's export in ``cache``.
        text_file: UTF-8 text; None takes the gate's.
        cache: the build cache.
        progress: told of each step.

    Returns:
        The figures under the limits of the manifest; those were set for the gate's text.

    Raises:
        BuildError: there is no reference, or the text is not UTF-8 or too short.
        BundleError: the bundle is damaged.
    """
    text = None if text_file is None else _read_text(text_file)
    with progress.step(f"Check {folder}"):
        bundle = open_bundle(folder)
    reference_folder = reference_folder or _find_reference(bundle, cache)
    if text is None or text_file is None:
        return run_gate(bundle, reference_folder, cache, progress)
    sequences = _windows(bundle, text)
    if sum(map(len, sequences)) < 2 * len(sequences):
        raise BuildError(f"{text_file}: too short to predict anything; give a longer text")
    with progress.step("Load the fp32 reference"):
        reference = _load_reference(reference_folder, _WINDOW_TOKENS)
    result = _compare(bundle, reference, sequences, progress)
    return judge(result, bundle.manifest.quality.limits, text_file.name)


def judge(result: Comparison, limits: QualityLimits, text: str) -> Quality:
    """Hold a comparison against limits; the gate's text must also be long enough."""
    passed = all(row.is_met for row in _rows(result, limits, text))
    return Quality(limits=limits, passed=passed, text=text, **asdict(result))


def figures(quality: Quality) -> dict[str, float]:
    """Return what was measured, by name."""
    return {name: getattr(quality, name) for name in _FIGURES}


def table(quality: Quality) -> str:
    """Write a quality entry as lines: metric, value, limit, pass or MISS."""
    result = Comparison(**{name: getattr(quality, name) for name in _FIGURES})
    rows = {row.metric: row for row in _rows(result, quality.limits, quality.text)}
    lines = [f"{'metric':<22}{'value':>10}  {'limit':<9}"]
    for name, form in _FIGURES.items():
        line = f"{name:<22}{getattr(quality, name):>10{form}}"
        if row := rows.get(name):
            bound = f"{row.sign} {row.limit:{form}}"
            line += f"  {bound:<9} {'pass' if row.is_met else 'MISS'}"
        lines.append(line)
    return "\n".join(lines)


_FIGURES = {
    "mean_kl": ".4f",
    "p99_kl": ".4f",
    "perplexity": ".3f",
    "reference_perplexity": ".3f",
    "perplexity_ratio": ".4f",
    "argmax_agreement": ".4f",
    "tokens": "d",
}
"""Every figure and how it is printed."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One figure with a limit."""

    metric: str
    sign: str
    limit: float
    is_met: bool


def _rows(result: Comparison, limits: QualityLimits, text: str) -> list[_Row]:
    rows = [
        _Row(name, "≤", limit, getattr(result, name) <= limit)
        for name, limit in (
            ("mean_kl", limits.mean_kl),
            ("perplexity_ratio", limits.perplexity_ratio),
        )
    ]
    agreed = result.argmax_agreement >= limits.argmax_agreement
    rows.append(_Row("argmax_agreement", "≥", limits.argmax_agreement, agreed))
    if text == GATE_TEXT:
        rows.append(_Row("tokens", "≥", TOKENS_MIN, result.tokens >= TOKENS_MIN))
    return rows


def _compare(
    bundle: Bundle, reference: Graph, sequences: Sequences, progress: Progress
) -> Comparison:
    with progress.step("Load the bundle"):
        candidate = load_graph(
            bundle.model_path,
            is_fused=bundle.manifest.graph is GraphKind.FUSED,
            max_model_len=max(map(len, sequences)),
        )
    if candidate.vocab_size != reference.vocab_size:
        raise BuildError(
            f"{bundle.folder}: has {candidate.vocab_size} logits, the reference has "
            f"{reference.vocab_size}: not the same model"
        )
    with progress.step("Compare with fp32") as step:
        return compare(reference, candidate, sequences, step)


def _load_reference(folder: Path, max_model_len: int) -> Graph:
    if not (folder / MODEL).is_file():
        raise BuildError(f"{folder}: no {MODEL} there; give the folder of an fp32 export")
    inputs = {value.name for value in read_graph(folder).graph.input}
    return load_graph(folder / MODEL, is_fused=_FUSED_INPUT in inputs, max_model_len=max_model_len)


def _find_reference(bundle: Bundle, cache: Path) -> Path:
    export = find_export(bundle.manifest.source.sha256, cache)
    if export is None:
        raise BuildError(
            f"no fp32 export of {bundle.manifest.source.location} in {cache}: give one with "
            "--reference DIR, or make it again with `edged build`"
        )
    return export.folder


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BuildError(f"{path}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise BuildError(f"{path}: cannot be read ({error.strerror})") from error
    if not text.strip():
        raise BuildError(f"{path}: empty; give a text to predict")
    return text


def _windows(bundle: Bundle, text: str) -> Sequences:
    """Cut a text's tokens into pieces that are predicted each on its own."""
    manifest = bundle.manifest
    ids = Tokenizer.load(bundle).encode(text)
    bos: list[int] = []
    if manifest.add_bos_token or "bos_token" in (manifest.chat_template or ""):
        # A model that has only ever seen text behind its BOS token predicts none without it.
        bos_id = tokenizers.Tokenizer.from_file(str(bundle.tokenizer_path)).token_to_id(
            manifest.bos_token or ""
        )
        bos = [] if bos_id is None else [bos_id]
    size = min(_WINDOW_TOKENS, manifest.limits.max_model_len) - len(bos)
    return [bos + ids[start : start + size] for start in range(0, len(ids), size)]
