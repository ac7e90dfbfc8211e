"""Build a bundle: fetch, export, fuse, quantize, verify, install.

Rule: a step's result is used only when it is complete, so an interrupted build resumes at the last
finished step, and an installed bundle has passed the gate.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from edged.builder.calibrate import calibration_ids
from edged.builder.export import (
    count_parameters,
    estimate_memory_bytes,
    export,
    prepare_export,
)
from edged.builder.fetch import Checkpoint, fetch
from edged.builder.install import check_target, install, staging
from edged.builder.progress import Progress
from edged.builder.provenance import context_limit, model_facts, read_config, tool_versions
from edged.builder.quality import GATE_TEXT, check_limits
from edged.builder.quantize import Scheme
from edged.builder.recipe import Recipe, resolve_source
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
    QualityFigures,
    Source,
)
from edged.engine.golden import record
from edged.errors import BuildError, BundleError, UsageError

_MODELS = Path("models")
# Upper bound of a bundle's size, as a fraction of the fp32 graph's.
_SIZE_SHARE = {Scheme.FP32: 1.05, Scheme.INT8_BLOCKWISE: 0.4, Scheme.INT8_W8A8: 0.6}

_UNMEASURED = QualityFigures(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, tokens=0)


class GateMissedError(BuildError):
    """The bundle loses too much quality against its fp32 reference."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build."""

    bundle: Bundle
    is_reused: bool
    """Whether the bundle existed already and nothing had changed."""


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of one build, resolved."""

    recipe: Recipe
    schemes: tuple[Scheme, ...]
    """In the order in which they are tried."""
    kv_type: KvType | None
    folder: Path
    cache: Path
    progress: Progress

    def forms(self, kind: GraphKind) -> list[Form]:
        """Return the forms to try for a kind of graph, the cheapest first."""
        found = [form for s in self.schemes for form in forms(kind, s, self.kv_type)]
        wanted = self.recipe.scaling
        return [form for form in found if wanted in (None, form.scaling)] or found


def default_cache() -> Path:
    """Return the folder of downloads and exports: ``$XDG_CACHE_HOME/edged``."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification ignores a relative path.
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
    """Build the bundle of a source, or reuse it; blocks for seconds to many minutes.

    Args:
        source: a recipe or its name, a Hugging Face folder, a hub id, or a .gguf file.
        output: the bundle's folder; None takes ``models/<name>``, with the scheme behind the name
            when it is not the recipe's.
        scheme: None takes the recipe's; if it names none, the int8 schemes are tried.
        kv_type: of keys and values, int8 only where the gate allows it; None takes the recipe's,
            or ``DEFAULT_KV_TYPE``.
        cache: None takes ``default_cache()``.
        progress: None writes to the standard error.

    Raises:
        UsageError: the scheme is not known.
        ConfigError: a recipe has a wrong key.
        GateMissedError: the bundle misses the quality gate; it is kept in ``<output>.failed``.
        BuildError: a step fails.
    """
    recipe = resolve_source(source)
    chosen = scheme or recipe.scheme
    schemes = (_scheme(chosen),) if chosen else INT8_SCHEMES
    name = recipe.name if scheme in {None, recipe.scheme} else f"{recipe.name}-{scheme}"
    folder = output or _MODELS / name
    check_target(folder)
    request = _Request(
        recipe,
        schemes,
        kv_type or recipe.kv_type,
        folder,
        cache or default_cache(),
        progress or Progress(),
    )
    if recipe.source.sha256 is not None and (found := _reusable(request, recipe.source.sha256)):
        return BuildResult(found, is_reused=True)
    # Of what is converted now, there is no export yet.
    checkpoint = fetch(
        recipe, request.cache, request.progress, lambda: prepare_export(request.cache)
    )
    if found := _reusable(request, checkpoint.sha256):
        return BuildResult(found, is_reused=True)
    return BuildResult(_build(request, checkpoint), is_reused=False)


def _scheme(name: str) -> Scheme:
    try:
        return Scheme(name)
    except ValueError as error:
        raise UsageError(f"scheme {name!r} is not known; one of {', '.join(Scheme)}") from error


