"""Measure the quality loss of a bundle against the fp32 reference of the same source.

A build takes the fused fp32 graph as reference where there is one: it is several times faster, and
``fuse`` has compared its logits with the export's. ``edged verify`` always takes the export, so it
does not depend on ``fuse``.

Rule: the gate's prompts and the second text share no text with the calibration.
"""

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import tokenizers

from edged.builder.calibrate import FUSED_INPUT
from edged.builder.export import find_export
from edged.builder.gate import TokenIds, gate_sequences
from edged.builder.measure import compare
from edged.builder.onnx_files import read_graph
from edged.builder.progress import Progress
from edged.builder.quality import GATE_TEXT, UNSEEN_TEXT, check_limits, relaxed
from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import MODEL, GraphKind, Quality
from edged.engine.graph import Graph
from edged.engine.loading import load_graph
from edged.engine.tokenizer import Tokenizer
from edged.errors import BuildError
from edged.specialists.adapter import Adapter

_UNSEEN = "unseen.txt"
_WINDOW_TOKENS = 512
_GATE_MODEL_LEN = 1024  # enough for the longest of the gate's prompts in any tokenizer
_GATE_SLOTS = 8  # prompts of the gate that are answered at a time
# Prompts on which two graphs must compute the same bits, and tokens of each: of these the prefill
# branch runs the first ones, in pieces, and the decode branch the others.
_NUM_COMPARED = 3
_COMPARED_PIECES = ((33, True), (15, True), (1, False), (7, False))


def run_gate(
    bundle: Bundle,
    reference_folder: Path,
    cache: Path,
    progress: Progress,
    *,
    in_full: bool = True,
) -> Quality:
    """Compare a bundle with a reference on the gate's two texts; blocks for minutes.

    Args:
        bundle: the quantized model; its manifest has the limits.
        reference_folder: holds the fp32 ``model.onnx``, fused or exported.
        cache: the build cache.
        progress: receives each step.
        in_full: whether the gate's prompts are compared, too, where the second text, which is
            shorter, is missed.

    Returns:
        The figures of the gate's prompts, with those of the second text; or, where not in full,
        of the second text, which is missed.

    Raises:
        BuildError: the reference cannot be read, or nothing can be compared.
        BundleError: a graph or the tokenizer cannot be loaded.
    """
    limit = bundle.manifest.limits.max_model_len
    with progress.step("Load the fp32 reference"):
        reference = _load_reference(reference_folder, min(limit, _GATE_MODEL_LEN), _GATE_SLOTS)
    with progress.step("Answer the gate's prompts in fp32") as step:
        sequences = gate_sequences(bundle, reference, cache, step)
    windows = _windows(bundle, unseen_text())
    with progress.step("Load the bundle"):
        candidate = _load_candidate(bundle, reference, max(map(len, sequences + windows)))
    limits = bundle.manifest.quality.limits
    with progress.step("Compare on another text") as step:
        unseen = compare(reference, candidate, windows, step)
    missed = check_limits(unseen, relaxed(limits, unseen.tokens), UNSEEN_TEXT)
    if not (missed.passed or in_full):
        return missed
    with progress.step("Compare with fp32") as step:
        result = compare(reference, candidate, sequences, step)
    return check_limits(result, limits, GATE_TEXT, unseen)


def check_adapted(bundle: Bundle, progress: Progress) -> None:
    """Compare the graph that takes adapters with the one that does not, by bits; takes seconds.

    It is run without an adapter, and with one that adds nothing.

    Raises:
        BuildError: they differ.
        BundleError: a graph cannot be loaded.
    """
    if not bundle.manifest.takes_adapters:
        return
    with progress.step("Compare the graph that takes adapters"):
        (expected,) = _bits(bundle.model_path, [None])
        for found in _bits(bundle.adapted_path, [None, Adapter("zeros", {})]):
            if found != expected:
                raise BuildError(
                    f"{bundle.adapted_path}: without an adapter it computes other bits than {MODEL}"
                )


