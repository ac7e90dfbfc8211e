"""Build a bundle: fetch, export, fuse, quantize, verify, install.

Rule: each step's result is used only when it is complete, so a build that was stopped anywhere
goes on where it was, and a bundle at its final place has passed the gate.
"""

import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edged.builder.calibrate import calibration_ids
from edged.builder.export import Export, count_parameters, estimate_memory_bytes, export
from edged.builder.fetch import Checkpoint, fetch
from edged.builder.fuse import NotFusable, fuse
from edged.builder.install import check_target, install, staging
from edged.builder.measure import Comparison
from edged.builder.progress import Progress
from edged.builder.provenance import context_limit, model_facts, read_config, tool_versions
from edged.builder.quantize import Scheme, quantize
from edged.builder.recipe import Recipe, resolve_source
from edged.builder.store import new_entry, open_entry, seal
from edged.builder.verify import GATE_TEXT, judge, run_gate, table
from edged.bundle import (
    FORMAT,
    MODEL,
    TOKENIZER,
    Bundle,
    GraphKind,
    Manifest,
    ModelFacts,
    ModelLimits,
    QualityLimits,
    Source,
    open_bundle,
    write_manifest,
)
from edged.errors import BuildError, BundleError, UsageError

_MODELS = Path("models")
_SIZE_SHARE = {Scheme.FP32: 1.05, Scheme.INT8_BLOCKWISE: 0.4, Scheme.INT8_W8A8: 0.6}
"""Upper bound of a bundle's size, in parts of the fp32 graph's."""

_UNMEASURED = Comparison(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, tokens=0)


class GateMissedError(BuildError):
    """The bundle is too far from its fp32 reference; the message holds the table."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build ended with."""

    bundle: Bundle
    is_reused: bool
    """Whether the bundle was there already, and nothing had changed."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one build was asked for."""

    recipe: Recipe
    scheme: Scheme
    folder: Path
    cache: Path
    progress: Progress

    @property
    def limits(self) -> QualityLimits:
        return QualityLimits(**asdict(self.recipe.gate))


@dataclass(frozen=True, slots=True)
class _Reference:
    """The fp32 graph that is quantized, and that the result is compared with."""

    folder: Path
    kind: GraphKind


def default_cache() -> Path:
    """Return where downloads and exports are kept: ``$XDG_CACHE_HOME/edged``."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification wants a relative path ignored.
    root = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    return root / "edged"


def build(
    source: str,
    *,
    output: Path | None = None,
    scheme: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build the bundle of a source, or find it built; blocks for seconds to many minutes.

    Args:
        source: a recipe or its name, a Hugging Face folder, a hub id, or a .gguf file.
        output: the bundle's folder; None takes ``models/<name>``, with the scheme behind the name
            when it is not the recipe's.
        scheme: None takes the recipe's.
        cache: None takes ``default_cache()``.
        progress: None shows it on the standard error.

    Raises:
        UsageError: the scheme is not known.
        ConfigError: a recipe has a wrong key.
        GateMissedError: the quality gate missed; the bundle is kept beside its place.
        BuildError: a step cannot go on.
    """
    recipe = resolve_source(source)
    chosen = _scheme(scheme or recipe.scheme)
    name = recipe.name if chosen == recipe.scheme else f"{recipe.name}-{chosen}"
    folder = output or _MODELS / name
    check_target(folder)
    plan = _Plan(recipe, chosen, folder, cache or default_cache(), progress or Progress())
    if recipe.source.sha256 is not None and (found := _reusable(plan, recipe.source.sha256)):
        return BuildResult(found, is_reused=True)
    checkpoint = fetch(recipe, plan.cache, plan.progress)
    if found := _reusable(plan, checkpoint.sha256):
        return BuildResult(found, is_reused=True)
    return BuildResult(_build(plan, checkpoint), is_reused=False)


def _scheme(name: str) -> Scheme:
    try:
        return Scheme(name)
    except ValueError as error:
        raise UsageError(f"scheme {name!r} is not known; one of {', '.join(Scheme)}") from error


