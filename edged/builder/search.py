"""Find the cheapest form of a model that passes the gate, and record what was tried.

Rule: forms are tried in the order of what they cost a device; the first that passes is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edged.builder.judge import table
from edged.builder.kvcache import Peaks, measure_peaks, write_int8_cache
from edged.builder.progress import Progress
from edged.builder.quantize import CALIBRATED, KERNELS, Scaling, Scheme, quantize
from edged.builder.reference import Reference
from edged.builder.verify import run_gate
from edged.bundle.folder import Bundle, write_manifest
from edged.bundle.manifest import MODEL, GraphKind, KvType, Manifest, QualityLimits, Try

INT8_SCHEMES = (Scheme.INT8_W8A8, Scheme.INT8_BLOCKWISE)
"""What is tried when nobody chose, the faster one first."""
DEFAULT_KV_TYPE = KvType.INT8
"""A quarter of the memory, so that a small device has room for several answers, and faster decode:
its attention needs no spare rows to be exact. Prompts take about as long as with fp32."""
_FP32_BYTES = 4
_HOW = {Scaling.STATIC: "by one scale", Scaling.DYNAMIC: "token by token"}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to store a model."""

    scheme: Scheme
    scaling: Scaling
    kv_type: KvType
    limits: QualityLimits

    @property
    def key(self) -> tuple[str, str, str]:
        """What a ``Try`` calls its form."""
        return self.scheme, self.scaling, self.kv_type


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be stored, and where."""

    reference: Reference
    texts: Sequence[Sequence[int]]
    """Token ids for calibration."""
    manifest: Manifest
    """All that does not depend on the form; its cache is fp32."""
    folder: Path
    """Gets the files; the tokenizer is there already."""
    cache: Path
    progress: Progress


def forms(
    kind: GraphKind, scheme: Scheme, wanted: KvType | None, limits: QualityLimits
) -> list[Form]:
    """Return the forms of a scheme, the cheapest first; ``wanted`` as for ``kv_types``."""
    has_static = kind is GraphKind.FUSED and scheme is Scheme.INT8_W8A8
    return [
        Form(scheme, scaling, kv_type, limits)
        for kv_type in kv_types(kind, scheme, wanted)
        for scaling in ((Scaling.STATIC, Scaling.DYNAMIC) if has_static else (Scaling.DYNAMIC,))
    ]


def kv_types(kind: GraphKind, scheme: Scheme, wanted: KvType | None) -> tuple[KvType, ...]:
    """Return how the keys and values may be kept, the smallest first.

    Args:
        kind: of the graph; only a fused one can keep them in int8.
        scheme: of the weights; what is wanted exactly as exported is not rounded here either.
        wanted: None takes ``DEFAULT_KV_TYPE``.
    """
    default = KvType.FP32 if scheme is Scheme.FP32 else DEFAULT_KV_TYPE
    is_small = kind is GraphKind.FUSED and (wanted or default) is KvType.INT8
    return (KvType.INT8, KvType.FP32) if is_small else (KvType.FP32,)


def search(task: Task, wanted: Sequence[Form]) -> Bundle:
    """Write form after form until one passes the gate; blocks for minutes.

    Returns:
        The one that passed; or the last, which did not.

    Raises:
        BuildError: a graph cannot be read, or nothing can be compared.
        OSError: a form cannot be written.
    """
    tries: tuple[Try, ...] = ()
    peaks: Peaks | None = None
    weights, plain = None, b""
    for asked in wanted:
        if (asked.scheme, asked.scaling) != weights:
            weights = asked.scheme, _quantize(task, asked.scheme, asked.scaling)
            plain = (task.folder / MODEL).read_bytes()
        form = replace(asked, scaling=weights[1])
        if form.key in [made.form for made in tries]:
            continue  # the graph could not be made as asked for
        (task.folder / MODEL).write_bytes(plain)
        if form.kv_type is KvType.INT8:
            if peaks is None:
                with task.progress.step("Measure keys and values"):
                    peaks = measure_peaks(task.reference.folder, task.texts)
            write_int8_cache(task.folder, peaks)
        bundle = _judge(task, form, tries)
        tries = bundle.manifest.tries
        if bundle.manifest.quality.passed:
            break
    return bundle


def _quantize(task: Task, scheme: Scheme, scaling: Scaling) -> Scaling:
    """Write the weights; return how the norms are scaled."""
    with task.progress.step(f"Quantize to {scheme}"):
        texts = task.texts if scheme in CALIBRATED else ()
        report = quantize(task.reference.folder, task.folder, scheme, texts, scaling)
    for kept in report.kept:
        task.progress.say(f"Left in fp32: {kept}")
    return report.scaling


def _judge(task: Task, form: Form, before: tuple[Try, ...]) -> Bundle:
    """Measure what is in the folder and write its manifest."""
    candidate = write_manifest(task.folder, _describe(task.manifest, form))
    quality = run_gate(candidate, task.reference.folder, task.cache, task.progress)
    task.progress.say(
        f"{form.scheme}, norms scaled {_HOW[form.scaling]}, keys and values in {form.kv_type}:"
        f"\n{table(quality)}"
    )
    made = Try(
        *form.key,
        quality.passed,
        quality.mean_kl,
        quality.perplexity_ratio,
        quality.argmax_agreement,
    )
    manifest = replace(candidate.manifest, quality=quality, tries=(*before, made))
    return write_manifest(task.folder, manifest)


def _describe(manifest: Manifest, form: Form) -> Manifest:
    model = replace(manifest.model, kv_type=form.kv_type)
    if form.kv_type is KvType.INT8:
        model = replace(model, kv_bytes_per_token=model.kv_bytes_per_token // _FP32_BYTES)
    return replace(
        manifest,
        scheme=form.scheme.value,
        model=model,
        quality=replace(manifest.quality, limits=form.limits),
        kernels=KERNELS[form.scheme],
    )