def _bits(model_path: Path, adapters: Sequence[Adapter | None]) -> list[str]:
    """Return for each adapter a hash of all logits, and of the keys and values."""
    length = sum(count for count, _ in _COMPARED_PIECES)
    graph = load_graph(model_path, is_fused=True, max_model_len=length)
    prompts = np.random.default_rng(0).integers(0, graph.vocab_size, (_NUM_COMPARED, length))
    digests = []
    for adapter in adapters:
        digest = hashlib.sha256()
        graph.adapt(0, adapter)
        for ids in prompts:
            start = 0
            for count, is_prefill in _COMPARED_PIECES:
                piece = ids[start : start + count]
                logits = graph.forward(piece, start, all_rows=True, is_prefill=is_prefill)
                digest.update(logits.tobytes())
                start += count
            digest.update(graph.read(0).tobytes())
        digests.append(digest.hexdigest())
    return digests


def unseen_text() -> str:
    """Return the committed second text, which is neither calibration text nor prompts."""
    return (resources.files("edged.builder") / "data" / _UNSEEN).read_text(encoding="utf-8")


def verify_bundle(
    folder: Path,
    reference_folder: Path | None,
    text_file: Path | None,
    cache: Path,
    progress: Progress,
) -> Quality:
    """Measure a bundle again, on the gate's or any other text; blocks for minutes.

    Args:
        folder: the bundle.
        reference_folder: an fp32 export; None looks for the source's export in ``cache``.
        text_file: UTF-8 text; None takes the gate's.
        cache: the build cache.
        progress: receives each step.

    Returns:
        The figures, checked against the limits of the manifest.

    Raises:
        BuildError: there is no reference, or the text is not UTF-8 or too short.
        BundleError: the bundle is damaged.
    """
    text = None if text_file is None else _read_text(text_file)
    with progress.step(f"Check {folder}"):
        bundle = open_bundle(folder)
    check_adapted(bundle, progress)
    reference_folder = reference_folder or _find_reference(bundle, cache)
    if text is None or text_file is None:
        return run_gate(bundle, reference_folder, cache, progress)
    sequences = _windows(bundle, text)
    if sum(map(len, sequences)) < 2 * len(sequences):
        raise BuildError(f"{text_file}: too short to predict anything; give a longer text")
    with progress.step("Load the fp32 reference"):
        reference = _load_reference(reference_folder, _WINDOW_TOKENS)
    with progress.step("Load the bundle"):
        candidate = _load_candidate(bundle, reference, max(map(len, sequences)))
    with progress.step("Compare with fp32") as step:
        result = compare(reference, candidate, sequences, step)
    return check_limits(result, bundle.manifest.quality.limits, text_file.name)


def _load_candidate(bundle: Bundle, reference: Graph, max_model_len: int) -> Graph:
    candidate = load_graph(
        bundle.model_path,
        is_fused=bundle.manifest.graph is GraphKind.FUSED,
        max_model_len=max_model_len,
    )
    if candidate.vocab_size != reference.vocab_size:
        raise BuildError(
            f"{bundle.folder}: has {candidate.vocab_size} logits, the reference has "
            f"{reference.vocab_size}: not the same model"
        )
    return candidate


def _load_reference(folder: Path, max_model_len: int, num_slots: int = 1) -> Graph:
    if not (folder / MODEL).is_file():
        raise BuildError(f"{folder}: no {MODEL} there; give the folder of an fp32 export")
    inputs = {value.name for value in read_graph(folder).graph.input}
    return load_graph(
        folder / MODEL,
        is_fused=FUSED_INPUT in inputs,
        max_model_len=max_model_len,
        num_slots=num_slots,
    )


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


def _windows(bundle: Bundle, text: str) -> TokenIds:
    """Split a text's tokens into windows without common context."""
    manifest = bundle.manifest
    ids = Tokenizer.load(bundle).encode(text)
    bos: list[int] = []
    if manifest.add_bos_token or "bos_token" in (manifest.chat_template or ""):
        # A model that was trained with a BOS token predicts badly without it.
        bos_id = tokenizers.Tokenizer.from_file(str(bundle.tokenizer_path)).token_to_id(
            manifest.bos_token or ""
        )
        bos = [] if bos_id is None else [bos_id]
    size = min(_WINDOW_TOKENS, manifest.limits.max_model_len) - len(bos)
    return [bos + ids[start : start + size] for start in range(0, len(ids), size)]