def _reusable(plan: _Plan, sha256: str) -> Bundle | None:
    """Return the bundle at its place if a build would make the same one."""
    try:
        bundle = open_bundle(plan.folder)
    except BundleError:
        return None
    manifest = bundle.manifest
    wanted = plan.recipe.max_model_len
    is_same = (
        manifest.source.sha256 == sha256
        and manifest.name == plan.recipe.name
        and manifest.scheme == plan.scheme
        and manifest.tools == tool_versions()
        and manifest.quality.passed
        and manifest.quality.limits == plan.limits
        and wanted in {None, manifest.limits.max_model_len}
    )
    if not is_same:
        return None
    plan.progress.say(f"{plan.folder}: already built ({bundle.model_id})")
    return bundle


def _build(plan: _Plan, checkpoint: Checkpoint) -> Bundle:
    config = read_config(checkpoint.folder)
    limit = context_limit(config, plan.recipe.max_model_len)
    need_gib = estimate_memory_bytes(checkpoint) / 2**30
    plan.progress.say(f"An export of this model takes about {need_gib:.1f} GiB of memory")
    exported = export(checkpoint, plan.cache, plan.progress)
    reference = _fuse(plan, exported, checkpoint.sha256, limit)
    need_bytes = int(_SIZE_SHARE[plan.scheme] * _size_bytes(reference.folder))
    with staging(plan.folder, need_bytes) as partial:
        with plan.progress.step(f"Quantize to {plan.scheme}"):
            is_tuned = plan.scheme is Scheme.INT8_W8A8
            texts = calibration_ids(checkpoint.folder / TOKENIZER, limit) if is_tuned else ()
            report = quantize(reference.folder, partial, plan.scheme, texts)
        for kept in report.kept:
            plan.progress.say(f"Left in fp32: {kept}")
        shutil.copyfile(checkpoint.folder / TOKENIZER, partial / TOKENIZER)
        facts = model_facts(config, count_parameters(checkpoint), reference.folder)
        candidate = write_manifest(
            partial, _manifest(plan, checkpoint, reference.kind, facts, limit)
        )
        quality = run_gate(candidate, reference.folder, plan.cache, plan.progress)
        write_manifest(partial, replace(candidate.manifest, quality=quality))
        plan.progress.say(table(quality))
        if not quality.passed:
            failed = plan.folder.with_name(f"{plan.folder.name}.failed")
            install(partial, failed)
            raise GateMissedError(
                f"{plan.recipe.name}: the quality gate missed; the bundle is not installed, it is "
                f"kept in {failed}; try another scheme or set gate limits in the recipe"
            )
        install(partial, plan.folder)
    return open_bundle(plan.folder)


def _fuse(plan: _Plan, exported: Export, sha256: str, limit: int) -> _Reference:
    """Fuse an export, or find it fused; a family that cannot be is used as exported."""
    folder = plan.cache / "fused" / sha256
    expected = {"tools": tool_versions(), "max_model_len": limit}
    if open_entry(folder) != expected:
        need_bytes = int(1.1 * _size_bytes(exported.folder))
        try:
            with plan.progress.step("Fuse"), new_entry(folder, need_bytes) as partial:
                report = fuse(exported.folder, partial, max_model_len=limit)
                seal(partial, expected)
        except NotFusable as reason:
            plan.progress.say(f"Not fused, so the slower portable graph is taken: {reason}")
            return _Reference(exported.folder, GraphKind.PORTABLE)
        for note in report.notes:
            plan.progress.say(note)
    return _Reference(folder, GraphKind.FUSED)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{MODEL}*"))


def _manifest(
    plan: _Plan, checkpoint: Checkpoint, graph: GraphKind, facts: ModelFacts, limit: int
) -> Manifest:
    """Return the manifest as it is before the gate: not passed, nothing measured."""
    source = plan.recipe.source
    return Manifest(
        format=FORMAT,
        name=plan.recipe.name,
        model=facts,
        source=Source(
            kind=source.kind.value,
            location=source.location,
            revision=checkpoint.revision or source.revision,
            sha256=checkpoint.sha256,
        ),
        licence=checkpoint.licence,
        graph=graph,
        scheme=plan.scheme.value,
        limits=ModelLimits(limit),
        stop_token_ids=checkpoint.stop_token_ids,
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
        add_bos_token=checkpoint.add_bos_token,
        quality=judge(_UNMEASURED, plan.limits, GATE_TEXT),
        tools=tool_versions(),
        files={},
    )
