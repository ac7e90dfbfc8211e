"""Find the cheapest form of a model that passes the gate, and record each try.

Rule: forms are tried from the cheapest for the device on; the first that passes is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edged.builder.hidden import write_hidden
from edged.builder.kvcache import Peaks, measure_peaks, write_int8_cache
from edged.builder.onnx_files import read_graph, write_graph
from edged.builder.progress import Progress
from edged.builder.quality import table
from edged.builder.quantize import KERNELS, Scaling, Scheme, quantize
from edged.builder.reference import Reference
from edged.builder.tune import Kept
from edged.builder.verify import check_adapted, run_gate
from edged.bundle.folder import Bundle, write_manifest
from edged.bundle.manifest import ADAPTED_MODEL, MODEL, GraphKind, KvType, Manifest, Try

# The schemes to try when none is given, the faster one first.
INT8_SCHEMES = (Scheme.INT8_W8A8, Scheme.INT8_BLOCKWISE)
# A quarter of the memory, so that a small device has room for several answers, and faster decode.
# Prefill takes about as long as with fp32.
DEFAULT_KV_TYPE = KvType.INT8
_FP32_BYTES = 4
_HOW = {Scaling.STATIC: "by one scale", Scaling.DYNAMIC: "token by token"}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to store a model."""

    scheme: Scheme
    scaling: Scaling
    kv_type: KvType

    @property
    def key(self) -> tuple[str, str, str]:
        """The form as a ``Try`` records it."""
        return self.scheme, self.scaling, self.kv_type


@dataclass(frozen=True, slots=True)
class Task:
    """The model to be stored, and where."""

    reference: Reference
    texts: Sequence[Sequence[int]]
    """Token ids for calibration."""
    manifest: Manifest
    """With the limits, not yet measured, and with an fp32 cache."""
    folder: Path
    """Gets the files; already holds the tokenizer."""
    cache: Path
    progress: Progress


def forms(kind: GraphKind, scheme: Scheme, wanted: KvType | None) -> list[Form]:
    """Return the forms of a scheme, the cheapest first; ``wanted`` as for ``kv_types``."""
    has_static = kind is GraphKind.FUSED and scheme is Scheme.INT8_W8A8
    return [
        Form(scheme, scaling, kv_type)
        for kv_type in kv_types(kind, scheme, wanted)
        for scaling in ((Scaling.STATIC, Scaling.DYNAMIC) if has_static else (Scaling.DYNAMIC,))
    ]


def kv_types(kind: GraphKind, scheme: Scheme, wanted: KvType | None) -> tuple[KvType, ...]:
    """Return the types to try for keys and values, the smallest first.

    Args:
        kind: of the graph; only a fused one can have an int8 cache.
        scheme: of the weights; with fp32 weights the default is an fp32 cache.
        wanted: None takes ``DEFAULT_KV_TYPE``.
    """
    default = KvType.FP32 if scheme is Scheme.FP32 else DEFAULT_KV_TYPE
    is_small = kind is GraphKind.FUSED and (wanted or default) is KvType.INT8
    return (KvType.INT8, KvType.FP32) if is_small else (KvType.FP32,)


def search(task: Task, candidates: Sequence[Form]) -> Bundle:
    """Write form after form until one passes the gate; blocks for minutes.

    Returns:
        The first form that passed, or the last one, which did not.

    Raises:
        BuildError: a graph cannot be read, or nothing can be compared.
        OSError: a form cannot be written.
    """
    tries: tuple[Try, ...] = ()
    peaks: Peaks | None = None
    weights, plain, kept = None, b"", Kept()
    for candidate in candidates:
        if (candidate.scheme, candidate.scaling) != weights:
            weights = candidate.scheme, _quantize(task, candidate, kept)
            plain = (task.folder / MODEL).read_bytes()
        form = replace(candidate, scaling=weights[1])
        if form.key in [tried.form for tried in tries]:
            continue  # the graph could not be rotated, so this form was tried before
        (task.folder / MODEL).write_bytes(plain)
        (task.folder / ADAPTED_MODEL).unlink(missing_ok=True)
        if form.kv_type is KvType.INT8:
            if peaks is None:
                with task.progress.step("Measure keys and values"):
                    peaks = measure_peaks(task.reference.folder, task.texts)
            write_int8_cache(task.folder, peaks)
        bundle = _measure(task, form, tries, is_last=candidate is candidates[-1])
        tries = bundle.manifest.tries
        if bundle.manifest.quality.passed:
            check_adapted(bundle, task.progress)
            break
    return bundle


def _quantize(task: Task, form: Form, kept: Kept) -> Scaling:
    """Write the weights; return how the norms are scaled."""
    with task.progress.step(f"Quantize to {form.scheme}"):
        source, scheme = task.reference.folder, form.scheme
        report = quantize(source, task.folder, scheme, task.texts, form.scaling, kept)
        model = read_graph(task.folder)
        if write_hidden(model.graph):
            write_graph(task.folder, model)
    for left in report.kept:
        task.progress.say(f"Left in fp32: {left}")
    return report.scaling


def _measure(task: Task, form: Form, before: tuple[Try, ...], *, is_last: bool) -> Bundle:
    """Run the gate on the files in the folder and write their manifest."""
    bundle = write_manifest(task.folder, _describe(task.manifest, form))
    quality = run_gate(bundle, task.reference.folder, task.cache, task.progress, in_full=is_last)
    task.progress.say(
        f"{form.scheme}, norms scaled {_HOW[form.scaling]}, keys and values in {form.kv_type}:"
        f"\n{table(quality)}"
    )
    tried = Try(
        *form.key,
        quality.passed,
        quality.mean_kl,
        quality.perplexity_ratio,
        quality.argmax_agreement,
    )
    manifest = replace(bundle.manifest, quality=quality, tries=(*before, tried))
    return write_manifest(task.folder, manifest)


def _describe(manifest: Manifest, form: Form) -> Manifest:
    model = replace(manifest.model, kv_type=form.kv_type)
    if form.kv_type is KvType.INT8:
        model = replace(model, kv_bytes_per_token=model.kv_bytes_per_token // _FP32_BYTES)
    return replace(
        manifest,
        scheme=form.scheme.value,
        model=model,
        kernels=KERNELS[form.scheme],
    )
