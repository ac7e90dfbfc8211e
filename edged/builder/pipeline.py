"""Build a bundle: fetch, export, fuse, quantize, verify, install.

Rule: each step's result is used only when it is complete, so a build that was stopped anywhere
goes on where it was, and a bundle at its final place has passed the gate.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from edged.builder.calibrate import calibration_ids
from edged.builder.export import count_parameters, estimate_memory_bytes, export
from edged.builder.fetch import Checkpoint, fetch
from edged.builder.install import check_target, install, staging
from edged.builder.judge import GATE_TEXT, judge
from edged.builder.measure import Comparison
from edged.builder.progress import Progress
from edged.builder.provenance import context_limit, model_facts, read_config, tool_versions
from edged.builder.quantize import Scheme
from edged.builder.recipe import GATES, GateLimits, Recipe, resolve_source
from edged.builder.reference import make_reference
from edged.builder.search import INT8_SCHEMES, Form, Task, forms, search
from edged.bundle.folder import Bundle, open_bundle
from edged.bundle.manifest import (
    FORMAT,
    TOKENIZER,
    GraphKind,
    KvType,
    Manifest,
    ModelFacts,
    ModelLimits,
    QualityLimits,
    Source,
)
from edged.errors import BuildError, BundleError, UsageError

_MODELS = Path("models")
_SIZE_SHARE = {
    Scheme.FP32: 1.05,
    Scheme.INT8_BLOCKWISE: 0.4,
    Scheme.INT8_W8A8: 0.6,
    Scheme.INT4: 0.5,
}
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
    schemes: tuple[Scheme, ...]
    """To be tried in this order."""
    kv_type: KvType | None
    folder: Path
    cache: Path
    progress: Progress

    def forms(self, kind: GraphKind) -> list[Form]:
        """Return what is to be tried for a kind of graph, the cheapest first."""
        return [
            form
            for scheme in self.schemes
            for form in forms(kind, scheme, self.kv_type, self._limits(scheme))
        ]

    def _limits(self, scheme: Scheme) -> QualityLimits:
        # A recipe's limits are those of its own scheme; they are no measure for 4 bits.
        is_meant = scheme is not Scheme.INT4 or self.recipe.scheme == Scheme.INT4
        given = self.recipe.gate if is_meant else None
        return QualityLimits(**asdict(given or GATES.get(scheme, GateLimits())))


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
    kv_type: KvType | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Build the bundle of a source, or find it built; blocks for seconds to many minutes.

    Args:
        source: a recipe or its name, a Hugging Face folder, a hub id, or a .gguf file.
        output: the bundle's folder; None takes ``models/<name>``, with the scheme behind the name
            when it is not the recipe's.
        scheme: None takes the recipe's; if it names none, the int8 schemes are tried.
        kv_type: how keys and values are kept, int8 only where the gate allows it; None takes the
            recipe's, or ``DEFAULT_KV_TYPE``.
        cache: None takes ``default_cache()``.
        progress: None shows it on the standard error.

    Raises:
        UsageError: the scheme is not known.
        ConfigError: a recipe has a wrong key.
        GateMissedError: the quality gate missed; the bundle is kept beside its place.
        BuildError: a step cannot go on.
    """
    recipe = resolve_source(source)
    chosen = scheme or recipe.scheme
    schemes = (_scheme(chosen),) if chosen else INT8_SCHEMES
    name = recipe.name if scheme in {None, recipe.scheme} else f"{recipe.name}-{scheme}"
    folder = output or _MODELS / name
    check_target(folder)
    plan = _Plan(
        recipe,
        schemes,
        kv_type or recipe.kv_type,
        folder,
        cache or default_cache(),
        progress or Progress(),
    )
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
    wanted_forms = plan.forms(manifest.graph)
    found = (manifest.scheme, manifest.model.kv_type, manifest.quality.limits)
    is_same = (
        manifest.source.sha256 == sha256
        and manifest.name == plan.recipe.name
        and found in [(form.scheme, form.kv_type, form.limits) for form in wanted_forms]
        and manifest.tools == tool_versions()
        and manifest.quality.passed
        # A cheaper form that was not asked for then may be wanted now.
        and [(made.scheme, made.kv_type) for made in manifest.tries[:1]]
        == [(wanted_forms[0].scheme, wanted_forms[0].kv_type)]
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
    reference = make_reference(exported, checkpoint.sha256, limit, plan.cache, plan.progress)
    share = max(_SIZE_SHARE[scheme] for scheme in plan.schemes)
    facts = model_facts(config, count_parameters(checkpoint), reference.folder)
    with staging(plan.folder, int(share * reference.size_bytes)) as partial:
        shutil.copyfile(checkpoint.folder / TOKENIZER, partial / TOKENIZER)
        task = Task(
            reference,
            calibration_ids(checkpoint.folder / TOKENIZER, limit),
            _manifest(plan, checkpoint, reference.kind, facts, limit),
            partial,
            plan.cache,
            plan.progress,
        )
        if not search(task, plan.forms(reference.kind)).manifest.quality.passed:
            failed = plan.folder.with_name(f"{plan.folder.name}.failed")
            install(partial, failed)
            raise GateMissedError(
                f"{plan.recipe.name}: the quality gate missed; the bundle is not installed, it is "
                f"kept in {failed}; try another scheme or set gate limits in the recipe"
            )
        install(partial, plan.folder)
    return open_bundle(plan.folder)


def _manifest(
    plan: _Plan, checkpoint: Checkpoint, graph: GraphKind, facts: ModelFacts, limit: int
) -> Manifest:
    """Return the manifest before any form is chosen: not passed, nothing measured."""
    source = plan.recipe.source
    form = plan.forms(graph)[0]
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
        scheme=form.scheme.value,
        limits=ModelLimits(limit),
        stop_token_ids=checkpoint.stop_token_ids,
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
        add_bos_token=checkpoint.add_bos_token,
        quality=judge(_UNMEASURED, form.limits, GATE_TEXT),
        tools=tool_versions(),
        files={},
    )