def _reusable(request: _Request, sha256: str) -> Bundle | None:
    """Return the installed bundle if a build would make the same one."""
    try:
        bundle = open_bundle(request.folder)
    except BundleError:
        return None
    manifest = bundle.manifest
    wanted = request.recipe.max_model_len
    wanted_forms = request.forms(manifest.graph)
    found = (manifest.scheme, manifest.model.kv_type)
    is_same = (
        manifest.source.sha256 == sha256
        and manifest.name == request.recipe.name
        and found in [(form.scheme, form.kv_type) for form in wanted_forms]
        and manifest.quality.limits == request.recipe.gate
        and manifest.tools == tool_versions()
        and manifest.quality.passed
        # An earlier build may not have been allowed to try the cheapest form.
        and [(tried.scheme, tried.kv_type) for tried in manifest.tries[:1]]
        == [(wanted_forms[0].scheme, wanted_forms[0].kv_type)]
        and wanted in {None, manifest.limits.max_model_len}
    )
    if not is_same:
        return None
    request.progress.say(f"{request.folder}: already built ({bundle.model_id})")
    return bundle


def _build(request: _Request, checkpoint: Checkpoint) -> Bundle:
    config = read_config(checkpoint.folder)
    limit = context_limit(config, request.recipe.max_model_len)
    need_gib = estimate_memory_bytes(checkpoint) / 2**30
    request.progress.say(f"An export of this model takes about {need_gib:.1f} GiB of memory")
    exported = export(checkpoint, request.cache, request.progress)
    reference = make_reference(exported, checkpoint.sha256, limit, request.cache, request.progress)
    share = max(_SIZE_SHARE[scheme] for scheme in request.schemes)
    facts = model_facts(config, count_parameters(checkpoint), reference.folder)
    if max(checkpoint.stop_token_ids) >= facts.vocab_size:
        raise BuildError(
            f"{request.recipe.source.location}: eos_token_id {max(checkpoint.stop_token_ids)} is "
            f"outside the vocabulary of {facts.vocab_size} tokens; correct generation_config.json "
            "or config.json"
        )
    with staging(request.folder, int(share * reference.size_bytes)) as partial:
        shutil.copyfile(checkpoint.folder / TOKENIZER, partial / TOKENIZER)
        task = Task(
            reference,
            calibration_ids(checkpoint.folder / TOKENIZER, limit),
            _manifest(request, checkpoint, reference.kind, facts, limit),
            partial,
            request.cache,
            request.progress,
        )
        if not search(task, request.forms(reference.kind)).manifest.quality.passed:
            failed = request.folder.with_name(f"{request.folder.name}.failed")
            install(partial, failed)
            raise GateMissedError(
                f"{request.recipe.name}: the bundle misses the quality gate and is not installed; "
                f"it is kept in {failed}; try another scheme or set gate limits in the recipe"
            )
        with request.progress.step("Record golden answers"):
            record(open_bundle(partial, verify=False))
        install(partial, request.folder)
    return open_bundle(request.folder)


def _manifest(
    request: _Request, checkpoint: Checkpoint, graph: GraphKind, facts: ModelFacts, limit: int
) -> Manifest:
    """Return the manifest before a form is chosen: not passed, nothing measured."""
    source = request.recipe.source
    return Manifest(
        format=FORMAT,
        name=request.recipe.name,
        model=facts,
        source=Source(
            kind=source.kind.value,
            location=source.location,
            revision=checkpoint.revision or source.revision,
            sha256=checkpoint.sha256,
        ),
        licence=checkpoint.licence,
        graph=graph,
        scheme=request.schemes[0].value,
        limits=ModelLimits(limit),
        stop_token_ids=checkpoint.stop_token_ids,
        chat_template=checkpoint.chat_template,
        bos_token=checkpoint.bos_token,
        eos_token=checkpoint.eos_token,
        add_bos_token=checkpoint.add_bos_token,
        quality=check_limits(_UNMEASURED, request.recipe.gate, GATE_TEXT),
        tools=tool_versions(),
        files={},
    )
